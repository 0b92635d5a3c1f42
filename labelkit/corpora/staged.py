"""Stage files as tables of a DuckDB session: rows are streamed, and a duplicate is refused with its file and line."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.beir import Data
from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.fields import USUAL, Fields
from labelkit.corpora.layout import layout_of
from labelkit.corpora.qrels import qrels_rows
from labelkit.corpora.qrels_batches import GRADE_SCHEMA, qrels_batches
from labelkit.corpora.queries import query_rows
from labelkit.errors import DataError
from labelkit.records import PASSAGE_SCHEMA, QUERY_SCHEMA, Passage, Query
from labelkit.storage import tables

RowStream = Callable[[], Iterator[tuple[Any, ...]]]
"""Function that reads a file from its start and yields `file:line` and the fields of each row."""
NAMES = {("passage_id",): "passage id", ("query_id",): "query id", ("query_id", "passage_id"): "the pair"}
"""Columns that identify a row -> their name in messages."""


def stage_texts(db: DuckDBPyConnection, folder: Path, fields: Fields = USUAL) -> None:
    """Make the tables `corpus` and `queries` of a collection. Raises `DataError` as `read_data` does."""
    layout = layout_of(folder)
    corpus, queries = layout.corpus, layout.queries
    stage_once(db, "corpus", PASSAGE_SCHEMA, rows=lambda: corpus_rows(*corpus, fields=fields), key=("passage_id",))
    stage_once(db, "queries", QUERY_SCHEMA, rows=lambda: query_rows(*queries, fields=fields), key=("query_id",))
    for paths, table in ((corpus, "corpus"), (queries, "queries")):
        if not tables.row(db, f"FROM {table}"):
            raise DataError(f"{paths[0]} is empty")


def read_texts(folder: Path, pairs: Mapping[str, Iterable[str]]) -> Data:
    """Read the texts of some pairs of a collection, query id -> passage ids; an unknown id has no text.

    Raises `DataError` as `read_data` does.
    """
    passage_ids = sorted({passage_id for ids in pairs.values() for passage_id in ids})
    with tables.temporary() as db:
        stage_texts(db, folder)
        found: dict[str, list[dict[str, Any]]] = {}
        for table, key, ids in (("corpus", "passage_id", passage_ids), ("queries", "query_id", pairs)):
            tables.stage(db, "wanted", pa.schema([(key, pa.string())]), rows=((one,) for one in ids))
            found[table] = db.sql(f"FROM {table} SEMI JOIN wanted USING ({key})").to_arrow_table().to_pylist()
    corpus = {row["passage_id"]: Passage(**row) for row in found["corpus"]}
    return Data(corpus, {row["query_id"]: Query(**row) for row in found["queries"]}, {})


def stage_once(db: DuckDBPyConnection, table: str, schema: pa.Schema, rows: RowStream, key: tuple[str, ...]) -> None:
    """Make a table from the rows of a file. Raises `DataError` with file and line of a duplicate key."""
    tables.stage(db, table, schema, rows=(tuple(row[1:]) for row in rows()))
    refuse_duplicates(db, table, rows, key=key)


def stage_grades(
    db: DuckDBPyConnection, table: str, path: Path, *, scale: str | None = None, spam: bool = False
) -> None:
    """Make the table of a qrels file with the columns of `GRADE_SCHEMA`. Raises `DataError` as `read_qrels` does."""
    tables.stage_batches(db, table, GRADE_SCHEMA, batches=qrels_batches(path, scale=scale, spam=spam))
    rows: RowStream = lambda: qrels_rows(path, scale=scale, spam=spam)  # noqa: E731
    refuse_duplicates(db, table, rows, key=("query_id", "passage_id"))
    if not tables.row(db, f"FROM {table}"):
        raise DataError(f"{path}: there are no qrels")


def refuse_duplicates(db: DuckDBPyConnection, table: str, rows: RowStream, key: tuple[str, ...]) -> None:
    """Raise `DataError` with file and line of a key that a table has twice; `rows` reads the file of the table."""
    names = ", ".join(key)
    # Hashes need less memory than ids; the few equal hashes are compared by their ids.
    hashes = f"SELECT hash({names}) AS digest FROM {table} GROUP BY digest HAVING count(*) > 1"
    if not tables.row(db, hashes):
        return
    if twice := tables.row(db, f"SELECT {names} FROM {table} GROUP BY {names} HAVING count(*) > 1 ORDER BY {names}"):
        _, where = islice((where for where, *fields in rows() if tuple(fields[: len(key)]) == twice), 2)
        raise DataError(f"{where}: {NAMES[key]} {', '.join(map(repr, twice))} is duplicated")
