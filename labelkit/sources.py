"""Read corpora, queries, qrels and runs.

The BEIR folder is the layout everywhere data is asked for: `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl`
(`_id`, `text`) and `qrels/<split>.tsv` (header `query-id corpus-id score`). TREC qrels and runs are read too. A
malformed line stops the reading with its file and line number: nothing is skipped in silence. `labelkit tidy` sets such
lines aside.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import DataError
from labelkit.schema import MAX_GRADE, Passage, Query

Qrels = dict[str, dict[str, int]]
"""Query id -> passage id -> grade."""
Run = dict[str, dict[str, float]]
"""Query id -> passage id -> score, in rank order."""
LINE_BYTES = 64 << 20
"""The longest line that is read."""


class Data(NamedTuple):
    """A retrieval collection. `qrels` is empty where no split was asked for."""

    corpus: dict[str, Passage]
    queries: dict[str, Query]
    qrels: Qrels


def read_data(folder: Path, split: str | None = None) -> Data:
    """Read a BEIR folder; with `split`, also its qrels, and keep just the queries that these judge.

    Raises `DataError` where a file is missing, a line is malformed, an id stands twice, the corpus is empty, or the
    qrels name a query or passage that is not there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give a BEIR folder with corpus.jsonl and queries.jsonl")
    corpus = read_corpus(folder / "corpus.jsonl")
    queries = read_queries(folder / "queries.jsonl")
    if split is None:
        return Data(corpus, queries, {})
    path = qrels_path(folder, split)
    qrels = read_qrels(path)
    check_ids(qrels, queries, corpus, str(path))
    return Data(corpus, {query_id: queries[query_id] for query_id in qrels}, qrels)


def qrels_path(folder: Path, split: str) -> Path:
    """The qrels file of a split; its absence is reported together with the splits that exist."""
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        found = sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))
        raise DataError(f"{path} does not exist; splits of {folder}: {', '.join(found) or 'none'}")
    return path


def read_corpus(path: Path) -> dict[str, Passage]:
    """Passages by id, in file order."""
    corpus: dict[str, Passage] = {}
    for where, passage_id, title, text in corpus_rows(path):
        if passage_id in corpus:
            raise DataError(f"{where}: passage id {passage_id!r} stands twice")
        corpus[passage_id] = Passage(passage_id=passage_id, title=title, text=text)
    if not corpus:
        raise DataError(f"{path}: the corpus is empty")
    return corpus


