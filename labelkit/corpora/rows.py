"""Lines of text files as rows: each with its `file:line`, and none skipped in silence."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labelkit.errors import DataError

LINE_BYTES = 64 << 20
"""The longest line that is read."""


def lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """`file:line` and bytes, without their end, of every line that is not blank.

    Only LF and CRLF end a line: U+2028 and U+0085 are text. Of a line over `LINE_BYTES` a byte more than that is given.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LINE_BYTES + 2):
            number += 1
            end = raw
            while not end.endswith(b"\n") and (end := file.readline(LINE_BYTES)):
                """The rest of a line that is too long."""
            line = raw.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").removesuffix(b"\n").removesuffix(b"\r")
            if line.strip():
                yield f"{path}:{number}", line


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """`file:line` and text of every line that is not blank."""
    return ((where, _decoded(raw, where)) for where, raw in lines(path))


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`file:line` and object of every line of a JSONL file."""
    return ((where, _json(raw, where)) for where, raw in lines(path))


def _decoded(raw: bytes, where: str) -> str:
    if len(raw) > LINE_BYTES:
        raise DataError(f"{where}: the line is longer than {LINE_BYTES >> 20} MB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _json(raw: bytes, where: str) -> dict[str, Any]:
    """The object in a line of JSONL."""
    try:
        row = json.loads(_decoded(raw, where), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def _once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object each of whose keys stands once: nobody knows which of two values is meant."""
    row = dict(fields)
    if len(row) < len(fields):
        twice = next(name for name, count in Counter(name for name, _ in fields).items() if count > 1)
        raise ValueError(f"key {twice!r} stands twice")
    return row


def text_of(row: Mapping[str, Any], field: str, where: str) -> str:
    """The text in a field of a row. Raises `DataError` where it is none, or an id is empty."""
    value = row.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} must be text, found {json.dumps(value)[:40]}")
    if not encodable(value):
        raise DataError(f"{where}: field {field!r} holds a lone surrogate, which is no text")
    if field == "_id" and not value:
        raise DataError(f"{where}: the id is empty")
    return value


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text: JSON may spell a lone surrogate, which it cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
