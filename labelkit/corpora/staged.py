"""Stage files as tables of a DuckDB session: rows are streamed, and a duplicate is refused with its file and line."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.errors import DataError
from labelkit.storage import tables

RowStream = Callable[[], Iterator[tuple[Any, ...]]]
"""Function that reads a file from its start and yields `file:line` and the fields of each row."""
NAMES = {("passage_id",): "passage id", ("query_id",): "query id", ("query_id", "passage_id"): "the pair"}
"""Columns that identify a row -> their name in messages."""


def stage_once(db: DuckDBPyConnection, table: str, schema: pa.Schema, rows: RowStream, key: tuple[str, ...]) -> None:
    """Make a table from the rows of a file. Raises `DataError` with file and line of a duplicate key."""
    tables.stage(db, table, schema, rows=(tuple(row[1:]) for row in rows()))
    refuse_duplicates(db, table, rows, key=key)


def refuse_duplicates(db: DuckDBPyConnection, table: str, rows: RowStream, key: tuple[str, ...]) -> None:
    """Raise `DataError` with file and line of a key that a table has twice; `rows` reads the file of the table."""
    names = ", ".join(key)
    if twice := tables.row(db, f"SELECT {names} FROM {table} GROUP BY {names} HAVING count(*) > 1 ORDER BY {names}"):
        _, where = islice((where for where, *fields in rows() if tuple(fields[: len(key)]) == twice), 2)
        raise DataError(f"{where}: {NAMES[key]} {', '.join(map(repr, twice))} is duplicated")
