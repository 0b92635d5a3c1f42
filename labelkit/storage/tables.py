"""Sort, join and group tables larger than memory with DuckDB on disk, streaming rows in and out through Arrow."""

import re
import shutil
import tempfile
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
"""Memory limit of DuckDB; the rest goes to disk."""
MEMORY_OF_READERS = "512MB"
"""Memory limit of DuckDB next to columns in memory."""
ROWS_AT_ONCE = 32_768


@contextmanager
def temporary() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database in a temporary folder (`TMPDIR`), for commands that write no tables."""
    with tempfile.TemporaryDirectory(prefix="labelkit-") as folder, session(Path(folder) / "db") as db:
        db.execute(f"SET memory_limit = '{MEMORY_OF_READERS}'")
        yield db


def release(db: duckdb.DuckDBPyConnection) -> None:
    """Give back the memory of tables that a session has read; they stay on disk."""
    limit = value(db, "SELECT current_setting('memory_limit')")
    for each in ("100MB", limit):
        db.execute(f"SET memory_limit = '{each}'")


@contextmanager
def session(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database in the folder `scratch`, and remove both at the end of the block.

    Order every result that is written: without `ORDER BY`, rows come in no particular order.
    """
    place = whole_path(scratch)
    shutil.rmtree(scratch, ignore_errors=True)  # left by a run that was killed
    scratch.mkdir(parents=True)
    settings: dict[str, Any] = {
        "memory_limit": MEMORY,
        "temp_directory": f"{place}/spilt",
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
    }
    try:
        with duckdb.connect(config=settings) as db:
            # No write-ahead log: it would not be used, and DuckDB names it wrongly if the path has a `?`.
            db.execute(f"ATTACH {text(f'{place}/tables.duckdb')} AS scratch (RECOVERY_MODE no_wal_writes)")
            db.execute("USE scratch")
            with suppress(duckdb.InvalidInputException):  # raised in a notebook without ipywidgets, which has no bar
                db.execute("SET enable_progress_bar = false")
            yield db
    except duckdb.Error as error:
        raise LabelkitError(f"DuckDB, working in {scratch}: {first_line(error)}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def stage(db: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, rows: Iterable[tuple[Any, ...]]) -> None:
    """Create the table `name` from tuples, in batches."""
    stage_batches(db, name, schema, batches=batches_of(schema, rows))


def stage_batches(
    db: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    """Create the table `name` from batches."""
    db.register("incoming", schema.empty_table())
    db.execute(f"CREATE OR REPLACE TABLE {name} AS FROM incoming")
    append(db, name, batches=batches)


def append(db: duckdb.DuckDBPyConnection, name: str, batches: Iterable[pa.RecordBatch]) -> None:
    """Append batches to the table `name`."""
    for batch in batches:
        db.register("incoming", pa.Table.from_batches([batch]))
        db.execute(f"INSERT INTO {name} FROM incoming")
    db.unregister("incoming")


def batches_of(schema: pa.Schema, rows: Iterable[tuple[Any, ...]]) -> Iterator[pa.RecordBatch]:
    """Yield tuples as record batches."""
    left = iter(rows)
    while part := list(islice(left, ROWS_AT_ONCE)):
        columns = zip(zip(*part, strict=True), schema, strict=True)
        yield pa.record_batch([pa.array(column, field.type) for column, field in columns], schema=schema)


def mapped(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Write batches to an Arrow file, and return the table of this file, which is mapped into memory and not read."""
    with pa.OSFile(str(path.absolute()), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    with pa.memory_map(str(path.absolute())) as source:
        return pa.ipc.open_file(source).read_all()


def save(db: duckdb.DuckDBPyConnection, draft: folders.Draft, name: str, statement: str, schema: pa.Schema) -> None:
    """Write the ordered result of a statement as the table `name` of an artifact."""
    draft.write_batches(name, schema, rows_of(db, statement, schema))


def rows_of(db: duckdb.DuckDBPyConnection, statement: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the result of a statement in batches, with the types of the schema."""
    for batch in db.sql(statement).to_arrow_reader(ROWS_AT_ONCE):
        yield batch.cast(schema)


def row(db: duckdb.DuckDBPyConnection, statement: str) -> tuple[Any, ...] | None:
    """Return the first row of a result; None if it is empty."""
    found: list[tuple[Any, ...]] = db.execute(f"FROM ({statement}) LIMIT 1").fetchall()
    return found[0] if found else None


def value(db: duckdb.DuckDBPyConnection, statement: str) -> Any:
    """Return the only value of an aggregate."""
    ((found,),) = db.execute(statement).fetchall()
    return found


def text(value: str) -> str:
    """Return a string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def parquet(path: Path, *, numbered: bool = False) -> str:
    """Return the SQL that reads a Parquet file as a table, whatever characters its path has.

    With `numbered`, its column `file_row_number` has the number of each row from 0. DuckDB would read a folder
    `year=2024` as a column.
    """
    return f"read_parquet({place(path)}, hive_partitioning = false, file_row_number = {numbered})"


def place(path: Path) -> str:
    """Return a path as an SQL literal that stands for this file only.

    DuckDB would read `[`, `*` and `?` as a pattern. In a pattern, each of these characters is written as a set of one
    character.
    """
    return text(re.sub(r"([*?[])", r"[\1]", whole_path(path)))


def whole_path(path: Path) -> str:
    """Return the absolute path, so that DuckDB does not interpret a `~` or `file:` at its start.

    Raises `UsageError` for a path that cannot be passed to DuckDB.
    """
    whole = str(path.absolute())
    if re.search(r"[\\\ud800-\udfff]", whole):
        raise UsageError(f"{whole!r} contains a backslash, or bytes that are not UTF-8: rename the folder")
    return whole
