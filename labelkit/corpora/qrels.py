"""Read grades of query-passage pairs from BEIR's TSV with a header or from TREC qrels."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.rows import _decoded, lines
from labelkit.corpora.scales import expected_grades, grade_on
from labelkit.errors import DataError
from labelkit.storage.names import inside

Qrels = dict[str, dict[str, int]]
"""Query id -> passage id -> grade."""


class QrelsRow(NamedTuple):
    """A grade of a pair."""

    query_id: str
    passage_id: str
    grade: int
    """Grade from 0 to 3."""
    raw_grade: str | None
    """Grade on the scale of the file; None without a scale."""


def qrels_path(folder: Path, split: str) -> Path:
    """Return the qrels file of a split. Raises `DataError`, with the splits that exist, if there is none."""
    path = inside(folder / "qrels", f"{split}.tsv")
    if not path.is_file():
        found = sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))
        raise DataError(f"{path} does not exist; splits of {folder}: {', '.join(found) or 'none'}")
    return path


def read_qrels(path: Path, scale: str | None = None) -> Qrels:
    """Read grades from a BEIR TSV (with header) or a TREC qrels file (`qid 0 docid rel`).

    `scale` is the text of a scale (`read_scale`) if the grades are not 0 to 3. A negative grade (TREC's mark for spam)
    becomes 0. Raises `DataError` for a grade outside the scale, and for a duplicated pair.
    """
    qrels: Qrels = {}
    for row in graded_pairs(path, scale):
        qrels.setdefault(row.query_id, {})[row.passage_id] = row.grade
    return qrels


def graded_pairs(path: Path, scale: str | None = None) -> list[QrelsRow]:
    """Read the rows of a qrels file in file order. Raises `DataError` as `read_qrels` does."""
    found: dict[tuple[str, str], QrelsRow] = {}
    for where, query_id, passage_id, grade, raw_grade in qrels_rows(path, scale):
        if (query_id, passage_id) in found:
            raise DataError(f"{where}: the pair {query_id!r}, {passage_id!r} is duplicated")
        found[query_id, passage_id] = QrelsRow(query_id, passage_id, grade, raw_grade=raw_grade)
    if not found:
        raise DataError(f"{path}: there are no qrels")
    return list(found.values())


def qrels_rows(path: Path, scale: str | None = None) -> Iterator[tuple[str, str, str, int, str | None]]:
    """Yield `file:line` and the fields of `QrelsRow` of each line, in file order."""
    for number, (where, raw) in enumerate(lines(path)):
        if number or not is_header(raw):
            yield where, *qrels_row(raw, where, scale)


def is_header(raw: bytes) -> bool:
    """Return whether the first line of qrels is a header."""
    return raw.split()[-1] == b"score"


def qrels_row(raw: bytes, where: str, scale: str | None = None) -> QrelsRow:
    """Return the grade in a line. Raises `DataError`."""
    line = _decoded(raw, where)
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) == 4:
        query_id, _, passage_id, grade_text = fields
    elif len(fields) == 3:
        query_id, passage_id, grade_text = fields
    else:
        raise DataError(f"{where}: expected 3 columns (BEIR) or 4 (TREC), found {len(fields)}")
    return QrelsRow(query_id, passage_id, grade_from(grade_text, where, scale), raw_grade=scale and grade_text.strip())


def grade_from(text: str, where: str, scale: str | None = None) -> int:
    """Return the grade from 0 to 3 for a grade as text, on the given scale. Raises `DataError` if it is none."""
    grade = grade_on(text, scale)
    if grade is not None:
        return grade
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer() or value >= 0:
        wanted = "a grade" if scale else "a whole number"
        raise DataError(f"{where}: the grade {text!r} is not {wanted} {expected_grades(scale)}")
    return 0
