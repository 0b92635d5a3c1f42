"""Judge through OpenAI-compatible servers: OpenAI itself, one or more instances of `vllm serve`, and others.

Requests run concurrently. They ask for constrained answers and log-probabilities. The first requests of a run are sent
alone, to each server one, and show which options it accepts (`labelkit.engines.ladder`). Answers are parsed strictly in
any case.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from labelkit.engines import Engine, EngineFacts, Probed, Reply, Request, Settings, Traits
from labelkit.engines.answer_text import NO_END, says
from labelkit.engines.client import FEW_TRIES, TRIES, Client, seconds_for
from labelkit.engines.completions import ScoreWatch, read_answer
from labelkit.engines.dialects import Dialect, chat_body, dialect_of
from labelkit.engines.http import CallError, RetriedError, spoken
from labelkit.engines.in_flight import flow
from labelkit.engines.ladder import NAMING, Ladder, may_name, named_option, parameter_in
from labelkit.engines.rerank_api import RerankApi
from labelkit.engines.several_servers import Servers
from labelkit.engines.stopping import FinalErrors
from labelkit.engines.tokenizers import file_tokens, stated_context
from labelkit.errors import EngineError, MissingPackageError, UsageError

TRAITS = Traits(file_tokens, stated_context, tries=TRIES, pairs=lambda settings: True)
CONCURRENCY = 32
OPENAI_URL = "https://api.openai.com/v1"
PATH = "/chat/completions"
SOON_SECONDS = 60.0
"""Seconds for a first request at one of several servers, before it is sent to the next one."""
FAULTS = 2
"""Most first requests without an answer, or with one that breaks off, before all others are sent together."""
EFFORT = re.compile(r"reasoning.?effort|reasoning_effort|thinking.?level", re.IGNORECASE)
OUT_OF_LENGTH = re.compile(r"could not finish the message because max_tokens", re.IGNORECASE)
"""Words of OpenAI's refusal for an answer whose token limit was used up by reasoning."""


def open_engine(settings: Settings) -> "OpenAIEngine":
    """Prepare the connection; nothing is sent before the first request."""
    return OpenAIEngine(settings)


