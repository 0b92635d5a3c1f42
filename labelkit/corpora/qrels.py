"""Read grades of query-passage pairs: TREC qrels, or tables with columns such as query-id, corpus-id and score.

A grade says what the judgment means: 0 to 3 are grades; -1 marks a pair that was pooled but not judged, and -2 marks
spam (TREC Web Track). Pairs with -1 or -2 are left out and counted; spam becomes grade 0 only on request.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.fields import GradeColumns, grade_columns
from labelkit.corpora.files import READERS, column_names, file_rows, form_of, lazy_rows
from labelkit.corpora.rows import decoded, id_of, lines, text_lines
from labelkit.corpora.scales import OPTION, expected_grades, grade_on, same
from labelkit.errors import DataError, UsageError
from labelkit.records import PairIds

log = logging.getLogger(__name__)

Qrels = dict[str, dict[str, int]]
"""Query id -> passage id -> grade."""
UNJUDGED, SPAM = -1, -2
SOURCE, BY_MODEL = "source", "llm"
"""Column of qrels that says who gave the grades, and its value for grades of a language model."""
MEANINGS = {UNJUDGED: "pooled but not judged", SPAM: "spam"}


class QrelsRow(NamedTuple):
    """A grade of a pair."""

    query_id: str
    passage_id: str
    grade: int
    """Grade from 0 to 3; in `marked_rows` also -1 and -2."""
    raw_grade: str | None
    """Grade on the scale of the file; None without a scale."""


class PlacedRow(NamedTuple):
    """A grade of a pair with its place, `file:line`."""

    where: str
    query_id: str
    passage_id: str
    grade: int
    raw_grade: str | None


class Columns(NamedTuple):
    """The form of the lines of a qrels file."""

    header: int
    """Number of columns that the first line names; 0 without a header."""
    tabs: bool
    """The header separates columns by tabs, so that an id may contain a space."""
    places: tuple[int, int, int]
    """Places of query id, passage id and grade in a line."""


def read_qrels(*paths: Path, scale: str | None = None, spam: bool = False, option: str = OPTION) -> Qrels:
    """Read the grades of qrels files.

    `scale` is the text of a scale (`read_scale`) if the grades are not 0 to 3, and `option` the name of its option.
    With `spam`, grade -2 becomes 0. Raises `DataError` for a grade outside the scale, and for a duplicated pair.
    """
    qrels: Qrels = {}
    for row in graded_pairs(*paths, scale=scale, spam=spam, option=option):
        qrels.setdefault(row.query_id, {})[row.passage_id] = row.grade
    return qrels


def graded_pairs(*paths: Path, scale: str | None = None, spam: bool = False, option: str = OPTION) -> list[QrelsRow]:
    """Read the rows of qrels files in file order. Raises `DataError` as `read_qrels` does."""
    found: dict[PairIds, QrelsRow] = {}
    for placed in qrels_rows(*paths, scale=scale, spam=spam, option=option):
        row = QrelsRow(placed.query_id, placed.passage_id, placed.grade, raw_grade=placed.raw_grade)
        if row[:2] in found:
            raise DataError(f"{placed.where}: the pair {row.query_id!r}, {row.passage_id!r} is duplicated")
        found[row[:2]] = row
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: there are no qrels")
    return list(found.values())


def qrels_rows(*paths: Path, scale: str | None = None, spam: bool = False, option: str = OPTION) -> Iterator[PlacedRow]:
    """Yield the graded pairs in file order. Pairs with grade -1, and without `spam` with -2, are counted in the log."""
    for path in paths:
        left_out: Counter[int] = Counter()
        yield from graded(marked_rows(path, scale, option), left_out, spam=spam)
        report_left_out(path, left_out)


def graded(rows: Iterable[PlacedRow], left_out: Counter[int], *, spam: bool) -> Iterator[PlacedRow]:
    """Yield the graded pairs among all pairs, and count the others by their grade in `left_out`."""
    for row in rows:
        if row.grade >= 0:
            yield row
        elif spam and row.grade == SPAM:
            yield row._replace(grade=0)
        else:
            left_out[row.grade] += 1


def report_left_out(path: Path, left_out: Counter[int]) -> None:
    """Log the numbers of pairs with grade -1 and -2 that were left out."""
    for grade, count in sorted(left_out.items(), reverse=True):
        cure = "; labelkit import --spam makes them grade 0" if grade == SPAM else ""
        log.warning(f"{path}: {count:,} pairs of grade {grade} ({MEANINGS[grade]}) are left out{cure}")


def marked_rows(path: Path, scale: str | None = None, option: str = OPTION) -> Iterator[PlacedRow]:
    """Yield all pairs of a qrels file, also with grade -1 and -2. Raises `DataError`."""
    return (PlacedRow(where, *graded()) for where, graded in lazy_grades(path, scale, option))


def lazy_grades(
    path: Path, scale: str | None = None, option: str = OPTION
) -> Iterator[tuple[str, Callable[[], QrelsRow]]]:
    """Yield the place of each pair, and a function that returns its grade or raises `DataError` for a malformed row."""
    if is_table(path):
        if names := column_names(path):
            columns = grade_columns(names, str(path))
            for where, row in lazy_rows(path, (), [name for name in columns if name]):
                yield (
                    where,
                    lambda row=row, where=where: grade_in(  # type: ignore[misc]
                        row(), columns, where, scale=scale, option=option
                    ),
                )
        return
    form = None
    for where, raw in lines(path):
        if form is None and (form := columns_of(raw, scale)).header:
            continue
        yield where, partial(qrels_row, raw, where, form, scale=scale, option=option)


def by_model(path: Path) -> bool:
    """Return whether a qrels file says that a language model gave its grades, as the qrels of `labelkit queries` do."""
    if is_table(path):
        names = column_names(path)
        return SOURCE in names and any(row[SOURCE] == BY_MODEL for _, row in file_rows(path, (), [SOURCE]))
    rows = (line.split("\t" if "\t" in line else None) for _, line in text_lines(path))
    header = next(rows, [])
    return SOURCE in header and any((SOURCE, BY_MODEL) in zip(header, row, strict=False) for row in rows)


def refuse_model_grades(path: Path) -> None:
    """Raise `UsageError` for a qrels file with grades of a language model where grades of people are needed."""
    if by_model(path):
        raise UsageError(
            f"{path}: a language model gave these grades, so they are no human grades; read them with labelkit import "
            "--kind llm, or annotate the pool of these queries with a judge"
        )


def is_table(path: Path) -> bool:
    """Return whether a qrels file is a table with named columns; other files are text with tabs or spaces."""
    return form_of(path) in READERS and form_of(path) != ".tsv"


def grade_in(
    row: Mapping[str, Any], columns: GradeColumns, where: str, *, scale: str | None, option: str = OPTION
) -> QrelsRow:
    """Return the grade in a row of a table. Raises `DataError`."""
    text = "1" if columns.grade is None else str(row.get(columns.grade))
    grade = grade_from(text, where, None if columns.grade is None else scale, option=option)
    query_id, passage_id = id_of(row, columns.query, where), id_of(row, columns.passage, where)
    return QrelsRow(query_id, passage_id, grade, raw_grade=scale and text.strip())


def columns_of(raw: bytes, scale: str | None = None) -> Columns:
    """Return the form of a qrels file by its first line: it is a header if it has three columns or more, all of them
    words without digits, and if the last is no grade of the scale.

    The names of a header say where the columns are; with unknown words, their order is query, passage, grade.
    """
    line = raw.decode("utf-8", errors="replace").strip()
    cells = [cell.strip() for cell in (line.split("\t") if "\t" in line else line.split())]
    header = len(cells) >= 3 and all(re.fullmatch(r"[^\W\d][^\d]*", cell) for cell in cells)
    if not header or cells[-1].lower() in ("nan", "inf", "infinity") or grade_on(cells[-1], scale) is not None:
        return Columns(0, False, places=(0, 1, 2))
    try:
        named = [cells.index(str(name)) for name in grade_columns(cells, "")]
    except (DataError, ValueError):
        named = [0, len(cells) - 2, len(cells) - 1]
    query, passage, grade = named
    return Columns(len(cells), "\t" in line, places=(query, passage, grade))


def qrels_row(raw: bytes, where: str, columns: Columns, *, scale: str | None = None, option: str = OPTION) -> QrelsRow:
    """Return the grade in a line. Raises `DataError`."""
    line = decoded(raw, where)
    fields = line.split("\t") if "\t" in line else line.split()
    spaced = [field for field in fields if field.strip() and field.split() != [field]]
    if "\t" in line and not columns.tabs and any(grade_on(field, scale) is None for field in spaced):
        raise DataError(
            f"{where}: the line mixes tabs and spaces; separate all columns by tabs or all by spaces (an id with a "
            "space needs a header line with tabs)"
        )
    if columns.header and len(fields) != columns.header:
        raise DataError(f"{where}: expected {columns.header} columns as in the header, found {len(fields)}")
    if not columns.header and len(fields) not in (3, 4):
        raise DataError(f"{where}: expected 3 columns (BEIR) or 4 (TREC), found {len(fields)}")
    query, passage, grade = columns.places if columns.header or len(fields) == 3 else (0, 2, 3)
    if not fields[query] or not fields[passage]:
        raise DataError(f"{where}: the id is empty")
    text = fields[grade]
    grade = grade_from(text, where, scale, option=option)
    return QrelsRow(fields[query], fields[passage], grade, raw_grade=scale and text.strip())


def grade_from(text: str, where: str, scale: str | None = None, *, option: str = OPTION) -> int:
    """Return the grade from 0 to 3 for a grade as text, on the given scale; -1 (not judged) and -2 (spam) stay.

    Raises `DataError` for any other text.
    """
    grade = grade_on(text, scale)
    if grade is not None:
        return grade
    mark = next((mark for mark in MEANINGS if same(text) == str(mark)), None)
    if mark is None:
        wanted = "a grade" if scale else "a whole number"
        raise DataError(f"{where}: the grade {text!r} is not {wanted} {expected_grades(scale, option)}")
    return mark
