"""Tables larger than memory: sorted, joined and grouped by DuckDB on disk, streamed in and out through Arrow."""

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from labelkit.errors import LabelkitError, UsageError, first_line
from labelkit.storage import folders

MEMORY = "2GB"
"""What DuckDB may hold; the rest goes to disk."""
ROWS_AT_ONCE = 32_768


@contextmanager
def session(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in the folder `scratch`, which is removed with it. Every result that matters must be ordered:
    without `ORDER BY` the rows come as they please.
    """
    place = whole_path(scratch)
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True)
    settings: dict[str, Any] = {
        "memory_limit": MEMORY,
        "temp_directory": f"{place}/spilt",
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    try:
        with duckdb.connect(config=settings) as db:
            # Without a log, which nobody would read, and whose name DuckDB makes wrongly where the path has a `?`.
            db.execute(f"ATTACH {text(f'{place}/tables.duckdb')} AS scratch (RECOVERY_MODE no_wal_writes)")
            db.execute("USE scratch")
            with suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets has no bar to switch off
                db.execute("SET enable_progress_bar = false")
            yield db
    except duckdb.Error as error:
        raise LabelkitError(f"DuckDB, working in {scratch}: {first_line(error)}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def stage(db: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, rows: Iterable[tuple[Any, ...]]) -> None:
    """Make the table `name` of tuples, a batch at a time."""
    db.register("incoming", schema.empty_table())
    db.execute(f"CREATE OR REPLACE TABLE {name} AS FROM incoming")
    left = iter(rows)
    while part := list(islice(left, ROWS_AT_ONCE)):
        columns = zip(zip(*part, strict=True), schema, strict=True)
        db.register("incoming", pa.table([pa.array(column, field.type) for column, field in columns], schema=schema))
        db.execute(f"INSERT INTO {name} FROM incoming")
    db.unregister("incoming")


def save(db: duckdb.DuckDBPyConnection, draft: folders.Draft, name: str, statement: str, schema: pa.Schema) -> None:
    """Write the ordered result of a statement as the table `name` of an artifact."""
    draft.write_batches(name, schema, rows_of(db, statement, schema))


def rows_of(db: duckdb.DuckDBPyConnection, statement: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The result of a statement, a batch at a time, with the types of the schema."""
    for batch in db.sql(statement).to_arrow_reader(ROWS_AT_ONCE):
        yield batch.cast(schema)


def row(db: duckdb.DuckDBPyConnection, statement: str) -> tuple[Any, ...] | None:
    """The first row of a result, if it has one."""
    found: list[tuple[Any, ...]] = db.execute(f"FROM ({statement}) LIMIT 1").fetchall()
    return found[0] if found else None


def value(db: duckdb.DuckDBPyConnection, statement: str) -> Any:
    """The only value of an aggregate."""
    ((found,),) = db.execute(statement).fetchall()
    return found


def text(value: str) -> str:
    """A string in SQL."""
    return "'" + value.replace("'", "''") + "'"


def parquet(path: Path) -> str:
    """A Parquet file as a table in SQL. The path names one file, whatever characters it has, and adds no column.

    DuckDB would read `[`, `*` and `?` as a pattern and a folder `year=2024` as a column. A pattern can name each of
    these characters as a set of one.
    """
    literal = re.sub(r"([*?[])", r"[\1]", whole_path(path))
    return f"read_parquet({text(literal)}, hive_partitioning = false)"


def whole_path(path: Path) -> str:
    """The absolute path, so that DuckDB takes no `~` or `file:` at its start for anything else. Raises `UsageError` for
    a path that DuckDB cannot be given.
    """
    whole = str(path.absolute())
    if re.search(r"[\\\ud800-\udfff]", whole):
        raise UsageError(f"{whole!r} holds a backslash, or bytes that are not UTF-8: rename the folder")
    return whole
