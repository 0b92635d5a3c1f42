"""Read the rows of JSONL, JSON, CSV, TSV and Parquet files, plain or compressed, as a stream.

Loading is done by pyarrow (Parquet, compression), DuckDB (JSON arrays) and the standard library (CSV). JSONL is read
line by line, so that an error names file and line.
"""

import csv
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from labelkit.corpora.fields import Fields
from labelkit.corpora.rows import COMPRESSED, ICONV, LINE_BYTES, lines, object_in, opened, parsed, text_lines
from labelkit.corpora.tagged import tagged_rows
from labelkit.errors import DataError, first_line
from labelkit.storage import tables

ROWS_AT_ONCE = 4096
DELIMITERS = ",;\t"
"""Characters that may separate the columns of a CSV file; the first that is in the header does."""
Row = tuple[str, dict[str, Any]]
"""Place of a row (`file:line`, or file and number of the row), and its values by column."""
LazyRow = tuple[str, Callable[[], dict[str, Any]]]
"""Place of a row, and a function that returns its values or raises `DataError` for a malformed row."""


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
    return ((where, row()) for where, row in lazy_rows(path, columns, only))


def lazy_rows(path: Path, columns: Sequence[str] = (), only: Collection[str] = ()) -> Iterator[LazyRow]:
    """Yield the rows of `file_rows` so that a malformed row raises only when it is asked for."""
    return READERS.get(form_of(path), text_rows)(path, columns, only)


def present(rows: Iterable[Row]) -> Iterator[LazyRow]:
    """Yield rows, none of which is malformed, as lazy ones."""
    return ((where, partial(dict, row)) for where, row in rows)


def wide(names: Sequence[str], cells: Sequence[str], where: str, *, mark: str) -> dict[str, Any]:
    """Return the cells of a line by column. Raises `DataError` if there are more or fewer than columns."""
    if len(cells) != len(names):
        raise DataError(f"{where}: expected {len(names)} columns separated by {MARKS[mark]}, found {len(cells)}")
    return dict(zip(names, cells, strict=True))


def column_names(path: Path, columns: Sequence[str] = ()) -> list[str]:
    """Return the names of the columns of a file: of its schema, or else of its first row that can be read; empty for an
    empty file. Raises `DataError` if no row can be read.
    """
    if form_of(path) == ".parquet":
        with parquet_file(path) as file:
            return list(file.schema_arrow.names)
    error = None
    for _, row in lazy_rows(path, columns):
        try:
            return list(row())
        except DataError as malformed:
            error = error or malformed
    if error:
        raise error
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


def text_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[LazyRow]:
    """Yield the rows of a file whose ending does not tell its form: TREC documents or topics, JSONL, else TSV."""
    begin = next((line.lstrip()[:1] for _, line in text_lines(path)), "")
    if begin == "<":
        return present(tagged_rows(path))
    return jsonl_rows(path) if begin == "{" else tsv_rows(path, columns, only)


def jsonl_rows(path: Path, columns: Sequence[str] = (), only: Collection[str] = ()) -> Iterator[LazyRow]:
    """Yield the objects of a JSONL file."""
    return ((where, partial(object_in, raw, where)) for where, raw in lines(path))


def tsv_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[LazyRow]:
    """Yield the rows of a TSV file; its first line is the header unless `columns` name the columns.

    A cell in quotation marks is unquoted only in a file with a header; MS MARCO's own files have neither.
    """
    names, header = list(columns), not columns
    for where, line in text_lines(path):
        cells = line.split("\t")
        if not names:
            names = [name.strip() for name in cells]
            continue
        yield where, partial(wide, names, [*map(unquoted, cells)] if header else cells, where, mark="\t")


def unquoted(cell: str) -> str:
    """Remove the quotation marks around a cell; a cell that is not quoted as in CSV is returned unchanged."""
    inner = cell[1:-1].replace('""', "")
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner
    return cell[1:-1].replace('""', '"') if whole else cell


def csv_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[LazyRow]:
    """Yield the rows of a CSV file (RFC 4180); its first row is the header unless `columns` name the columns.

    A header without a comma shows that semicolons or tabs separate the columns, as spreadsheets write them.
    """
    csv.field_size_limit(LINE_BYTES)
    names = list(columns)
    first = next((raw for _, raw in lines(path)), b"")
    mark = next((mark for mark in DELIMITERS if mark.encode() in first), ",")
    with opened(path) as file:
        texts = (raw.decode("utf-8-sig" if number == 0 else "utf-8") for number, raw in enumerate(file))
        reader = csv.reader(texts, delimiter=mark, strict=True)
        try:
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if not cells:
                    continue
                if not names:
                    names = [name.strip() for name in cells]
                    continue
                yield where, partial(wide, names, cells, where, mark=mark)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{reader.line_num + 1}: not UTF-8 ({error.reason}); {ICONV}") from None
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num + 1}: not valid CSV ({error})") from None


def json_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[LazyRow]:
    """Yield the objects of a JSON file: an array of objects, or one object per line."""
    if not is_array(path):
        yield from jsonl_rows(path)
        return
    for where, text in array_texts(path):
        yield where, partial(parsed, text, where)


def is_array(path: Path) -> bool:
    """Return whether a JSON file is one array, and not one object per line."""
    with opened(path) as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def array_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield place and JSON text of every value of an array, as they are in the file. Raises `DataError`."""
    options = f"format = 'array', maximum_object_size = {LINE_BYTES}"
    statement = f"SELECT json FROM read_json_objects({tables.place(path)}, {options})"
    try:
        with duckdb.connect(config={"memory_limit": tables.MEMORY, "autoinstall_known_extensions": False}) as db:
            number = 0
            for batch in db.sql(statement).to_arrow_reader(ROWS_AT_ONCE):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield f"{path}, row {number}", text
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as JSON: {first_line(error)}") from None


def parquet_rows(path: Path, columns: Sequence[str], only: Collection[str]) -> Iterator[LazyRow]:
    """Yield the rows of a Parquet file in batches."""
    number = 0
    with parquet_file(path) as file:
        wanted = [name for name in file.schema_arrow.names if name in only]
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted or None):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", partial(dict, row)


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


MARKS = {",": "commas", ";": "semicolons", "\t": "tabs"}
Reader = Callable[[Path, Sequence[str], Collection[str]], Iterator[LazyRow]]
READERS: dict[str, Reader] = {
    ".tsv": tsv_rows,
    ".csv": csv_rows,
    ".json": json_rows,
    ".parquet": parquet_rows,
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
}
"""Ending of a file -> its reader."""
