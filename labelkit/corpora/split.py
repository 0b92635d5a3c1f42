"""Put the queries of a collection into splits for training and evaluation: `labelkit split`.

A query's split depends on a hash of its id, so it is the same on every machine. Near-duplicate queries are in one
split, and with `--by document` the queries that are answered by the same document are, too. The first query of such a
group in the file decides, so that queries that are added at the end change no other query, unless they connect groups.
"""

import hashlib
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.beir import SKIP, unknown_id
from labelkit.corpora.copies import groups, join, top
from labelkit.corpora.layout import Layout, layout_of
from labelkit.corpora.options import SplitOptions
from labelkit.corpora.places import local_collection
from labelkit.corpora.qrels import BY_MODEL, SOURCE, by_model, read_qrels
from labelkit.corpora.raw_lines import HEADER, Line, grade_lines, passage_lines, query_lines
from labelkit.errors import DataError
from labelkit.storage import folders
from labelkit.storage.manifest import SPLIT, SplitFacts
from labelkit.storage.outputs import refuse_own_input

log = logging.getLogger(__name__)

SPLITS = "splits.tsv"
UNMARKED = "other"
"""Source of grades in qrels beside the grades of models."""
LARGE = 0.1
"""Share of the queries from which a group is reported, since it is in one split as a whole."""


class SplitCounts(NamedTuple):
    """Numbers of queries and judged pairs of `labelkit split`."""

    queries: dict[str, int]
    """Split -> queries."""
    pairs: dict[str, int]
    """Split -> judged pairs."""
    groups: int
    """Groups of queries that are in one split."""
    without_grades: int
    """Queries without judged pairs. They are in no qrels, only in `splits.tsv`."""


class Grades(NamedTuple):
    """The judged pairs of all splits of a collection."""

    raw: dict[str, dict[str, str]]
    """Query -> passage -> grade as the file has it."""
    relevant: dict[str, list[str]]
    """Query -> passages with a grade above 0."""
    by_model: set[str]
    """Queries whose grades a language model gave, as the qrels say."""


def split(
    data: Path | str,
    output: Path | str,
    options: SplitOptions = SplitOptions(),  # noqa: B008 (a frozen record)
    *,
    command: str = "labelkit.split",
) -> SplitCounts:
    """Copy a collection as a BEIR folder whose qrels are divided into `train`, `dev` and `test`.

    The qrels of all splits of the collection are divided again. `splits.tsv` has the split and the group of every
    query; a group is named by its first query.

    Args:
        data: collection; may be at s3://, gs://, hf:// or irds:.
        output: the folder to write.
        options: shares of the splits, and what keeps queries together.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The numbers of queries, pairs and groups.

    Raises:
        DataError: a file is malformed, qrels contradict each other, or name an unknown query or passage.
    """
    folder, target = local_collection(str(data)), Path(output)
    refuse_own_input(target, [folder])
    layout = layout_of(folder)
    queries = list(readable(query_lines(layout.queries, options.fields)))
    names = [line.key[0] for line in queries]
    refuse_repeated(queries)
    grades = read_grades(layout, options.scale)
    with folders.writing(target, SPLIT, command) as draft:
        documents, draft.rows["corpus.jsonl"] = copy_corpus(
            layout, draft.path / "corpus.jsonl", grades, options=options
        )
        check_known(grades, set(names), documents, skip=options.skip_unknown)
        with tempfile.TemporaryDirectory(dir=draft.path) as scratch:
            group = groups(len(queries), lambda number: queries[number].value, Path(scratch))
        near = len(queries) - len(set(group))
        if options.by == "document":
            join_by_document(group, names, grades, documents=documents)
        firsts = [names[top(group, number)] for number in range(len(names))]
        split_of = {name: share_of(first, options.shares) for name, first in zip(names, firsts, strict=True)}
        draft.rows["queries.jsonl"] = write(draft.path / "queries.jsonl", (line.raw for line in queries))
        rows = (f"{name}\t{split_of[name]}\t{first}".encode() for name, first in zip(names, firsts, strict=True))
        write(draft.path / SPLITS, [b"query-id\tsplit\tgroup", *rows])
        counts = write_qrels(draft.path / "qrels", grades, split_of, shares=options.shares)
        draft.rows |= {f"qrels/{name}.tsv": count for name, count in counts.items()}
        read = [*layout.corpus, *layout.queries, *(path for paths in layout.qrels.values() for path in paths)]
        draft.inputs = {str(path): folders.file_sha256(path) for path in read}
        in_split = Counter(split_of.values())
        found = SplitCounts(
            {name: in_split[name] for name, share in options.shares.items() if share},
            counts,
            len(set(firsts)),
            without_grades=sum(not grades.raw.get(name) for name in names),
        )
        draft.facts = SplitFacts(by=options.by, shares=options.shares, near_duplicates=near, **found._asdict())
    warn(found, Counter(firsts).most_common(1)[0], queries=len(names), shares=options.shares)
    return found


def readable(lines: Iterator[Line]) -> Iterator[Line]:
    """Yield the lines with an id. Raises `DataError` for one that cannot be read."""
    for line in lines:
        if line.error:
            raise DataError(f"{line.where}: {line.error}")
        if line.key:
            yield line


def refuse_repeated(queries: list[Line]) -> None:
    """Raise `DataError` for a query id that several queries have."""
    seen: set[str] = set()
    for line in queries:
        if line.key[0] in seen:
            raise DataError(f"{line.where}: query id {line.key[0]!r} is duplicated")
        seen.add(line.key[0])


