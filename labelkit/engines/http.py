"""Check HTTP addresses and answers: permitted addresses, and errors by status."""

import json
import math
import os
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from labelkit.engines.event_stream import read_json
from labelkit.errors import UsageError
from labelkit.storage.credentials import LOOPBACK

BODY_BYTES = 4 << 20
"""Largest answer in bytes after decompression; a completion has a few kilobytes."""


REASON_LENGTH = 300
"""Most characters of a server's reason in messages and failures."""
BODY_LENGTH = 10_000
"""Most characters of a refusal that are searched for the name of an option."""


class CallError(Exception):
    """A call without an answer; the message is the server's reason."""

    status: int | None = None
    """HTTP status of the refusal; None if there was no answer at all."""
    body: str = ""
    """Beginning of the refusal's body, longer than the message."""
    url: str = ""
    """Address of the server that failed."""
    raw: str | None = None
    """Body of an answer with status 2xx that cannot be read, as `labelkit.engines.bodies` keeps bytes."""


class BadRequestError(CallError):
    """Status 400: the request is wrong for this server."""


class AuthenticationError(CallError):
    """Status 401: the key is wrong."""


class NotFoundError(CallError):
    """Status 404."""


class OutOfCreditError(CallError):
    """Status 429 or 500 because the account is empty, so that a retry is useless."""


class APIStatusError(CallError):
    """Any other status for which a retry is useless, such as a redirect."""


class APIResponseError(CallError):
    """A body that is too large or cannot be decompressed."""


class DeadlineError(CallError):
    """No answer within `CALL_SECONDS`."""


