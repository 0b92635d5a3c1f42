"""Formats of sentence-transformers, as Parquet: triplets, n-tuples and labelled lists.

Its trainer reads every column as a text or a label, so ids cannot be stored. An imported text gets an id made from its
hash.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labelkit.corpora.files import file_rows
from labelkit.corpora.rows import text_of
from labelkit.corpora.scales import expected_grades, grade_on
from labelkit.errors import DataError
from labelkit.exchange.formats.base import View, Written
from labelkit.exchange.formats.collecting import Collector, Grading
from labelkit.exchange.formats.grouped import with_positives
from labelkit.exchange.formats.sources import data_files, first_of, list_of, rows_in
from labelkit.storage.folders import PARQUET

QUERIES = ("anchor", "query", "question")
POSITIVES = ("positive", "answer")
NEGATIVES = 4
"""Number of negatives of each n-tuple."""
TEXT = pa.string()


def write_triplets(view: View, folder: Path) -> Written:
    """Write columns anchor, positive, negative: one row for each positive and each negative of a query."""
    left_out = {"queries without positives": 0, "queries without negatives": 0, "ignored passages": 0}

    def rows() -> Iterator[dict[str, str]]:
        for group in with_positives(view, left_out):
            left_out["queries without negatives"] += not group.negatives
            negatives = [view.passage(label[0]).full_text for label in group.negatives]
            for passage_id, *_ in group.positives:
                positive = view.passage(passage_id).full_text
                for negative in negatives:
                    yield {"anchor": group.query, "positive": positive, "negative": negative}

    schema = pa.schema([(name, TEXT) for name in ("anchor", "positive", "negative")])
    return Written({"train.parquet": write_rows(folder / "train.parquet", rows(), schema)}, left_out)


def write_tuples(view: View, folder: Path) -> Written:
    """Write columns anchor, positive, negative_1 to negative_4: one row per positive, with the first 4 negatives of its
    query.

    A query with fewer negatives has no row.
    """
    few, more = f"queries with fewer than {NEGATIVES} negatives", f"negatives after the first {NEGATIVES}"
    left_out = {"queries without positives": 0, few: 0, more: 0, "ignored passages": 0}
    names = [f"negative_{number}" for number in range(1, NEGATIVES + 1)]

    def rows() -> Iterator[dict[str, str]]:
        for group in with_positives(view, left_out):
            if len(group.negatives) < NEGATIVES:
                left_out[few] += 1
                continue
            left_out[more] += len(group.negatives) - NEGATIVES
            texts = [view.passage(label[0]).full_text for label in group.negatives[:NEGATIVES]]
            for passage_id, *_ in group.positives:
                positive = view.passage(passage_id).full_text
                yield {"anchor": group.query, "positive": positive, **dict(zip(names, texts, strict=True))}

    schema = pa.schema([(name, TEXT) for name in ("anchor", "positive", *names)])
    return Written({"train.parquet": write_rows(folder / "train.parquet", rows(), schema)}, left_out)


def write_lists(view: View, folder: Path) -> Written:
    """Write columns query, docs, labels: one row per query, with all its labelled passages and their grades."""
    left_out = {"labels without a grade": 0, "ignored passages": 0}

    def rows() -> Iterator[dict[str, Any]]:
        for group in view.groups():
            left_out["ignored passages"] += group.ignored
            labels = group.positives + group.negatives
            graded = [(view.passage(name).full_text, float(grade)) for name, grade, *_ in labels if grade is not None]
            left_out["labels without a grade"] += len(labels) - len(graded)
            if graded:
                yield {"query": group.query, "docs": [text for text, _ in graded], "labels": [g for _, g in graded]}

    schema = pa.schema([("query", TEXT), ("docs", pa.list_(TEXT)), ("labels", pa.list_(pa.float32()))])
    return Written({"train.parquet": write_rows(folder / "train.parquet", rows(), schema)}, left_out)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> int:
    """Write rows to a Parquet file in batches. Returns the number of rows."""
    count = 0
    with pq.ParquetWriter(path.absolute(), schema, **PARQUET) as writer:
        left = iter(rows)
        while some := list(islice(left, 4096)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def read_tuples(path: Path, collector: Collector, grading: Grading) -> list[Path]:
    """Read pairs, triplets or n-tuples of texts: a query, a positive, and columns or a list of negatives.

    Raises `DataError` for a file without a recognised column of positives, such as pairs of sentences with a score.
    """
    files = data_files(path, grading.split)
    for file in files:
        columns: tuple[str, str] | None = None
        for where, row in file_rows(file):
            query, positive = columns = columns or tuple_columns(row, where)
            query_id = collector.query(None, text_of(row, query, where), where)
            passage_id = collector.passage(None, "", text_of(row, positive, where), where=where)
            collector.label(query_id, passage_id, "positive")
            for key in [key for key in row if key.startswith("negative")]:
                texts = list_of(row, key, "a text", where=where) if key == "negatives" else [text_of(row, key, where)]
                for text in texts:
                    collector.label(query_id, collector.passage(None, "", text, where=where), "negative")
    return files


def tuple_columns(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    """Return the columns of the query and of its positive. Raises `DataError` if one is not recognised."""
    found = []
    for what, names in (("the query", QUERIES), ("the positive", POSITIVES)):
        name = next((name for name in names if name in row), None)
        if name is None:
            columns, wanted = ", ".join(map(repr, row)), " or ".join(map(repr, names))
            raise DataError(f"{where}: found {columns}, wanted {wanted} for {what}; rename the column")
        found.append(name)
    return found[0], found[1]


def read_lists(path: Path, collector: Collector, grading: Grading) -> list[Path]:
    """Read labelled lists, whose labels are grades from 0 to 3 or on the given scale."""
    files = data_files(path, grading.split)
    for where, row in rows_in(files):
        query_id = collector.query(None, text_of(row, first_of(row, ("query", "anchor")), where), where)
        docs = list_of(row, "docs", "a text", where=where)
        labels = list_of(row, "labels", "a finite number", where=where)
        if len(docs) != len(labels):
            raise DataError(f"{where}: {len(docs)} docs and {len(labels)} labels")
        for text, label in zip(docs, labels, strict=True):
            grade = grade_on(str(label), grading.scale)
            if grade is None:
                raise DataError(f"{where}: the label {label} is not an integer grade {expected_grades(grading.scale)}")
            side = "positive" if grade >= grading.positive_grade else "negative"
            passage_id, raw = collector.passage(None, "", text, where=where), grading.scale and str(label)
            collector.label(query_id, passage_id, side, grade=grade, raw_grade=raw)
    return files
