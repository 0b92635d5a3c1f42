"""Read the lines of text files, plain or compressed, each with its `file:line`, without skipping any silently."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from labelkit.errors import DataError
from labelkit.storage.names import missing

LINE_BYTES = 64 << 20
"""Longest line in bytes that is read."""
COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Ending of a compressed file -> pyarrow's name of the compression."""
ICONV = "convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8"
BUFFER = 1 << 20
"""Bytes that are decompressed at once."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; a file with an ending of `COMPRESSED` is decompressed as it is read.

    Raises `DataError` if the file is missing or its compression is damaged.
    """
    if not path.is_file():
        raise DataError(missing(path))
    if path.suffix not in COMPRESSED:
        with path.open("rb") as file:
            yield file
        return
    try:
        with pa.input_stream(str(path.absolute()), compression=COMPRESSED[path.suffix]) as stream:
            yield io.BufferedReader(stream, BUFFER)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be decompressed: {error}") from None


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield `file:line` and bytes, without the line end, of every line that is not blank.

    Only LF and CRLF end a line; U+2028 and U+0085 are text. A line over `LINE_BYTES` is truncated to just above them.
    """
    with opened(path) as file:
        number = 0
        while raw := file.readline(LINE_BYTES + 2):
            number += 1
            end = raw
            while not end.endswith(b"\n") and (end := file.readline(LINE_BYTES)):
                """Skip the rest of a line that is too long."""
            line = raw.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").removesuffix(b"\n").removesuffix(b"\r")
            if line.strip():
                yield f"{path}:{number}", line


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield `file:line` and text of every line that is not blank. Raises `DataError`."""
    return ((where, decoded(raw, where)) for where, raw in lines(path))


def decoded(raw: bytes, where: str) -> str:
    if len(raw) > LINE_BYTES:
        raise DataError(f"{where}: the line is longer than {LINE_BYTES >> 20} MB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}); {ICONV}") from None


def object_in(raw: bytes, where: str) -> dict[str, Any]:
    """Return the object in a line of JSONL. Raises `DataError`."""
    return parsed(decoded(raw, where), where)


def parsed(text: str, where: str) -> dict[str, Any]:
    """Return the object of a JSON text. Raises `DataError`."""
    try:
        row = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object. Raises `ValueError` for a duplicated key, because either value could be meant."""
    row = dict(fields)
    if len(row) < len(fields):
        twice = next(name for name, count in Counter(name for name, _ in fields).items() if count > 1)
        raise ValueError(f"key {twice!r} is duplicated")
    return row


def text_of(row: Mapping[str, Any], field: str, where: str) -> str:
    """Return the text in a field of a row. Raises `DataError` if it is not text."""
    value = row.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} must be text, found {json.dumps(value, default=str)[:40]}")
    if not encodable(value):
        raise DataError(f"{where}: field {field!r} contains a lone surrogate, which is not text")
    return value


def id_of(row: Mapping[str, Any], field: str, where: str) -> str:
    """Return the id in a field of a row; a whole number becomes its digits. Raises `DataError` for other values."""
    value = row.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        raise DataError(f"{where}: field {field!r} is {value}; save its column as whole numbers or as text, without .0")
    name = text_of(row, field, where)
    if not name:
        raise DataError(f"{where}: the id is empty")
    return name


def encodable(text: str) -> bool:
    """Return whether UTF-8 can encode a text; it cannot encode lone surrogates, which JSON may contain."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
