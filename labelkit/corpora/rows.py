"""Read the lines of text files, each with its `file:line`, without skipping any silently."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labelkit.errors import DataError

LINE_BYTES = 64 << 20
"""Longest line in bytes that is read."""


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield `file:line` and bytes, without the line end, of every line that is not blank.

    Only LF and CRLF end a line; U+2028 and U+0085 are text. A line over `LINE_BYTES` is truncated to just above them.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    with path.open("rb") as file:
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
    return ((where, _decoded(raw, where)) for where, raw in lines(path))


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `file:line` and object of every line of a JSONL file. Raises `DataError`."""
    return ((where, _json(raw, where)) for where, raw in lines(path))


def _decoded(raw: bytes, where: str) -> str:
    if len(raw) > LINE_BYTES:
        raise DataError(f"{where}: the line is longer than {LINE_BYTES >> 20} MB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _json(raw: bytes, where: str) -> dict[str, Any]:
    """Return the object in a line of JSONL. Raises `DataError`."""
    try:
        row = json.loads(_decoded(raw, where), object_pairs_hook=_once)
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
    """Return the text in a field of a row. Raises `DataError` if it is not text or is an empty id."""
    value = row.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} must be text, found {json.dumps(value)[:40]}")
    if not encodable(value):
        raise DataError(f"{where}: field {field!r} contains a lone surrogate, which is not text")
    if field == "_id" and not value:
        raise DataError(f"{where}: the id is empty")
    return value


def encodable(text: str) -> bool:
    """Return whether UTF-8 can encode a text; it cannot encode lone surrogates, which JSON may contain."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
