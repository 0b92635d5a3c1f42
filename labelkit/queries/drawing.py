"""Draw passages for queries, so that long documents do not dominate, and leave out texts that nobody would search.

Each document gives one passage before any document gives a second one. The order follows from hashes of ids, so that a
larger sample contains the smaller one.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.fields import PASSAGE_IDS, TEXTS, Fields
from labelkit.corpora.files import column_names, file_rows, names_without_header
from labelkit.corpora.near_duplicates import NEAR, jaccard, normalised
from labelkit.corpora.words import words
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.collection import Collection
from labelkit.records import Passage
from labelkit.storage import tables

DOCUMENT_SCHEMA = pa.schema([("row", pa.int64()), ("document", pa.string())])
DOCUMENTS = ("source", "document", "document_id", "doc_id", "file", "path", "url")
"""Names under which a row, or its `metadata`, names the document of a passage."""
LEAST_WORDS = 12
"""Fewest different words of a passage that says enough for a query."""
HEAD_WORDS, HEAD_CHARACTERS = 200, 2_000
"""Beginning of a passage that is checked."""
SIGNS, REPEATED = 0.35, 0.3
"""Share of digits and signs above which a text is a table or code, and share of different words below which it is a
list that repeats itself.
"""
NOTICE_WORDS = 80
NOTICE = re.compile(
    r"all rights reserved|cookie|terms of (?:use|service)|privacy (?:policy|notice)|newsletter|log ?in\b|"
    r"sign ?(?:in|up)\b|skip to (?:main )?content|page not found|javascript|share this|click here|back to top|"
    r"subscribe",
    re.IGNORECASE,
)
"""Words of menus and notices in English; a short text with two of them is left out."""
NEIGHBOURS = 6
"""Most similar passages among which a second passage is searched."""
QUERY_WORDS = 40
"""Words of a passage by which similar passages are searched."""


class Drawn(NamedTuple):
    """A passage that was drawn."""

    passage: Passage
    neighbour: int | None
    """Row of the next passage of the same document, or of the one before; None if the document has no other."""


class Sample(NamedTuple):
    """The drawn passages in the order in which they were drawn, and the numbers of passages left out by reason."""

    drawn: list[Drawn]
    left_out: dict[str, int]


def draw(
    db: DuckDBPyConnection, collection: Collection, paths: Sequence[Path], *, fields: Fields, count: int, seed: int
) -> Sample:
    """Draw `count` passages, or as many as there are, from the table `corpus` of the session.

    Passages of a document share its name in a column or in `metadata` (see `DOCUMENTS`), else their title; a passage
    with neither is a document of its own.
    """
    tables.stage(db, "documents", DOCUMENT_SCHEMA, rows=documents_in(paths, fields))
    order = f"""
        SELECT row, neighbour, copies FROM (
            SELECT *,
                row_number() OVER (PARTITION BY document ORDER BY md5('{seed} ' || passage_id), row) AS round,
                coalesce(lead(row) OVER within, lag(row) OVER within) AS neighbour,
                count(*) OVER (PARTITION BY md5(lower(concat(title, ' ', text)))) AS copies
            FROM (
                SELECT row, passage_id, title, text,
                    coalesce(nullif(documents.document, ''), nullif(title, ''), passage_id) AS document
                FROM corpus LEFT JOIN documents USING (row))
            WINDOW within AS (PARTITION BY document ORDER BY row))
        ORDER BY round, md5('{seed} ' || document), row"""
    found, left_out = list[Drawn](), Counter[str]()
    rows = db.execute(order)
    while len(found) < count and (part := rows.fetchmany(1024)):
        for row, neighbour, copies in part:
            passage = passage_at(collection, row)
            if reason := unfit(passage.full_text, copies):
                left_out[reason] += 1
                continue
            found.append(Drawn(passage, neighbour))
            if len(found) == count:
                break
    return Sample(found, dict(left_out))


def documents_in(paths: Sequence[Path], fields: Fields) -> Iterator[tuple[int, str | None]]:
    """Yield the row of each passage and the name of its document, for files that name documents."""
    start = 0
    for path in paths:
        given = names_without_header(path, fields, PASSAGE_IDS + TEXTS)
        names = [name for name in column_names(path, given) if name in ("metadata", *DOCUMENTS)]
        number = -1
        for number, (_, row) in enumerate(file_rows(path, given, names or column_names(path, given)[:1])):
            yield start + number, document_of(row) if names else None
        start += number + 1


def document_of(row: dict[str, Any]) -> str | None:
    """Return the name of a passage's document in a row of a corpus; None if it has none."""
    metadata = row.get("metadata")
    for place in (metadata if isinstance(metadata, dict) else {}, row):
        for name in DOCUMENTS:
            if isinstance(place.get(name), str) and place[name]:
                return str(place[name])
    return None


def passage_at(collection: Collection, row: int) -> Passage:
    """Return a passage by its row."""
    ((found),) = collection.passages.slice(row, 1).select(["passage_id", "title", "text"]).to_pylist()
    return Passage(**found)


def unfit(text: str, copies: int = 1) -> str | None:
    """Return why a passage is left out; None for a passage that somebody may search."""
    head = text[:HEAD_CHARACTERS].split()[:HEAD_WORDS]
    different = words(" ".join(head))
    if len(different) < LEAST_WORDS:
        return f"fewer than {LEAST_WORDS} different words"
    if copies > 1:
        return "the same text occurs more than once"
    characters = "".join(head)
    if sum(category(one)[0] in "NPS" for one in characters) > SIGNS * len(characters):
        return "mostly digits and signs"
    if len(head) > NOTICE_WORDS and len(different) < REPEATED * len(head):
        return "repeats the same words"
    if len(head) <= NOTICE_WORDS and len(set(map(str.lower, NOTICE.findall(" ".join(head))))) > 1:
        return "menu or notice of a page"
    return None


def seconds(collection: Collection, engine: Bm25, drawn: Sequence[Drawn]) -> list[Passage | None]:
    """Return a second passage for each drawn one: of the same document if there is one, else the most similar passage
    that is no near-duplicate; None if there is neither.
    """
    near = [None if one.neighbour is None else passage_at(collection, one.neighbour) for one in drawn]
    usable = [None if one is None or unfit(one.full_text) else one for one in near]
    asked = [" ".join(one.passage.full_text.split()[:QUERY_WORDS]) for one in drawn]
    alone = [place for place, one in enumerate(usable) if one is None]
    found = engine.search([asked[place] for place in alone], NEIGHBOURS)
    for place, (rows, _) in zip(alone, found, strict=True):
        others = (passage_at(collection, row) for row in rows.tolist())
        usable[place] = next((one for one in others if pairs_with(drawn[place].passage, one)), None)
    return usable


def pairs_with(passage: Passage, other: Passage) -> bool:
    """Return whether two passages may share a query: the other one is usable and no near-duplicate."""
    if passage.passage_id == other.passage_id or unfit(other.full_text):
        return False
    one, two = normalised(pa.array([passage.full_text, other.full_text])).to_pylist()
    return jaccard(one, two) < NEAR
