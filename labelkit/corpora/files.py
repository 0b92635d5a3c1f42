"""Read the rows of JSONL, JSON, CSV, TSV and Parquet files, plain or compressed, as a stream.

Loading is done by pyarrow (Parquet, compression), DuckDB (JSON arrays) and the standard library (CSV). JSONL is read
line by line, so that an error names file and line.
"""

import csv
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from labelkit.corpora.fields import Fields
from labelkit.corpora.rows import COMPRESSED, LINE_BYTES, json_lines, opened, parsed, text_lines
from labelkit.corpora.tagged import tagged_rows
from labelkit.errors import DataError, first_line
from labelkit.storage import tables

ROWS_AT_ONCE = 4096
Row = tuple[str, dict[str, Any]]
"""Place of a row (`file:line`, or file and number of the row), and its values by column."""


def form_of(path: Path) -> str:
    """Return the ending that says how a file is read, such as `.tsv` for `queries.tsv.gz`."""
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix.lower()


def file_rows(path: Path, columns: Sequence[str] = (), only: Collection[str] = ()) -> Iterator[Row]:
    """Yield the rows of a file with their places.

    Args:
        path: a file whose ending is in `READERS`; any other file is read as TREC topics or documents, JSONL or TSV.
        columns: names of the columns of a TSV or CSV file without a header.
        only: columns to read from a Parquet file; all if empty. Other files are read as a whole.

    Raises:
        DataError: the file is missing or malformed.
    """
    return READERS.get(form_of(path), text_rows)(path, columns, only)


def column_names(path: Path, columns: Sequence[str] = ()) -> list[str]:
    """Return the names of the columns of a file: of its schema or header, or else of its first row; empty for an empty
    file. Raises `DataError`.
    """
    if form_of(path) == ".parquet":
        with parquet_file(path) as file:
            return list(file.schema_arrow.names)
    for _, row in file_rows(path, columns):
        return list(row)
    return []


def names_without_header(path: Path, fields: Fields, known: Collection[str]) -> tuple[str, ...]:
    """Return the names of the columns of a TSV file without a header (id and text, as MS MARCO has them); empty for all
    other files, whose columns have names.

    A first line is a header if one of its cells is in `fields` or, in any case of letters, in `known`.
    """
    form = form_of(path)
    if form != ".tsv" and form in READERS:
        return ()
    first = next((line for _, line in text_lines(path)), "")
    cells = [cell.strip() for cell in first.split("\t")]
    if len(cells) != 2 or any(cell in fields or cell.lower() in known for cell in cells):
        return ()
    return "_id", "text"


def text_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a file whose ending does not tell its form: TREC documents or topics, JSONL, else TSV."""
    begin = next((line.lstrip()[:1] for _, line in text_lines(path)), "")
    if begin == "<":
        return tagged_rows(path)
    return json_lines(path) if begin == "{" else tsv_rows(path, columns, only)


def tsv_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a TSV file; its first line is the header unless `columns` name the columns.

    A cell in quotation marks is unquoted only in a file with a header; MS MARCO's own files have neither.
    """
    names, header = list(columns), not columns
    for where, line in text_lines(path):
        cells = line.split("\t")
        if not names:
            names = [name.strip() for name in cells]
            continue
        if len(cells) != len(names):
            raise DataError(f"{where}: expected {len(names)} columns separated by tabs, found {len(cells)}")
        yield where, dict(zip(names, map(unquoted, cells) if header else cells, strict=True))


def unquoted(cell: str) -> str:
    """Remove the quotation marks around a cell; a cell that is not quoted as in CSV is returned unchanged."""
    inner = cell[1:-1].replace('""', "")
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner
    return cell[1:-1].replace('""', '"') if whole else cell


def csv_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file (RFC 4180); its first row is the header unless `columns` name the columns."""
    csv.field_size_limit(LINE_BYTES)
    names = list(columns)
    with opened(path) as file:
        lines = (raw.decode("utf-8-sig" if number == 0 else "utf-8") for number, raw in enumerate(file))
        reader = csv.reader(lines, strict=True)
        try:
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if not cells:
                    continue
                if not names:
                    names = [name.strip() for name in cells]
                    continue
                if len(cells) != len(names):
                    raise DataError(f"{where}: expected {len(names)} columns separated by commas, found {len(cells)}")
                yield where, dict(zip(names, cells, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}:{reader.line_num + 1}: not valid CSV ({error})") from None


def json_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[Row]:
    """Yield the objects of a JSON file: an array of objects, or one object per line."""
    with opened(path) as file:
        begin = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if begin != b"[":
        yield from json_lines(path)
        return
    options = f"format = 'array', maximum_object_size = {LINE_BYTES}"
    statement = f"SELECT json FROM read_json_objects({tables.place(path)}, {options})"
    try:
        with duckdb.connect(config={"memory_limit": tables.MEMORY, "autoinstall_known_extensions": False}) as db:
            number = 0
            for batch in db.sql(statement).to_arrow_reader(ROWS_AT_ONCE):
                for text in batch.column(0).to_pylist():
                    number += 1
                    where = f"{path}, row {number}"
                    yield where, parsed(text, where)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as JSON: {first_line(error)}") from None


def parquet_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[Row]:
    """Yield the rows of a Parquet file in batches."""
    number = 0
    with parquet_file(path) as file:
        wanted = [name for name in file.schema_arrow.names if name in only]
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted or None):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """Open a Parquet file; a compressed one is first decompressed to a temporary file, since it is read from its end.

    Raises `DataError` for a missing or damaged file.
    """
    try:
        with opened(path) as packed, tempfile.TemporaryFile() as unpacked:
            if path.suffix in COMPRESSED:
                shutil.copyfileobj(packed, unpacked)
            with pq.ParquetFile(unpacked if path.suffix in COMPRESSED else path.absolute()) as file:
                yield file
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {first_line(error)}") from None


Reader = Callable[[Path, Sequence[str], Collection[str]], Iterator[Row]]
READERS: dict[str, Reader] = {
    ".tsv": tsv_rows,
    ".csv": csv_rows,
    ".json": json_rows,
    ".parquet": parquet_rows,
    ".jsonl": lambda path, columns, only: json_lines(path),
    ".ndjson": lambda path, columns, only: json_lines(path),
}
"""Ending of a file -> its reader."""
