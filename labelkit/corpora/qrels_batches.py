"""Read qrels many lines at a time, for files with millions of grades."""

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from labelkit.corpora.qrels import (
    Columns,
    PlacedRow,
    columns_of,
    graded,
    is_table,
    qrels_row,
    qrels_rows,
    report_left_out,
)
from labelkit.corpora.rows import lines
from labelkit.records import MAX_GRADE
from labelkit.storage import tables

GRADE_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("passage_id", pa.string()), ("grade", pa.int8()), ("raw_grade", pa.string())]
)
"""Columns of `QrelsRow`."""
PLAIN = pa.array([str(grade) for grade in range(MAX_GRADE + 1)])
"""Grades as nearly all files write them."""
UNUSUAL = re.compile(rb"[\x00\x0b-\x0d\x1c-\x1f]")
"""White space besides space, tab and line end; and NUL."""
AT_ONCE = 65_536
"""Number of lines parsed at a time."""


def qrels_batches(path: Path, *, scale: str | None = None, spam: bool = False) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `qrels_rows` in batches with the columns of `GRADE_SCHEMA`, in file order.

    Lines that are written plainly, as nearly all are, are parsed together.
    """
    if scale is not None or is_table(path):
        rows = qrels_rows(path, scale=scale, spam=spam)
        yield from tables.batches_of(GRADE_SCHEMA, (row[1:] for row in rows))
        return
    found, left_out = lines(path), Counter[int]()
    first = next(found, None)
    if first is None:
        return
    form = columns_of(first[1])
    block = [] if form.header else [first]
    while block := block + list(islice(found, AT_ONCE - len(block))):
        if plain := _plain([raw for _, raw in block], form):
            yield plain
        else:
            placed = (PlacedRow(where, *qrels_row(raw, where, form)) for where, raw in block)
            yield from tables.batches_of(GRADE_SCHEMA, (row[1:] for row in graded(placed, left_out, spam=spam)))
        block = []
    report_left_out(path, left_out)


def _plain(raw: Sequence[bytes], form: Columns) -> pa.RecordBatch | None:
    """Parse lines of equal form whose grade is one digit; None if any line has another form."""
    block = b"\n".join(raw) + b"\n"
    tabs = b"\t" in block
    # Without tabs, fields end at any white space; Arrow's parser knows only one character that ends a field.
    if UNUSUAL.search(block) or (b" " in block if tabs else not block.isascii()):
        return None
    names = [f"f{place}" for place in range(form.header or 4)]
    split = csv.ParseOptions(delimiter="\t" if tabs else " ", quote_char=False, ignore_empty_lines=False)
    reading = csv.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=len(block) + 1)
    text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    try:
        table = csv.read_csv(io.BytesIO(block), read_options=reading, parse_options=split, convert_options=text)
    except pa.ArrowException:
        return None
    if table.num_columns not in ((form.header,) if form.header else (3, 4)) or table.num_rows != len(raw):
        return None
    places = form.places if form.header or table.num_columns == 3 else (0, 2, 3)
    query_ids, passage_ids, grades = (table.column(place).combine_chunks() for place in places)
    if not pc.all(pc.is_in(grades, PLAIN)).as_py():
        return None
    if pc.any(pc.or_(pc.equal(query_ids, ""), pc.equal(passage_ids, ""))).as_py():
        return None
    columns = [query_ids, passage_ids, grades.cast(pa.int8()), pa.nulls(len(raw), pa.string())]
    return pa.RecordBatch.from_arrays(columns, schema=GRADE_SCHEMA)
