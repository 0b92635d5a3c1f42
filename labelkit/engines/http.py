"""HTTP answers: the errors that stand for a status, the size that is read, and addresses that requests may go to."""

import json
import math
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from labelkit.errors import UsageError
from labelkit.storage.credentials import LOOPBACK, blot

BODY_BYTES = 4 << 20
"""Largest answer, decoded; a completion has a few kilobytes."""


REASON_LENGTH = 300

if TYPE_CHECKING:
    import aiohttp


class CallError(Exception):
    """A call gave no answer; the message is the server's reason."""


class BadRequestError(CallError):
    """Status 400: the request is wrong for this server."""


class AuthenticationError(CallError):
    """Status 401: the key is wrong."""


class NotFoundError(CallError):
    """Status 404."""


class APIStatusError(CallError):
    """Any other status that a retry does not mend, redirects among them."""


class APIResponseError(CallError):
    """A body that is too large or cannot be unpacked."""


class DeadlineError(CallError):
    """No answer within `CALL_SECONDS`."""


class RetriedError(CallError):
    """A call that may go through when it is sent again; `wait` is how many seconds the server asked for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class RateLimitError(RetriedError):
    """Status 429."""


class InternalServerError(RetriedError):
    """Status 408, 409 or 5xx."""


class APIConnectionError(RetriedError):
    """No connection, or one that broke before the answer was whole."""


STATUS_ERRORS: dict[int, type[CallError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    404: NotFoundError,
}


RETRIED_STATUS: dict[int, type[RetriedError]] = {
    408: InternalServerError,
    409: InternalServerError,
    429: RateLimitError,
}


async def read_body(response: "aiohttp.ClientResponse", most: int) -> bytes:
    """A body as it was sent; given up as soon as it is larger than `most` bytes."""
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            raise APIResponseError(f"the answer is larger than {most >> 20} MB")
    return b"".join(chunks)


def decoded(body: bytes, encoding: str, most: int) -> bytes:
    """A body unpacked, where the server packs it unasked; never more than `most` bytes of it."""
    if encoding.lower() in ("", "identity"):
        return body
    if encoding.lower() not in ("gzip", "deflate"):
        raise APIResponseError(f"the answer is packed as {encoding[:20]!r}, which was not asked for")
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, by their headers
    try:
        content = unpacker.decompress(body, most + 1)
    except zlib.error as error:
        raise APIResponseError(f"the answer cannot be unpacked: {error}") from None
    if len(content) > most:
        raise APIResponseError(f"the answer is larger than {most >> 20} MB")
    if not unpacker.eof:
        raise APIConnectionError("the packed answer ends early")
    return content


def blotted(body: bytes, forms: Sequence[str]) -> bytes:
    """A body without secrets, which some servers repeat, so that they reach neither journal nor screen."""
    return blot(body.decode(errors="surrogateescape"), forms).encode(errors="surrogateescape")


def status_error(status: int, retry_after: str | None, body: bytes) -> CallError:
    """What a status other than 2xx means."""
    reason = f"status {status}: {body[:REASON_LENGTH].decode(errors='replace')}"
    if retried := RETRIED_STATUS.get(status, InternalServerError if status >= 500 else None):
        return retried(reason, seconds_to_wait(retry_after))
    if status // 100 == 3:
        return APIStatusError(f"status {status}: a redirect, which is not followed; give the address it leads to")
    return STATUS_ERRORS.get(status, APIStatusError)(reason)


def error_inside(answer: Any) -> CallError | None:
    """Return the error that a gateway sends with status 200 in the place of an answer, by its own code.

    `answer`: parsed JSON. None where it has choices, or no error.
    """
    if not isinstance(answer, dict) or answer.get("choices") or not (error := answer.get("error")):
        return None
    code = str(error.get("code")) if isinstance(error, dict) else ""
    body = json.dumps(error, ensure_ascii=False).encode(errors="backslashreplace")
    if len(code) == 3 and code.isdecimal() and "400" <= code <= "599":
        return status_error(int(code), None, body)
    return APIStatusError(f"status 200 with an error: {body[:REASON_LENGTH].decode(errors='replace')}")


def refuse_error(body: bytes) -> None:
    """Raise the `CallError` in the place of an answer, where a body holds one."""
    if b'"error"' not in body:
        return
    try:
        error = error_inside(json.loads(body))
    except (ValueError, RecursionError):
        return
    if error is not None:
        raise error


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Retry-After in seconds, whether it is a number or a date (RFC 9110, section 10.2.3); None where it is neither.

    A negative number and a date in the past are 0; NaN and infinity are no numbers.
    """
    try:
        seconds = float(retry_after or "none")
    except ValueError:
        seconds = seconds_until(retry_after or "")
    return max(0.0, seconds) if math.isfinite(seconds) else None


def seconds_until(date: str) -> float:
    """Seconds from now until a date as mails and HTTP write it; NaN where it is none."""
    try:
        return (parsedate_to_datetime(date).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return math.nan


def checked_url(url: str, *, insecure: bool) -> str:
    """An address that requests and their key may go to. Raises `UsageError` for any other."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--base-url: expected http(s)://HOST[:PORT]/v1, not {url.rpartition('@')[-1]!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        # The address becomes part of provenance, where no secret may stand.
        raise UsageError(f"--base-url of {parts.hostname}: leave out user, password, ? and #; a keyring holds keys")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK and not insecure:
        raise UsageError(f"{url} would send prompts and key unencrypted; use https, or allow that with --insecure")
    return url.rstrip("/")


def spoken(error: Exception) -> str:
    """The reason of an error on one line."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:REASON_LENGTH]
    return reason.encode(errors="backslashreplace").decode()
