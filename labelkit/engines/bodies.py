"""Read the bodies of HTTP answers: limits of size, compression, character encodings, and secrets in them.

A body that cannot be read was paid for all the same: its bytes are kept as text.
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labelkit.engines.http import APIConnectionError, APIResponseError, CallError
from labelkit.storage.credentials import blot

if TYPE_CHECKING:
    import aiohttp

BYTES = "data:application/octet-stream;"
"""Beginning of bytes that are kept as text, in the form of a data URL (RFC 2397)."""


async def read_body(response: "aiohttp.ClientResponse", most: int) -> bytes:
    """Return the body of a response as sent. Raises `APIResponseError` once it is larger than `most` bytes."""
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            raise APIResponseError(f"the answer is larger than {most >> 20} MB")
    return b"".join(chunks)


def decoded(body: bytes, encoding: str, most: int) -> bytes:
    """Return a body decompressed, if the server compressed it unasked.

    Raises `APIResponseError` if it has more than `most` bytes or cannot be decompressed, and `APIConnectionError` if it
    is truncated.
    """
    if encoding.lower() in ("", "identity") or body.lstrip()[:1] in (b"{", b"["):
        return body  # a proxy may have decompressed the answer and left the header
    if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        raise unreadable(f"the answer is compressed as {encoding[:20]!r}, which was not requested", body, encoding)
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, by their headers
    try:
        content = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise unreadable(f"the answer cannot be decompressed as {encoding!r}: {error}", body, encoding) from None
    if len(content) > most:
        raise APIResponseError(f"the answer is larger than {most >> 20} MB")
    if not unpacker.eof:
        raise APIConnectionError("the compressed answer is truncated")
    return content


def decoded_refusal(body: bytes, encoding: str, most: int) -> bytes:
    """Return the decompressed body of a refusal; if it cannot be decompressed, return the reason as its words."""
    try:
        return decoded(body, encoding, most)
    except CallError as error:
        return f"({error})".encode()


def unreadable(reason: str, body: bytes, encoding: str) -> APIResponseError:
    """Return the error for an answer that cannot be read, with its bytes."""
    error = APIResponseError(reason)
    error.raw = kept_bytes(body, encoding)
    return error


def kept_bytes(body: bytes, encoding: str) -> str:
    """Return bytes as text from which they can be restored, with the name of their compression or characters."""
    name = "".join(character for character in encoding[:20] if character.isalnum() or character in "-_")
    return f"{BYTES}encoding={name};base64,{b64encode(body).decode()}"


def as_utf8(body: bytes, charset: str | None) -> bytes:
    """Return JSON in UTF-8 that a server sent in UTF-16, UTF-32 or the stated `charset`; other bodies unchanged."""
    encoding: str = json.detect_encoding(body)
    if encoding.startswith("utf-8"):
        encoding = (charset or "utf-8") if encoding_of(body) is not None else "utf-8"
    try:
        return body if encoding == "utf-8" else body.decode(encoding).encode()
    except (LookupError, ValueError):
        return body


def encoding_of(body: bytes) -> str | None:
    """Return the likely encoding of a body that is not UTF-8; None for UTF-8."""
    try:
        body.decode()
    except UnicodeDecodeError:
        found = json.detect_encoding(body)
        return "unknown" if found.startswith("utf-8") else found
    return None


def blotted(body: bytes, forms: Sequence[str]) -> bytes:
    """Return a body without secrets, which some servers repeat, so that none reaches the journal or the screen."""
    return blot(body.decode(errors="surrogateescape"), forms).encode(errors="surrogateescape")
