"""HTTP to OpenAI-compatible servers: where a request may go, how long it may take, how often it is sent again.

A call has one deadline over all its tries, however slowly a server drips. A server that says 429 is sent less at once,
and more again as it answers; one that does not answer is left out for a while where there are others. No answer is
larger than a limit, packed or not, and no redirect is followed.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, Self

from labelkit.engines.concurrency import Server
from labelkit.engines.http import (
    BODY_BYTES,
    APIConnectionError,
    CallError,
    DeadlineError,
    RateLimitError,
    RetriedError,
    blotted,
    checked_url,
    decoded,
    read_body,
    refuse_error,
    status_error,
)
from labelkit.errors import EngineError
from labelkit.storage.credentials import blot

log = logging.getLogger(__name__)

CALL_SECONDS = 300.0
"""Deadline of a call with all its retries, from the moment it is first sent."""
CONNECT_SECONDS = 20.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first retry and the most between two; the pause doubles and is drawn at random below that."""
LONGEST_WAIT = 60.0
"""The most seconds that a server's Retry-After is obeyed: one that asks for more is asked again after this long."""
TRIES = 8
"""Tries of a call that meet a fault of server or connection; a 429 is no fault and is waited out until the deadline."""


def asked_by(error: CallError) -> float | None:
    """Return the seconds that a server asked to wait; None where it did not."""
    return error.wait if isinstance(error, RetriedError) else None


def seconds_before_retry(error: CallError, pause: float) -> float:
    """Return the seconds to wait before a request is sent again: our own pause, drawn between 0 and `pause`, or the
    server's Retry-After up to `LONGEST_WAIT` where that is longer.
    """
    return max(random.uniform(0, min(pause, LONGEST_PAUSE)), min(asked_by(error) or 0.0, LONGEST_WAIT))


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

    async def wait(self, error: CallError, pause: float) -> None:
        """Wait before a request that met an error is given again (see `seconds_before_retry`), and report it."""
        seconds = seconds_before_retry(error, pause)
        self._servers[0].waits(seconds, asked_by(error), error, now=asyncio.get_running_loop().time())
        await asyncio.sleep(seconds)

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
                    wait = seconds_before_retry(error, pause)
                    if len(faults) >= TRIES or loop.time() + wait > deadline:
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
                body = blotted(body, server.all_secret_forms if failed else server.secret_forms)
                if failed:
                    raise status_error(response.status, response.headers.get("Retry-After"), body)
                if isinstance(content, bytes):
                    refuse_error(body)
                return body
        except aiohttp.ClientSSLError as error:
            raise EngineError(
                f"{server.url}: {error}; mend its certificate, or trust it unverified with --insecure"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            reason = blot(f"{type(error).__name__}: {error}", server.all_secret_forms)
            raise APIConnectionError(reason) from None