class RetriedError(CallError):
    """A call that may succeed when it is sent again; `wait` is the number of seconds that the server asked to wait."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class RateLimitError(RetriedError):
    """Status 429."""


class InternalServerError(RetriedError):
    """Status 408, 409, 424 or 5xx."""


class UnavailableError(InternalServerError):
    """Status 503: the server refuses all requests for now, for example while it loads the model."""


class SilentError(CallError):
    """No server answers, over many tries or calls; the message says what to do."""


class APIConnectionError(RetriedError):
    """No connection, or a connection that broke before the answer was complete."""


class NoConnectionError(APIConnectionError):
    """No connection, so that nothing was sent."""


STATUS_ERRORS: dict[int, type[CallError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    404: NotFoundError,
}


RETRIED_STATUS: dict[int, type[RetriedError]] = {
    408: InternalServerError,
    409: InternalServerError,
    424: InternalServerError,  # a failed generation at Text Generation Inference
    429: RateLimitError,
    503: UnavailableError,
}
EMPTY_ACCOUNT = re.compile(
    r"\b(insufficient_quota|billing_hard_limit_reached|billing_not_active|exceeded_current_quota_error|"
    r"insufficient_credits?|credit_limit_reached)\b|used all available credits|"
    r"reached your \w+ usage limit|(?i:insufficient[_ ]balance)",
)
"""Codes of vendors, in the body of a 429 or 500, for an account without credit. Words such as "quota" are not
enough: they are also used for limits per minute.
"""


WORDS = ("detail", "errors", "message", "msg", "error_msg", "error_message")
"""Fields with the words of an error that some servers send with status 200 and without a field `error`; MiniMax states
them in `base_resp`.
"""
CODES = ("code", "status_code", "status")
"""Fields with the status of an error."""


def status_error(status: int, retry_after: str | None, body: bytes, *, location: str = "") -> CallError:
    """Return the error of a status other than 2xx. `location`: address to which a redirect leads."""
    error = _status_error(status, retry_after, body, location=location)
    error.status, error.body = status, body[:BODY_LENGTH].decode(errors="replace")
    return error


def _status_error(status: int, retry_after: str | None, body: bytes, location: str) -> CallError:
    reason = f"status {status}: {body[:REASON_LENGTH].decode(errors='replace')}"
    if status in (429, 500) and EMPTY_ACCOUNT.search(body[:BODY_LENGTH].decode(errors="replace")):
        return OutOfCreditError(reason)
    if retried := RETRIED_STATUS.get(status, InternalServerError if status >= 500 else None):
        return retried(reason, seconds_to_wait(retry_after))
    if status // 100 == 3:
        where = f", {location}" if location else ""
        return APIStatusError(f"status {status}: redirects are not followed; give the address that it leads to{where}")
    return STATUS_ERRORS.get(status, APIStatusError)(reason)


def target_of(location: str) -> str:
    """Return the address of a redirect without user, password, query and fragment, which may contain secrets."""
    parts = urlsplit(location)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))[:REASON_LENGTH]


def error_inside(answer: Any) -> CallError | None:
    """Return the error that a gateway sends with status 200 instead of an answer, by the code in it.

    `answer`: parsed JSON. None if it has choices or no error. A choice that ended by an error holds it itself.
    """
    if not isinstance(answer, dict):
        return None
    error = error_of_choice(answer) or (not answer.get("choices") and (answer.get("error") or without_answer(answer)))
    if not error:
        return None
    code = next((str(error[name]) for name in CODES if error.get(name)), "") if isinstance(error, dict) else ""
    body = json.dumps(error, ensure_ascii=False).encode(errors="backslashreplace")
    if len(code) == 3 and code.isdecimal() and "400" <= code <= "599":
        return status_error(int(code), None, body)
    unnumbered = APIStatusError(f"status 200 with an error: {body[:REASON_LENGTH].decode(errors='replace')}")
    unnumbered.body = body[:BODY_LENGTH].decode(errors="replace")
    return unnumbered


def without_answer(answer: dict[str, Any]) -> dict[str, Any] | None:
    """Return a document that holds the words of an error, in another field than `error`, and nothing like an answer."""
    base = answer.get("base_resp")
    stated = [answer.get(name) for name in WORDS] + ([base.get("status_msg")] if isinstance(base, dict) else [])
    others = [value for name, value in answer.items() if name not in (*WORDS, "base_resp")]
    words = any(value and isinstance(value, str | list) for value in stated)
    return answer if words and not any(value and isinstance(value, dict | list) for value in others) else None


def error_of_choice(answer: dict[str, Any]) -> Any:
    """Return the error by which the only choice of an answer ended, stated in the choice or beside it; None if the
    choice did not end by an error.
    """
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    ended = isinstance(choice, dict) and choice.get("finish_reason") == "error"
    return (choice.get("error") or answer.get("error")) if isinstance(choice, dict) and ended else None


def refuse_error(body: bytes) -> None:
    """Raise a `CallError` if a body holds an error instead of an answer."""
    if b'"choices"' in body and b'"message"' in body and b'"error"' not in body:
        return  # a completion
    try:
        error = error_inside(read_json(body.decode("utf-8-sig")))
    except (ValueError, RecursionError):
        return
    if error is not None:
        raise error


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Return a Retry-After header (RFC 9110, section 10.2.3) in seconds; None if it is neither a number nor a date.

    A negative number or a date in the past gives 0; NaN and infinity give None.
    """
    try:
        seconds = float(retry_after or "none")
    except ValueError:
        seconds = seconds_until(retry_after or "")
    return max(0.0, seconds) if math.isfinite(seconds) else None


def seconds_until(date: str) -> float:
    """Return the seconds from now until a date in the format of HTTP headers; NaN if it is not one."""
    try:
        return (parsedate_to_datetime(date).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return math.nan


def checked_url(url: str, *, insecure: bool) -> str:
    """Return an address to which requests and their key may be sent. Raises `UsageError` for any other."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--base-url: expected http(s)://HOST[:PORT]/v1, not {url.rpartition('@')[-1]!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        # The address becomes part of provenance, which must not contain secrets.
        raise UsageError(f"--base-url of {parts.hostname}: leave out user, password, ? and #; store keys in a keyring")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK and not insecure:
        raise UsageError(f"{url} would send prompts and key unencrypted; use https, or allow that with --insecure")
    return url.rstrip("/")


def connection_words(error: Exception) -> str:
    """Return the reason of a broken connection, or the system's own words if no connection was made."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientProxyConnectionError):
        cause, number = error.os_error, error.os_error.errno or 0  # below 0, a failed lookup of the name
        return os.strerror(number) if number > 0 else cause.strerror or str(cause)
    return f"{type(error).__name__}: {error}"


def spoken(error: Exception) -> str:
    """Return the type and reason of an error on one line."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:REASON_LENGTH]
    return reason.encode(errors="backslashreplace").decode()
