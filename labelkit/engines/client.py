"""Send HTTP requests to OpenAI-compatible servers, with deadlines, retries and balancing between servers.

A call has one deadline over all its tries, even if a server sends its answer slowly. A server that answers 429 gets
fewer concurrent requests, and more again as it answers. A server that does not answer is skipped for a while if there
are others. Answers are limited in size, compressed or not, and redirects are not followed.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple, Self

from labelkit.engines.bodies import as_utf8, blotted, decoded, decoded_refusal, read_body
from labelkit.engines.concurrency import Server
from labelkit.engines.http import (
    BODY_BYTES,
    APIConnectionError,
    CallError,
    DeadlineError,
    NoConnectionError,
    RateLimitError,
    RetriedError,
    SilentError,
    UnavailableError,
    checked_url,
    connection_words,
    refuse_error,
    spoken,
    status_error,
    target_of,
)
from labelkit.errors import EngineError
from labelkit.storage.credentials import blot

log = logging.getLogger(__name__)

CALL_SECONDS = 300.0
"""Deadline of a call with all its retries, in seconds after it is first sent."""
SLOWEST = 3.0
"""Tokens per second of the slowest server whose long answers are waited for, beyond `CALL_SECONDS` if need be."""
CONNECT_SECONDS = 8.0
"""Longest time in seconds until a connection is made, including the lookup of the name."""
START_SECONDS = 12.0
"""Seconds after which a run ends if none of its servers has ever accepted a connection."""
FIRST_LOST, LOST = 3, 20
"""Number of consecutive calls without an answer, at the start of a run and later, that end the run. Calls that the
server refuses as too many are waited for at the start, too.
"""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Longest pause in seconds before the first retry and before any retry. The limit doubles with each retry; the pause
is drawn at random below it.
"""
LONGEST_WAIT = 60.0
"""Longest wait in seconds that a server's Retry-After can impose."""
TRIES = 8
"""Most tries of a call that fail by a fault of server or connection. Tries that no server worked on and no vendor bills
do not count, and are repeated until the deadline: too many requests, no service, no connection.
"""
FEW_TRIES = 3
"""Most tries of a first request at one of several servers, and of one that meets an internal error, before it is sent
to another server or without an option.
"""


def seconds_for(tokens: int, least: float | None = None) -> float:
    """Return the deadline of a call in seconds: at least `CALL_SECONDS` or `least`, and later for many tokens."""
    return max(CALL_SECONDS if least is None else least, tokens / SLOWEST)


def asked_by(error: CallError) -> float | None:
    """Return the seconds that a server asked to wait; None if it did not ask."""
    return error.wait if isinstance(error, RetriedError) else None


def seconds_before_retry(error: CallError, pause: float) -> float:
    """Return the seconds to wait before a request is sent again.

    This is a random time between 0 and `pause`, or the server's Retry-After up to `LONGEST_WAIT` if that is longer.
    """
    return max(random.uniform(0, min(pause, LONGEST_PAUSE)), min(asked_by(error) or 0.0, LONGEST_WAIT))


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    content: Callable[[], Any] | None = None
    """Makes the body for each try."""
    most: int = BODY_BYTES
    """Largest body of the answer, in bytes."""


