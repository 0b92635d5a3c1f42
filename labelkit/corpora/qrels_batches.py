"""Read qrels many lines at a time, for files with millions of grades."""

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from labelkit.corpora.qrels import (
    MEANINGS,
    SPAM,
    Columns,
    PlacedRow,
    columns_of,
    graded,
    is_table,
    qrels_row,
    qrels_rows,
    report_left_out,
)
from labelkit.corpora.rows import LINE_BYTES, lines, opened
from labelkit.records import MAX_GRADE
from labelkit.storage import tables

GRADE_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("passage_id", pa.string()), ("grade", pa.int8()), ("raw_grade", pa.string())]
)
"""Columns of `QrelsRow`."""
PLAIN = pa.array([str(grade) for grade in (*range(MAX_GRADE + 1), *MEANINGS)])
"""Grades as nearly all files write them."""
UNUSUAL = re.compile(r"[^\S\t\n ]|\x00")
"""White space besides space, tab and line end; and NUL."""
BLOCK = 4 << 20
"""Number of bytes parsed at a time."""


def qrels_batches(path: Path, *, scale: str | None = None, spam: bool = False) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `qrels_rows` in batches with the columns of `GRADE_SCHEMA`, in file order.

    Lines that are written plainly, as nearly all are, are parsed together.
    """
    if scale is not None or is_table(path):
        rows = qrels_rows(path, scale=scale, spam=spam)
        yield from tables.batches_of(GRADE_SCHEMA, (row[1:] for row in rows))
        return
    first = next(lines(path), None)
    if first is None:
        return
    form, left_out = columns_of(first[1]), Counter[int]()
    header = number_of(first[0]) if form.header else 0
    read = 0
    for block in blocks(path):
        below = block.split(b"\n", header - read)[-1] if read < header else block
        plain = _plain(below, form)
        if plain is None:
            break
        yield _graded(plain, left_out, spam=spam)
        read += block.count(b"\n")
    else:
        report_left_out(path, left_out)
        return
    left = ((where, raw) for where, raw in lines(path) if number_of(where) > max(read, header))
    rows = (PlacedRow(where, *qrels_row(raw, where, form)) for where, raw in left)
    yield from tables.batches_of(GRADE_SCHEMA, (row[1:] for row in graded(rows, left_out, spam=spam)))
    report_left_out(path, left_out)


def number_of(where: str) -> int:
    """Return the line number in `file:line`."""
    return int(where.rpartition(":")[2])


def blocks(path: Path) -> Iterator[bytes]:
    """Yield a file in blocks of whole lines, with LF at their ends. A line that is too long gives a block of NUL."""
    with opened(path) as file:
        left = file.read(3).removeprefix(b"\xef\xbb\xbf")
        while chunk := file.read(BLOCK):
            whole, end, left = (left + chunk).rpartition(b"\n")
            if len(left) > LINE_BYTES:
                left = b"\0"
            yield whole.replace(b"\r\n", b"\n").removesuffix(b"\r") + end
    yield left.removesuffix(b"\r")


def _plain(block: bytes, form: Columns) -> pa.RecordBatch | None:
    """Parse lines of equal form whose grade is one digit, -1 or -2; None if any line has another form."""
    tabs = b"\t" in block
    try:
        # Without tabs, fields end at any white space; Arrow's parser knows only one character that ends a field.
        if UNUSUAL.search(block.decode()) or (tabs and b" " in block):
            return None
    except UnicodeDecodeError:
        return None
    if not block.strip():
        return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in GRADE_SCHEMA], schema=GRADE_SCHEMA)
    names = [f"f{place}" for place in range(form.header or 4)]
    split = csv.ParseOptions(delimiter="\t" if tabs else " ", quote_char=False)
    reading = csv.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=len(block) + 1)
    text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    try:
        table = csv.read_csv(io.BytesIO(block), read_options=reading, parse_options=split, convert_options=text)
    except pa.ArrowException:
        return None
    if table.num_columns not in ((form.header,) if form.header else (3, 4)):
        return None
    places = form.places if form.header or table.num_columns == 3 else (0, 2, 3)
    query_ids, passage_ids, grades = (table.column(place).combine_chunks() for place in places)
    if not pc.all(pc.is_in(grades, PLAIN)).as_py():
        return None
    if pc.any(pc.or_(pc.equal(query_ids, ""), pc.equal(passage_ids, ""))).as_py():
        return None
    columns = [query_ids, passage_ids, grades.cast(pa.int8()), pa.nulls(len(grades), pa.string())]
    return pa.RecordBatch.from_arrays(columns, schema=GRADE_SCHEMA)


def _graded(batch: pa.RecordBatch, left_out: Counter[int], *, spam: bool) -> pa.RecordBatch:
    """Keep the graded pairs of a batch, as `graded` does."""
    if pc.all(pc.greater_equal(batch["grade"], 0)).as_py() in (True, None):
        return batch
    if spam:
        grades = pc.if_else(pc.equal(batch["grade"], SPAM), pa.scalar(0, pa.int8()), batch["grade"])
        batch = batch.set_column(2, GRADE_SCHEMA.field("grade"), grades)
    kept = pc.greater_equal(batch["grade"], 0)
    left_out.update(batch.filter(pc.invert(kept))["grade"].to_pylist())
    return batch.filter(kept)