def corpus_rows(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """`file:line`, id, title and text of each passage, as they come; whether an id stands twice is not looked at."""
    for where, raw in lines(path):
        yield where, *corpus_row(raw, where)


def corpus_row(raw: bytes, where: str) -> tuple[str, str, str]:
    """Id, title and text in a line. Raises `DataError`."""
    row = _json(raw, where)
    title = text_of(row, "title", where) if row.get("title") is not None else ""
    return text_of(row, "_id", where), title, text_of(row, "text", where)


def read_queries(path: Path) -> dict[str, Query]:
    """Queries by id, in file order."""
    queries: dict[str, Query] = {}
    for where, query_id, text in query_rows(path):
        if query_id in queries:
            raise DataError(f"{where}: query id {query_id!r} stands twice")
        queries[query_id] = Query(query_id=query_id, text=text)
    if not queries:
        raise DataError(f"{path}: there are no queries")
    return queries


def query_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """`file:line`, id and text of each query, as they come."""
    for where, raw in lines(path):
        yield where, *query_row(raw, where)


def query_row(raw: bytes, where: str) -> tuple[str, str]:
    """Id and text in a line. Raises `DataError`."""
    row = _json(raw, where)
    return text_of(row, "_id", where), text_of(row, "text", where)


def read_qrels(path: Path) -> Qrels:
    """Grades from a BEIR TSV (with header) or a TREC qrels file (`qid 0 docid rel`).

    A negative grade (TREC's mark for spam) becomes 0; one above 3 or not a whole number is an error, and so is a pair
    that stands twice.
    """
    qrels: Qrels = {}
    for where, query_id, passage_id, grade in qrels_rows(path):
        graded = qrels.setdefault(query_id, {})
        if passage_id in graded:
            raise DataError(f"{where}: the pair {query_id!r}, {passage_id!r} stands twice")
        graded[passage_id] = grade
    if not qrels:
        raise DataError(f"{path}: there are no qrels")
    return qrels


def qrels_rows(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """`file:line`, query id, passage id and grade of each line, as they come."""
    for number, (where, raw) in enumerate(lines(path)):
        if number or not is_header(raw):
            yield where, *qrels_row(raw, where)


def is_header(raw: bytes) -> bool:
    """Whether the first line of qrels names its columns."""
    return raw.split()[-1] == b"score"


def qrels_row(raw: bytes, where: str) -> tuple[str, str, int]:
    """Query id, passage id and grade in a line. Raises `DataError`."""
    line = _decoded(raw, where)
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) == 4:
        query_id, _, passage_id, grade_text = fields
    elif len(fields) == 3:
        query_id, passage_id, grade_text = fields
    else:
        raise DataError(f"{where}: expected 3 columns (BEIR) or 4 (TREC), found {len(fields)}")
    return query_id, passage_id, _grade(grade_text, where)


def read_run(path: Path) -> Run:
    """A TREC run (`qid Q0 docid rank score tag`): scores by query, highest first, ties in file order."""
    run: Run = {}
    for where, line in text_lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise DataError(f"{where}: expected 6 columns (qid Q0 docid rank score tag), found {len(fields)}")
        try:
            score = float(fields[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(f"{where}: the score {fields[4]!r} is not a finite number")
        ranked = run.setdefault(fields[0], {})
        if fields[2] in ranked:
            raise DataError(f"{where}: the pair {fields[0]!r}, {fields[2]!r} stands twice")
        ranked[fields[2]] = score
    return {qid: dict(sorted(ranked.items(), key=lambda item: -item[1])) for qid, ranked in run.items()}


def check_ids(
    pairs: Mapping[str, Iterable[str]],
    queries: Mapping[str, Query],
    corpus: Mapping[str, Passage],
    where: str,
) -> None:
    """Raise where `pairs` (qrels or a run) name a query or passage that the collection does not hold."""
    for query_id, passage_ids in pairs.items():
        if query_id not in queries:
            raise DataError(f"{where}: query id {query_id!r} is not in queries.jsonl")
        for passage_id in passage_ids:
            if passage_id not in corpus:
                raise DataError(f"{where}: passage id {passage_id!r} (query {query_id!r}) is not in corpus.jsonl")


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """`file:line` and bytes, without their end, of every line that is not blank.

    Only LF and CRLF end a line: U+2028 and U+0085 are text. Of a line over `LINE_BYTES` a byte more than that is given.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_BYTES + 2):
            number += 1
            end = raw
            while not end.endswith(b"\n") and (end := file.readline(LINE_BYTES)):
                """The rest of a line that is too long."""
            line = raw.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").removesuffix(b"\n").removesuffix(b"\r")
            if line.strip():
                yield f"{path}:{number}", line


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """`file:line` and text of every line that is not blank."""
    return ((where, _decoded(raw, where)) for where, raw in lines(path))


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`file:line` and object of every line of a JSONL file."""
    return ((where, _json(raw, where)) for where, raw in lines(path))


def _decoded(raw: bytes, where: str) -> str:
    if len(raw) > LINE_BYTES:
        raise DataError(f"{where}: the line is longer than {LINE_BYTES >> 20} MB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _json(raw: bytes, where: str) -> dict[str, Any]:
    """The object in a line of JSONL."""
    try:
        row = json.loads(_decoded(raw, where), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object each of whose keys stands once: nobody knows which of two values is meant."""
    row = dict(fields)
    if len(row) < len(fields):
        twice = next(name for name, count in Counter(name for name, _ in fields).items() if count > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return row


def text_of(row: Mapping[str, Any], field: str, where: str) -> str:
    """The text in a field of a row. Raises `DataError` where it is none, or an id is empty."""
    value = row.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} must be text, found {json.dumps(value)[:40]}")
    if not encodable(value):
        raise DataError(f"{where}: field {field!r} holds a lone surrogate, which is no text")
    if field == "_id" and not value:
        raise DataError(f"{where}: the id is empty")
    return value


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text: JSON may spell a lone surrogate, which it cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _grade(text: str, where: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer() or value > MAX_GRADE:
        raise DataError(f"{where}: the grade {text!r} is not a whole number from 0 to {MAX_GRADE}")
    return max(0, int(value))
