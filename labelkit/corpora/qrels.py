"""Read grades of query-passage pairs from BEIR's TSV with a header or from TREC qrels."""

import math
from collections.abc import Iterator
from pathlib import Path

from labelkit.corpora.rows import _decoded, lines
from labelkit.errors import DataError
from labelkit.records import MAX_GRADE
from labelkit.storage.names import inside

Qrels = dict[str, dict[str, int]]
"""Query id -> passage id -> grade."""


def qrels_path(folder: Path, split: str) -> Path:
    """Return the qrels file of a split. Raises `DataError`, with the splits that exist, if there is none."""
    path = inside(folder / "qrels", f"{split}.tsv")
    if not path.is_file():
        found = sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))
        raise DataError(f"{path} does not exist; splits of {folder}: {', '.join(found) or 'none'}")
    return path


def read_qrels(path: Path) -> Qrels:
    """Read grades from a BEIR TSV (with header) or a TREC qrels file (`qid 0 docid rel`).

    A negative grade (TREC's mark for spam) becomes 0. Raises `DataError` for a grade that is above 3 or not a whole
    number, and for a duplicated pair.
    """
    qrels: Qrels = {}
    for where, query_id, passage_id, grade in qrels_rows(path):
        graded = qrels.setdefault(query_id, {})
        if passage_id in graded:
            raise DataError(f"{where}: the pair {query_id!r}, {passage_id!r} is duplicated")
        graded[passage_id] = grade
    if not qrels:
        raise DataError(f"{path}: there are no qrels")
    return qrels


def qrels_rows(path: Path) -> Iterator[tuple[str, str, str, int]]:
    """Yield `file:line`, query id, passage id and grade of each line, in file order."""
    for number, (where, raw) in enumerate(lines(path)):
        if number or not is_header(raw):
            yield where, *qrels_row(raw, where)


def is_header(raw: bytes) -> bool:
    """Return whether the first line of qrels is a header."""
    return raw.split()[-1] == b"score"


def qrels_row(raw: bytes, where: str) -> tuple[str, str, int]:
    """Return query id, passage id and grade of a line. Raises `DataError`."""
    line = _decoded(raw, where)
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) == 4:
        query_id, _, passage_id, grade_text = fields
    elif len(fields) == 3:
        query_id, passage_id, grade_text = fields
    else:
        raise DataError(f"{where}: expected 3 columns (BEIR) or 4 (TREC), found {len(fields)}")
    return query_id, passage_id, _grade(grade_text, where)


def _grade(text: str, where: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer() or value > MAX_GRADE:
        raise DataError(f"{where}: the grade {text!r} is not a whole number from 0 to {MAX_GRADE}")
    return max(0, int(value))