def read_grades(layout: Layout, scale: str | None) -> Grades:
    """Read the qrels of all splits. Raises `DataError` for malformed lines and for two grades of a pair."""
    raw: dict[str, dict[str, str]] = {}
    relevant: dict[str, list[str]] = {}
    of_models: set[str] = set()
    for paths in layout.qrels.values():
        marked = any(map(by_model, paths))
        for line in readable(grade_lines(paths, scale)):
            query_id, passage_id = line.key
            of_models.update([query_id] if marked else [])
            known = raw.setdefault(query_id, {}).setdefault(passage_id, line.value)
            if known != line.value:
                pair = f"query {query_id!r}, passage {passage_id!r}"
                raise DataError(f"{line.where}: {pair} has the grades {known} and {line.value}; keep one of them")
        for query_id, graded in read_qrels(*paths, scale=scale).items():
            known_ids = relevant.setdefault(query_id, [])
            known_ids += [passage_id for passage_id, grade in graded.items() if grade > 0]
    return Grades(raw, relevant, of_models)


def copy_corpus(layout: Layout, target: Path, grades: Grades, *, options: SplitOptions) -> tuple[dict[str, str], int]:
    """Copy the passages as a BEIR corpus; return the document of each judged passage, and the number of passages."""
    judged = {passage_id for graded in grades.raw.values() for passage_id in graded}
    documents: dict[str, str] = {}

    def rows() -> Iterator[bytes]:
        for line in readable(passage_lines(layout.corpus, options.fields)):
            if line.key[0] in judged:
                documents[line.key[0]] = document_of(line)
            yield line.raw

    return documents, write(target, rows())


def document_of(line: Line) -> str:
    """Return the document of a passage: `source` in its metadata, or the id of the passage if there is none."""
    about = json.loads(line.raw).get("metadata")
    source = about.get("source") if isinstance(about, dict) else None
    return f"document {source}" if isinstance(source, str) and source else f"passage {line.key[0]}"


def check_known(grades: Grades, queries: set[str], passages: dict[str, str], *, skip: bool) -> None:
    """Raise `DataError` for a pair with an unknown query or passage, or with `skip` remove and count such pairs."""
    unknown = [
        (query_id, passage_id)
        for query_id, graded in grades.raw.items()
        for passage_id in graded
        if query_id not in queries or passage_id not in passages
    ]
    if unknown and not skip:
        raise DataError(f"the qrels name an unknown pair: {unknown_id(*unknown[0], queries)}; {SKIP}")
    for query_id, passage_id in unknown:
        del grades.raw[query_id][passage_id]
    if unknown:
        log.warning(f"{len(unknown):,} pairs with an unknown query or passage are left out")


def join_by_document(group: list[int], names: list[str], grades: Grades, *, documents: dict[str, str]) -> None:
    """Unite the groups of queries with relevant passages of the same document."""
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        for passage_id in grades.relevant.get(name, ()):
            if passage_id in documents:
                join(group, number, first.setdefault(documents[passage_id], number))


def share_of(query_id: str, shares: dict[str, float]) -> str:
    """Return the split of a query: its hash, as a number from 0 to 1, falls into the share of the split."""
    place = int.from_bytes(hashlib.sha256(query_id.encode()).digest()[:8], "big") / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return max(shares, key=lambda name: shares[name])  # shares that add up to a little less than 1


def write(path: Path, lines: Iterator[bytes] | list[bytes]) -> int:
    """Write lines to a file; return their number."""
    count = 0
    with path.open("wb") as file:
        for line in lines:
            file.write(line + b"\n")
            count += 1
    return count


def write_qrels(folder: Path, grades: Grades, split_of: dict[str, str], *, shares: dict[str, float]) -> dict[str, int]:
    """Write the qrels of each split; return the number of pairs by split. Grades of models stay marked as such."""
    folder.mkdir()
    counts = {}
    marked = bool(grades.by_model)
    header = HEADER + (f"\t{SOURCE}".encode() if marked else b"")
    for name in [name for name, share in shares.items() if share]:
        pairs = [
            f"{query_id}\t{passage_id}\t{grade}{mark_of(query_id, grades) if marked else ''}".encode()
            for query_id, graded in grades.raw.items()
            if split_of.get(query_id) == name
            for passage_id, grade in graded.items()
        ]
        counts[name] = len(pairs)
        write(folder / f"{name}.tsv", [header, *pairs])
    return counts


def mark_of(query_id: str, grades: Grades) -> str:
    """Return the last column of a query's pairs in qrels that name the source of grades."""
    return f"\t{BY_MODEL if query_id in grades.by_model else UNMARKED}"


def warn(found: SplitCounts, largest: tuple[str, int], *, queries: int, shares: dict[str, float]) -> None:
    """Report what makes the splits less useful: a large group, an empty split, queries without grades."""
    name, size = largest
    if size > 1 and size > LARGE * queries:
        log.warning(f"{size:,} of {queries:,} queries are in one split, with {name!r}: they share documents or texts")
    for split_name, share in shares.items():
        if share and not found.queries.get(split_name):
            log.warning(f"the split {split_name} is empty: {queries:,} queries are too few")
    if found.without_grades:
        log.info(f"{found.without_grades:,} queries have no judged pairs: they are in {SPLITS}, but in no qrels")
