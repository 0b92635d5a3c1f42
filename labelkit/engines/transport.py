"""HTTP to OpenAI-compatible servers: where a request may go, how long it may take, how often it is sent again.

A call has one deadline over all its tries, however slowly a server drips. A server that says 429 is sent less at once,
and more again as it answers; one that does not answer is left out for a while where there are others. No answer is
larger than a limit, packed or not, and no redirect is followed.
"""

import asyncio
import random
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from labelkit.console import say
from labelkit.errors import EngineError, UsageError
from labelkit.keys import LOOPBACK, NO_KEY, SHORTEST_SECRET, key_for

if TYPE_CHECKING:
    import aiohttp

CALL_SECONDS = 300.0
"""Deadline of a call with all its retries, from the moment it is first sent."""
CONNECT_SECONDS = 20.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first retry and the most between two; the pause doubles and is drawn at random below that."""
TRIES = 8
"""Tries of a call that meet a fault of server or connection; a 429 is no fault and is waited out until the deadline."""
SILENT = 5
"""So many faults in a row leave a server out, where there is another."""
OUT_SECONDS = 60.0
"""After that long it gets another request."""
BODY_BYTES = 4 << 20
"""Largest answer, decoded; a completion has a few kilobytes."""
REASON_LENGTH = 300


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


class Server:
    """One address: how many requests it bears at once, and whether it answers."""

    def __init__(self, url: str, ceiling: int) -> None:
        parts = urlsplit(url)
        self.url = url
        self.key = key_for(url)
        self.busy = 0
        self.turn = 0
        self.limit = float(ceiling)
        self.out_until = 0.0
        # A machine's own servers are never reached through a proxy.
        direct = parts.hostname in LOOPBACK or bool(proxy_bypass(parts.hostname or ""))
        self.proxy = None if direct else getproxies().get(parts.scheme)
        self._ceiling = float(ceiling)
        self._cut_at = 0.0
        self._faults = 0

    def answered(self) -> None:
        """One more at once for every round of answers."""
        self.limit = min(self._ceiling, self.limit + 1 / self.limit)
        if self.out_until:
            say(f"{self.url} answers again")
        self._faults, self.out_until = 0, 0.0

    def refused(self, sent: float, now: float) -> None:
        """Half as many at once; a whole round of refusals counts once."""
        self._faults, self.out_until = 0, 0.0
        if sent >= self._cut_at:
            self.limit, self._cut_at = max(1.0, min(self.limit, self.busy) / 2), now

    def failed(self, reason: object, now: float, *, others: bool) -> None:
        """No answer; several in a row leave the server out, where there are others, until one request gets through."""
        self._faults += 1
        if self._faults >= SILENT and others:
            if not self.out_until:
                why = " ".join(str(reason).split())
                say(f"{self.url} does not answer ({why}): left out, tried again every {OUT_SECONDS:.0f} s")
            self.out_until, self.limit = now + OUT_SECONDS, 1.0


class Client:
    """Calls to servers that serve the same model, in turn. Open with `async with`."""

    def __init__(self, urls: Sequence[str], *, ceiling: int, insecure: bool) -> None:
        self._servers = [Server(checked_url(url, insecure=insecure), ceiling) for url in urls]
        self._insecure = insecure
        self._turns = count(1)

    async def __aenter__(self) -> Self:
        import aiohttp

        self._freed = asyncio.Event()
        # Each server has its own bound on connections, and each call its own deadline.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=not self._insecure),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def post(self, path: str, content: bytes, faults: list[str] | None = None) -> bytes:
        """The body of the answer to a JSON document. Raises `CallError`.

        A try that met a fault may have been billed all the same: the reason of each is added to `faults`.
        """
        return await self.call("POST", path, lambda: content, faults=faults)

    async def call(
        self,
        method: str,
        path: str,
        content: Callable[[], Any] | None = None,
        *,
        most: int = BODY_BYTES,
        seconds: float | None = None,
        faults: list[str] | None = None,
    ) -> bytes:
        """The body of an answer of at most `most` bytes, asked for until `seconds` (default `CALL_SECONDS`) are over.

        `content` makes what is sent, anew for each try. Raises `CallError`.
        """
        seconds = seconds or CALL_SECONDS
        try:
            return await self._retried(method, path, content, most, seconds, [] if faults is None else faults)
        except TimeoutError:
            raise DeadlineError(f"no answer within {seconds:.0f} s") from None

    async def once(self, method: str, path: str, content: bytes) -> bytes:
        """The body of the answer to a request that must not be sent twice unseen. Raises `CallError`."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._send(self._servers[0], method, path, content, BODY_BYTES)
        except TimeoutError:
            raise DeadlineError(f"no answer within {CALL_SECONDS:.0f} s") from None

    async def _retried(
        self,
        method: str,
        path: str,
        content: Callable[[], Any] | None,
        most: int,
        seconds: float,
        faults: list[str],
    ) -> bytes:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        server = await self._take()
        deadline = loop.time() + seconds
        async with asyncio.timeout_at(deadline) as timer:
            while True:
                sent = loop.time()
                try:
                    body = await self._send(server, method, path, content() if content else None, most)
                    server.answered()
                    return body
                except RetriedError as error:
                    if isinstance(error, RateLimitError):
                        server.refused(sent, loop.time())
                    else:
                        faults.append(str(error))
                        server.failed(error, loop.time(), others=len(self._servers) > 1)
                    wait = random.uniform(0, pause) if error.wait is None else error.wait
                    if len(faults) >= TRIES or loop.time() + wait > deadline:
                        raise
                except asyncio.CancelledError:
                    if timer.expired():
                        server.failed("no answer in time", loop.time(), others=len(self._servers) > 1)
                    raise
                finally:
                    server.busy -= 1
                    self._freed.set()
                await asyncio.sleep(wait)
                pause = min(2 * pause, LONGEST_PAUSE)
                server = await self._take()

    async def _take(self) -> Server:
        """The server with most room, in turn where they are equal, as soon as it may be sent one more."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            server = min(self._servers, key=lambda s: (s.out_until > now, s.busy / s.limit, s.turn))
            if server.busy < int(server.limit):
                server.busy += 1
                server.turn = next(self._turns)
                return server
            self._freed.clear()
            await self._freed.wait()

    async def _send(self, server: Server, method: str, path: str, content: Any, most: int) -> bytes:
        """One request, once: the decoded body of a 2xx answer. Bytes are sent as JSON."""
        import aiohttp

        headers = {"Authorization": f"Bearer {server.key}"}
        if isinstance(content, bytes):
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                method, server.url + path, data=content, headers=headers, allow_redirects=False, proxy=server.proxy
            ) as response:
                body = decoded(await read_body(response, most), response.headers.get("Content-Encoding", ""), most)
                failed = response.status // 100 != 2
                body = blotted(body, server.key, least=1 if failed else SHORTEST_SECRET)
                if failed:
                    raise status_error(response.status, response.headers.get("Retry-After"), body)
                return body
        except aiohttp.ClientSSLError as error:
            raise EngineError(
                f"{server.url}: {error}; mend its certificate, or trust it unverified with --insecure"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise APIConnectionError(f"{type(error).__name__}: {error}") from None


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


def blotted(body: bytes, key: str, *, least: int) -> bytes:
    """A body without the key, which some servers repeat, so that it reaches neither journal nor screen; a key of less
    than `least` characters may be a word of the answer and stays.
    """
    return body if key == NO_KEY or len(key) < least else body.replace(key.encode(), b"[key]")


def status_error(status: int, retry_after: str | None, body: bytes) -> CallError:
    """What a status other than 2xx means."""
    reason = f"status {status}: {body[:REASON_LENGTH].decode(errors='replace')}"
    if retried := RETRIED_STATUS.get(status, InternalServerError if status >= 500 else None):
        return retried(reason, seconds_to_wait(retry_after))
    if status // 100 == 3:
        return APIStatusError(f"status {status}: a redirect, which is not followed; give the address it leads to")
    return STATUS_ERRORS.get(status, APIStatusError)(reason)


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Retry-After in seconds, whether it is a number or a date (RFC 9110, section 10.2.3); None where it is neither."""
    try:
        return max(0.0, float(retry_after or "none"))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(retry_after or "")
        return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


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
