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

from labelkit.corpora.rows import json_lines, text_of
from labelkit.corpora.scales import expected_grades, grade_on
from labelkit.errors import DataError
from labelkit.exchange.formats.base import Collector, Found, Grading, View, Written, judge_of
from labelkit.exchange.formats.grouped import list_of, with_positives
from labelkit.storage.folders import PARQUET

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


def read_tuples(path: Path, name: str, grading: Grading) -> Found:
    """Read triplets or n-tuples (Parquet or JSONL) with columns anchor or query, positive, negative*."""
    collector = Collector()
    files = tuple_files(path)
    for where, row in (found for file in files for found in tuple_rows(file)):
        query_id = collector.query(None, text_of(row, "anchor" if "anchor" in row else "query", where), where)
        for key in [key for key in row if key == "positive" or key.startswith("negative")]:
            passage_id = collector.passage(None, "", text_of(row, key, where), where=where)
            collector.label(query_id, passage_id, "positive" if key == "positive" else "negative")
    return collector.found(judge_of(files, name), path)


def read_lists(path: Path, name: str, grading: Grading) -> Found:
    """Read labelled lists (Parquet or JSONL), whose labels are grades from 0 to 3 or on the given scale."""
    collector = Collector()
    files = tuple_files(path)
    for where, row in (found for file in files for found in tuple_rows(file)):
        query_id = collector.query(None, text_of(row, "query" if "query" in row else "anchor", where), where)
        docs, labels = (
            list_of(row, "docs", "a text", where=where),
            list_of(row, "labels", "a finite number", where=where),
        )
        if len(docs) != len(labels):
            raise DataError(f"{where}: {len(docs)} docs and {len(labels)} labels")
        for text, label in zip(docs, labels, strict=True):
            grade = grade_on(str(label), grading.scale)
            if grade is None:
                raise DataError(f"{where}: the label {label} is not an integer grade {expected_grades(grading.scale)}")
            side = "positive" if grade >= grading.positive_grade else "negative"
            passage_id, raw = collector.passage(None, "", text, where=where), grading.scale and str(label)
            collector.label(query_id, passage_id, side, grade=grade, raw_grade=raw)
    return collector.found(judge_of(files, name, grading.scale), path)


def tuple_files(path: Path) -> list[Path]:
    """List the Parquet and JSONL files at a path: the file itself, or those in the folder."""
    files = [path] if path.is_file() else sorted([*path.glob("*.parquet"), *path.glob("*.jsonl")])
    if not files:
        raise DataError(f"{path} is not a Parquet or JSONL file and contains none")
    return files


def tuple_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a Parquet or JSONL file, each with its place."""
    if path.suffix != ".parquet":
        yield from json_lines(path)
        return
    number = 0
    try:
        with pq.ParquetFile(path.absolute()) as file:
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from None
