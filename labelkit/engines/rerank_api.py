"""Score pairs through the rerank API of a server, as vLLM, Jina, Cohere, Text Embeddings Inference and others speak it.

The passages of a query are sent together. A first request, sent alone with one passage, shows which dialect the server
speaks: dialects that ask for raw logits come first. Further servers must give a pair the score that the first one gives
it. A request that the server refuses is sent again in halves, so that a bad passage fails alone.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from labelkit.engines import Reply, Request
from labelkit.engines.client import FEW_TRIES, TRIES, Client
from labelkit.engines.http import (
    REASON_LENGTH,
    AuthenticationError,
    CallError,
    DeadlineError,
    RetriedError,
    SilentError,
    spoken,
)
from labelkit.engines.in_flight import flow
from labelkit.engines.rerank_answers import read_scores
from labelkit.engines.stopping import FinalErrors, said
from labelkit.errors import EngineError

log = logging.getLogger(__name__)

DOCUMENTS = 32
"""Most passages of a request: the default limit of Text Embeddings Inference, and below the limits of the others."""
REFUSED = 2
"""Number of first requests that, refused in all dialects, end the run."""
EARLY = 10
"""Number of first scores that must all lie between 0 and 1 before the run logs that they are probabilities."""


class Dialect(NamedTuple):
    """A form of the rerank API. All of them may return results in any order, with the index of each passage."""

    path: str
    body: Callable[[str, str, list[str]], dict[str, Any]]
    """(model, query, passages) -> JSON body of a request."""


def listed(model: str, query: str, texts: list[str]) -> dict[str, Any]:
    """Return the fields that vLLM, Jina and Cohere share. Without `top_n`, some servers return the best few alone."""
    return {"model": model, "query": query, "documents": texts, "top_n": len(texts)}


DIALECTS: dict[str, Dialect] = {
    "vllm": Dialect(
        "/rerank",
        lambda model, query, texts: listed(model, query, texts) | {"use_activation": False},
    ),
    "tei": Dialect("/rerank", lambda model, query, texts: {"query": query, "texts": texts, "raw_scores": True}),
    "jina": Dialect(
        "/rerank",
        lambda model, query, texts: listed(model, query, texts) | {"return_documents": False},
    ),
    "cohere": Dialect("/rerank", lambda model, query, texts: listed(model, query, texts)),
    "score": Dialect(
        "/score",
        lambda model, query, texts: {"model": model, "text_1": query, "text_2": texts, "use_activation": False},
    ),
}
"""Name of a dialect -> its requests, in the order in which they are tried. `score` is the older API of vLLM."""


class RerankApi:
    """The rerank API of servers that serve one model."""

    def __init__(self, client: Client, model: str, final: FinalErrors, *, insecure: bool) -> None:
        self._client = client
        self._model = model
        self._final = final
        self._insecure = insecure
        self._unknown = list(client.urls)
        """Servers that have not shown yet whether they speak the dialect of the run."""
        self._known: str | None = None
        """Address of the server whose dialect is the dialect of the run."""
        self._dialect: str | None = None
        """Dialect of the run; None before a server has answered."""
        self._refused = 0
        """Number of first requests that were refused in all dialects."""
        self._problem: str | None = None
        """Reason to end the run once the replies that arrived are stored."""
        self._seen = 0
        """Number of scores so far that all lie between 0 and 1; -1 once it does not matter."""

    def together(self, runner: asyncio.Runner, requests: Iterable[Request], most: int) -> Iterator[list[Reply]]:
        """Yield one reply per request; at most `most` calls to the server are in progress.

        Raises `EngineError` after the replies that arrived if no server speaks a known dialect, or two servers differ.
        """
        batches = self._batches(requests)
        for arrived in flow(runner, self._answer, batches, most=most, alone=lambda batch: bool(self._unknown)):
            yield list(chain.from_iterable(arrived))
            if self._problem is not None:
                raise EngineError(self._problem)

    def _batches(self, requests: Iterable[Request]) -> Iterator[list[Request]]:
        """Yield the requests of a query together; only one request until all servers are known."""
        waiting: list[Request] = []
        for request in requests:
            full = bool(self._unknown) or len(waiting) == DOCUMENTS
            if waiting and (full or request.group != waiting[0].group):
                yield waiting
                waiting = []
            waiting.append(request)
        if waiting:
            yield waiting

    async def _answer(self, batch: list[Request]) -> list[Reply]:
        """Send a batch with retries; a failure becomes replies with `error`, unless it is final for the run."""
        faults: list[str] = []
        try:
            if self._unknown:
                return [await self._first_answer(batch[0], faults)]
            replies = await self._call(self._client, batch, faults)
        except CallError as error:
            self._final.refuse(error)
            if len(batch) == 1 or error.raw or isinstance(error, RetriedError | DeadlineError):
                return failed(batch, error, faults)
            half = len(batch) // 2
            return await self._in_parts([batch[:half], batch[half:]])
        missing = [request for request, reply in zip(batch, replies, strict=True) if reply.score is None]
        scored = len(batch) - len(missing)
        if not missing or not scored:
            return replies
        # A server that returns only so many of a list gets lists of this length.
        parts = [missing[start : start + scored] for start in range(0, len(missing), scored)]
        first = {reply.key: reply for reply in replies}
        again = await self._in_parts(parts)
        later = {reply.key: reply.model_copy(update={"tries": reply.tries + first[reply.key].tries}) for reply in again}
        return list((first | later).values())

    async def _in_parts(self, parts: list[list[Request]]) -> list[Reply]:
        """Send the parts of a batch; an error that is final ends the run after the replies before it are stored."""
        replies: list[Reply] = []
        try:
            for part in parts:
                replies += await self._answer(part)
        except EngineError as error:
            self._problem = str(error)
        return replies

    async def _first_answer(self, request: Request, faults: list[str]) -> Reply:
        """Send a request to a server that is not known yet; the run continues without a server that does not answer."""
        url, others = self._unknown[0], self._known is not None or len(self._unknown) > 1
        try:
            async with self._one(url) as client:
                if self._known is None:
                    return await self._search(client, request, faults)
                shown = await self._shown(client, request, faults)
        except (RetriedError, DeadlineError, SilentError) as error:
            if not others:
                raise
            log.info(f"{url} does not answer ({spoken(error)}): this run continues without it")
            self._unknown.pop(0)
            self._client.leave_out(url)
            (reply,) = await self._answer([request])
            return reply
        return await self._compared(url, shown, request, faults=faults)

    def _one(self, url: str) -> Client:
        """Return a client of one of the servers."""
        tries = FEW_TRIES if len(self._client.urls) > 1 else TRIES
        return Client((url,), ceiling=1, insecure=self._insecure, tries=tries)

    async def _search(self, client: Client, request: Request, faults: list[str]) -> Reply:
        """Send a request in one dialect after the other until one is answered, which becomes that of the run."""
        refused: dict[str, list[str]] = {}
        unread: list[Reply] = []
        for name in DIALECTS:
            try:
                (reply,) = await self._call(client, [request], faults, dialect=name)
            except (RetriedError, DeadlineError, SilentError, AuthenticationError):
                raise
            except CallError as error:
                if self._final.problem(error, any_path=True):
                    raise
                refused.setdefault(spoken(error), []).append(name)
                unread += failed([request], error, faults) if error.raw else []
                continue
            if reply.error is None:
                self._dialect, self._known = name, self._unknown.pop(0)
                return reply
            refused.setdefault(f"the answer {(reply.raw or '')[:REASON_LENGTH]!r}", []).append(name)
            unread.append(reply)
        self._refused += 1
        length = REASON_LENGTH // len(refused)
        reasons = "; ".join(f"{', '.join(names)}: {reason[:length]}" for reason, names in refused.items())
        words = f"no known rerank API (paths /rerank and /score after the address): {reasons}"
        if unread or self._refused == REFUSED:
            self._problem = f"{client.addresses} speaks {words}"
        raw = "\n".join(dict.fromkeys(reply.raw for reply in unread if reply.raw)) or None
        return Reply(key=request.key, error=words, raw=raw, tries=max(1, len(unread) + len(faults)))

    async def _shown(self, client: Client, request: Request, faults: list[str]) -> Reply:
        """Return the reply of a further server in the dialect of the run, with `error` if it does not speak it."""
        try:
            (reply,) = await self._call(client, [request], faults)
        except (RetriedError, DeadlineError, SilentError):
            raise
        except CallError as error:
            if problem := self._final.certain(error):
                raise EngineError(problem) from None
            return Reply(key=request.key, error=f"refuses it: {said(error)}", raw=error.raw, tries=0)
        return reply if reply.error is None else reply.model_copy(update={"error": f"says otherwise: {reply.error}"})

    async def _compared(self, url: str, shown: Reply, request: Request, *, faults: list[str]) -> Reply:
        """Send a request to the first server, too, which must score the pair as a further one did."""
        assert self._known is not None
        async with self._one(self._known) as first:
            (reply,) = await self._call(first, [request], faults)
        reply = reply.model_copy(update={"tries": reply.tries + shown.tries, "raw": reply.raw or shown.raw})
        if reply.score is None:
            return reply  # this request says nothing about the further server
        self._unknown.pop(0)
        if shown.score is None or not alike(shown.score, reply.score):
            gives = shown.error or f"gives {shown.score:.4g} to a pair that gets {reply.score:.4g} there"
            self._problem = (
                f"{self._known} speaks the rerank API {self._dialect!r}, and {url} {gives}; the servers of a run must "
                "score alike: leave one out, or judge with each of them in a folder of its own"
            )
        return reply

    async def _call(
        self, client: Client, batch: Sequence[Request], faults: list[str], *, dialect: str | None = None
    ) -> list[Reply]:
        """Send a batch in a dialect, by default that of the run."""
        name = dialect or self._dialect or ""
        path, make_body = DIALECTS[name]
        texts = [request.messages[1].content for request in batch]
        body = json.dumps(make_body(self._model, batch[0].messages[0].content, texts)).encode()
        replies = read_scores(await client.post(path, body, faults), batch, name)
        self._see(replies)
        return [reply.model_copy(update={"tries": 1 + len(faults)}) for reply in replies]

    def _see(self, replies: Sequence[Reply]) -> None:
        """Log once, early in a run, that a server gives probabilities."""
        for reply in replies:
            if self._seen < 0 or reply.score is None:
                continue
            self._seen = self._seen + 1 if 0 <= reply.score <= 1 else -1
            if self._seen == EARLY:
                log.info(
                    "the server gives scores between 0 and 1, which are probabilities instead of raw logits: they are "
                    "preserved as they are"
                )
                self._seen = -1


def failed(batch: Sequence[Request], error: CallError, faults: Sequence[str]) -> list[Reply]:
    """Return the replies to a batch without a readable answer; the first one has the body of the answer."""
    tries = max(1, len(faults) + (not isinstance(error, RetriedError | DeadlineError)))
    replies = [Reply(key=request.key, error=spoken(error), tries=tries) for request in batch]
    return [replies[0].model_copy(update={"raw": error.raw}), *replies[1:]]


def alike(score: float, other: float) -> bool:
    """Return whether two scores of a pair can come from one model, in the precisions that servers run it in."""
    return abs(score - other) <= 0.25 + 0.1 * max(abs(score), abs(other))