class OpenAIEngine(Engine):
    """Chat completions over HTTP, many concurrently."""

    def __init__(self, settings: Settings, *, only_probes: bool = False) -> None:
        """Prepare the connection. With `only_probes`, a server that lacks this API is not a wrong address."""
        try:
            import aiohttp
        except ImportError:
            raise MissingPackageError("aiohttp", "openai") from None
        self._settings = settings
        self._concurrency = settings.concurrency or CONCURRENCY
        urls = settings.base_urls or (OPENAI_URL,)
        self._client = Client(urls, ceiling=self._concurrency, insecure=settings.insecure)
        self._servers = Servers(urls)
        self._ladder = Ladder()
        self._scores = ScoreWatch()
        self._final = FinalErrors(settings.model, any_path=only_probes)
        self.settled = False
        self.facts = EngineFacts(
            engine="openai", engine_version=f"aiohttp {aiohttp.__version__}", revision=settings.revision
        )

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """Do nothing: the server has the tokenizer, and labels are looked up in its list of most probable tokens."""

    def adopt(self, sent: Mapping[str, Any] | None) -> None:
        self._ladder, self.settled = Ladder(dialect_of(sent or {})), True
        self.facts = self.facts._replace(sent=tuple((sent or {}).items()))

    def probe(self, request: Request) -> Probed:
        """Send a request to a server whose dialect is not known yet. Raises `EngineError` if two servers differ."""
        self._servers.check()
        faults: list[str] = []
        dialect, silent = self._ladder.dialect, False
        try:
            with asyncio.Runner() as runner:
                answer = runner.run(self._alone(request, self._content(request, dialect), faults))
        except CallError as error:
            if problem := self._final.certain(error):
                raise EngineError(problem) from None
            reply = self._failed(request, error, faults)
            if reply.error is None:
                again = self._ladder.answered(request, reply)
            else:
                self._refuse_effort(request, error)
                again, silent = self._ladder.refused(request, error), not may_name(error)
                if not again and not (silent and self._servers.others):
                    self._final.refuse(error)
                    if self._servers.refuse(request, error, dialect):
                        self._ladder = Ladder()
                if error.status in NAMING:
                    reply = reply.model_copy(update={"tries": len(faults)})
        else:
            reply = self._read(answer, request, dialect, faults=faults)
            again = self._ladder.answered(request, reply)
        return Probed(reply, self._known_now(request, reply, again, silent=silent))

    def learn(self, request: Request, reply: Reply) -> bool:
        return self._known_now(request, reply, self._ladder.answered(request, reply), silent=False)

    def _known_now(self, request: Request, reply: Reply, again: bool, *, silent: bool) -> bool:
        """Take over what the ladder found out; return whether to send the same request again."""
        if self._ladder.settled:
            self._servers.see_scores(request, reply)
        if self._ladder.settled or silent:
            again = self._next_server(silent=silent)
        self.facts = self.facts._replace(sent=tuple(self._ladder.dialect.changes().items()))
        return again

    async def _alone(self, request: Request, content: bytes, faults: list[str]) -> bytes:
        """Send a request to one server; one of several is given up sooner, because the others can answer."""
        tries, least = (FEW_TRIES, SOON_SECONDS) if len(self._client.urls) > 1 else (TRIES, None)
        url, seconds = self._servers.unknown[0], seconds_for(request.max_tokens, least)
        client = Client((url,), ceiling=1, insecure=self._settings.insecure, tries=tries, tries_at_500=FEW_TRIES)
        async with client:
            await self._final.look(client)
            return await client.call("POST", PATH, lambda: content, faults=faults, seconds=seconds)

    def _next_server(self, *, silent: bool) -> bool:
        """Go to the next server, as this one is known or does not answer; return whether to send the request again."""
        if silent and not self._servers.others:
            return False
        if silent:
            self._servers.skip()
        else:
            self._servers.settle(self._ladder.dialect)
        self.settled = not self._servers.unknown
        if not self.settled:
            self._ladder = Ladder(self._ladder.dialect)
        return silent

    def _refuse_effort(self, request: Request, error: CallError) -> None:
        """Raise `EngineError` if a server refuses the reasoning effort, which the user has asked for."""
        effort = self._settings.reasoning_effort
        if effort is None or not may_name(error):
            return
        named = parameter_in(error.body)
        other = named_option(request, self._ladder.dialect, error.body)
        if EFFORT.search(named or "") or (named is None and other is None and EFFORT.search(error.body)):
            raise EngineError(f"the server refuses --reasoning-effort {effort}: {spoken(error)}")

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        source = iter(requests)
        for first in islice(source, 1):
            yield from self._pairs(chain([first], source)) if first.pair else self._chats(chain([first], source))

    def _chats(self, source: Iterator[Request]) -> Iterator[list[Reply]]:
        """Answer requests with chat messages: the first ones alone, until the dialects of all servers are known."""
        faults = 0
        while not self.settled and (request := next(source, None)) is not None:
            reply = self._told(request)
            if reply is None:
                source = chain([request], source)
                continue
            faults += reply.tries > 0 and (reply.error is not None or says(reply.finish_reason, NO_END))
            if faults == FAULTS:
                self.adopt(dict(self.facts.sent))
            yield [reply]
        self._servers.check()
        with self._connected() as runner:
            for replies in flow(runner, self._answer, source, most=self._concurrency):
                yield replies
                self._servers.compare(self._client.answered)

    def _told(self, request: Request) -> Reply | None:
        """Answer a first request alone; None if a server that is known can answer it."""
        replies: dict[tuple[Any, ...], Reply] = {}
        again = True
        while again and not self.settled:
            sent = self.facts.sent
            replies[sent], again = self.probe(request)
        # The dialect may be one that an earlier try was answered in.
        reply = replies.get(self.facts.sent, replies[sent])
        return None if again and reply.error is not None else reply

    def _pairs(self, source: Iterator[Request]) -> Iterator[list[Reply]]:
        """Answer requests with pairs for a reranker."""
        if not self._settings.base_urls:
            raise UsageError(
                "OpenAI has no reranker: give the address of a server with --base-url, ending before /rerank"
            )
        with self._connected() as runner:
            yield from self._reranker().together(runner, source, self._concurrency)

    def _reranker(self) -> RerankApi:
        return RerankApi(self._client, self._settings.model, self._final, insecure=self._settings.insecure)

    @contextmanager
    def _connected(self) -> Iterator[asyncio.Runner]:
        with asyncio.Runner() as runner:
            runner.run(self._client.__aenter__())
            try:
                runner.run(self._final.look(self._client))
                yield runner
            finally:
                runner.run(self._client.__aexit__())

    def close(self) -> None:
        """Do nothing: connections are closed after each run."""

    async def _answer(self, request: Request) -> Reply:
        """Send a request with retries; a failure becomes a reply with `error`, unless it is final for the run."""
        faults: list[str] = []
        dialect = self._ladder.dialect
        try:
            content, seconds = self._content(request, dialect), seconds_for(request.max_tokens)
            answer = await self._client.call("POST", PATH, lambda: content, faults=faults, seconds=seconds)
        except CallError as error:
            self._final.refuse(error)
            self._servers.see_refusal(error)
            return self._failed(request, error, faults)
        return self._read(answer, request, dialect, faults=faults)

    def _content(self, request: Request, dialect: Dialect) -> bytes:
        body = chat_body(self._settings.model, request, dialect, effort=self._settings.reasoning_effort)
        return json.dumps(body).encode()

    def _read(self, answer: bytes, request: Request, dialect: Dialect, *, faults: list[str]) -> Reply:
        self._final.see(answer)
        wrapped = dialect.in_json and bool(request.labels or request.pattern)
        reply = read_answer(answer, request, in_json=wrapped).model_copy(update={"tries": 1 + len(faults)})
        if reply.error is None:
            self._scores.see(reply, request)
        return reply

    def _failed(self, request: Request, error: CallError, faults: list[str]) -> Reply:
        """Return the reply to a request without an answer."""
        # The faults include the last try, unless that one failed by an error that is not retried.
        tries = max(1, len(faults) + (not isinstance(error, RetriedError)))
        if OUT_OF_LENGTH.search(error.body):
            return Reply(key=request.key, finish_reason="length", tries=tries)
        return Reply(key=request.key, error=spoken(error), tries=tries, raw=error.raw)