class Client:
    """HTTP client of one or more servers that serve the same model. Open it with `async with`."""

    def __init__(
        self, urls: Sequence[str], *, ceiling: int, insecure: bool, tries: int = TRIES, tries_at_500: int = TRIES
    ) -> None:
        """Prepare the connections. `tries`: most tries of a call; `tries_at_500`: most tries if it fails by status 500
        (or 501), which may mean that the server fails on an option, and not that it is overloaded.
        """
        self.urls = tuple(urls)
        self._servers = [Server(checked_url(url, insecure=insecure), ceiling) for url in urls]
        self._insecure = insecure
        self._tries, self._tries_at_500 = tries, min(tries, tries_at_500)
        self.answered: set[str] = set()
        """Addresses of the servers that have answered a call."""
        self._responses = 0
        """Number of responses of the servers, of any status."""
        self._answers = 0
        """Number of calls that were answered."""
        self._lost = 0
        """Number of consecutive calls that were lost to faults or to the deadline."""
        self._limited = False
        """Whether the last response that was a fault was a refusal because of too many requests."""
        self._first_try: float | None = None
        self._turns = count(1)

    @property
    def addresses(self) -> str:
        """Addresses of all servers, for messages."""
        return " or ".join(server.url for server in self._servers)

    def leave_out(self, url: str) -> None:
        """Send nothing to one of several servers from now on."""
        self._servers = [server for server in self._servers if server.url != url.rstrip("/")]

    async def __aenter__(self) -> Self:
        import aiohttp

        self._freed = asyncio.Event()
        # The session has no limits: each server limits its connections, and each call has a deadline.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=not self._insecure),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def post(self, path: str, content: bytes, faults: list[str] | None = None) -> bytes:
        """Send a JSON document and return the body of the answer. Raises `CallError`.

        Failed tries may have been billed: the reason of each one is added to `faults`.
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
        """Send a request and return the body of the answer, at most `most` bytes. Raises `CallError`.

        It is sent again until `seconds` (default `CALL_SECONDS`) are over. `content` makes the body for each try.
        """
        seconds, before = seconds or CALL_SECONDS, self._responses
        try:
            request = Request(method, path, content, most=most)
            return await self._retried(request, seconds, [] if faults is None else faults)
        except TimeoutError:
            late = DeadlineError(f"no answer within {seconds:.0f} s")
            self._lose(late)
            raise late from None
        except RetriedError as error:
            if isinstance(error, NoConnectionError) and self._responses == before:
                raise SilentError(
                    f"nothing listens at {self.addresses} any more, for {seconds:.0f} s ({error}): start the server "
                    "again; every reply is kept: run the same command again to resume"
                ) from None
            self._lose(error)
            raise

    async def once(self, method: str, path: str, content: bytes) -> bytes:
        """Send a request without any retry and return the body of the answer. Raises `CallError`."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._send(self._servers[0], Request(method, path, lambda: content))
        except TimeoutError:
            raise DeadlineError(f"no answer within {CALL_SECONDS:.0f} s") from None

    async def look(self, path: str, seconds: float) -> bytes | None:
        """Get a document from the first server, in one try; None if it does not send it within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                return await self._send(self._servers[0], Request("GET", path))
        except (CallError, TimeoutError):
            return None

    async def wait(self, error: CallError, pause: float) -> None:
        """Log an error and wait for `seconds_before_retry` before the request is sent again."""
        seconds = seconds_before_retry(error, pause)
        self._servers[0].waits(seconds, asked_by(error), error, now=asyncio.get_running_loop().time())
        await asyncio.sleep(seconds)

    async def _retried(self, request: Request, seconds: float, faults: list[str]) -> bytes:
        loop = asyncio.get_running_loop()
        pause, answers, failures = FIRST_PAUSE, self._answers, 0
        server = await self._take()
        deadline = loop.time() + seconds
        async with asyncio.timeout_at(deadline) as timer:
            while True:
                sent = loop.time()
                try:
                    body = await self._send(server, request)
                    server.answered()
                    self.answered.add(server.url)
                    self._answers, self._lost = self._answers + 1, 0
                    return body
                except RetriedError as error:
                    if not isinstance(error, NoConnectionError):
                        self._limited = isinstance(error, RateLimitError)
                    if isinstance(error, RateLimitError):
                        server.refused(sent, loop.time())
                    else:
                        server.failed(error, loop.time(), others=len(self._servers) > 1)
                    # A server that answers others meanwhile refuses this request, and is not out of service.
                    down = isinstance(error, UnavailableError) and self._answers == answers
                    answers, failures = self._answers, failures + (not isinstance(error, RateLimitError))
                    if not (down or isinstance(error, RateLimitError | NoConnectionError)):
                        faults.append(str(error))
                    wait = self._wait_for_first(error, sent, seconds_before_retry(error, pause))
                    most_tries = self._tries_at_500 if error.status in (500, 501) else self._tries
                    given_up = len(faults) >= most_tries or failures >= self._tries < TRIES
                    if given_up or loop.time() + wait > deadline:
                        raise
                    server.waits(wait, error.wait, error, now=loop.time())
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

    def _wait_for_first(self, error: RetriedError, sent: float, wait: float) -> float:
        """Return the seconds until the next try. Raises `SilentError` if nothing listens at any address."""
        if self._responses or not isinstance(error, NoConnectionError):
            return wait
        now = asyncio.get_running_loop().time()
        if self._first_try is None:
            self._first_try = sent
            log.info(f"nothing answers at {self.addresses} ({error}): trying again for {START_SECONDS:.0f} s")
        if now - self._first_try + (now - sent) > START_SECONDS:
            raise SilentError(f"nothing listens at {self.addresses} ({error}): start the server, or correct --base-url")
        return min(wait, START_SECONDS / 10)

    def _lose(self, error: CallError) -> None:
        """Count a call without an answer. Raises `SilentError` if so many were lost that no server answers any more."""
        self._lost += 1
        # A call that waits for its turn behind a limit on requests may pass its deadline without a fault of its own.
        if self._lost >= (LOST if self._answers or self._limited else FIRST_LOST):
            raise SilentError(
                f"{self.addresses}: no answer to {self._lost} requests in a row, each tried for up to "
                f"{CALL_SECONDS:.0f} s ({spoken(error)}); every reply is kept: run the same command again to resume"
            ) from None

    async def _take(self) -> Server:
        """Return the least busy server, in turn among equals, as soon as it may get one more request."""
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

    async def _send(self, server: Server, request: Request) -> bytes:
        """Send a request once and return the decoded body of a 2xx answer. Bytes are sent as JSON."""
        import aiohttp

        content = request.content() if request.content else None
        headers = {"Authorization": f"Bearer {server.key}"}
        if isinstance(content, bytes):
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                request.method,
                server.url + request.path,
                data=content,
                headers=headers,
                allow_redirects=False,
                proxy=server.proxy,
            ) as response:
                self._responses += 1
                failed = response.status // 100 != 2
                packed, encoding = await read_body(response, request.most), response.headers.get("Content-Encoding", "")
                body = (decoded_refusal if failed else decoded)(packed, encoding, request.most)
                body = as_utf8(body, response.charset)
                body = blotted(body, server.all_secret_forms if failed else server.secret_forms)
                if failed:
                    location = blot(target_of(response.headers.get("Location", "")), server.all_secret_forms)
                    raise status_error(response.status, response.headers.get("Retry-After"), body, location=location)
                if isinstance(content, bytes):
                    refuse_error(body)
                return body
        except aiohttp.ClientSSLError as error:
            raise EngineError(
                f"{server.url}: {error}; fix its certificate, or skip the verification with --insecure"
            ) from None
        except CallError as error:
            error.url = server.url
            raise
        except (aiohttp.ClientError, OSError) as error:
            reason = blot(connection_words(error), server.all_secret_forms)
            unsent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
            raise (NoConnectionError if unsent else APIConnectionError)(reason) from None
