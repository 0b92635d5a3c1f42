"""Judge through OpenAI-compatible servers: OpenAI itself, one or more instances of `vllm serve`, and others.

Requests run concurrently. They ask for constrained answers and log-probabilities. If the server refuses these, the run
logs it and continues without them; answers are parsed strictly in either case.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any

from labelkit.engines import Engine, EngineFacts, Reply, Request, Settings, Traits
from labelkit.engines.client import TRIES, Client
from labelkit.engines.completions import ScoreWatch, read_answer
from labelkit.engines.http import AuthenticationError, BadRequestError, CallError, RetriedError, spoken
from labelkit.engines.in_flight import flow
from labelkit.engines.rerank_api import RerankApi
from labelkit.engines.tokenizers import file_tokens, stated_context
from labelkit.errors import EngineError, MissingPackageError, UsageError
from labelkit.storage.credentials import PLACES

log = logging.getLogger(__name__)

TRAITS = Traits(file_tokens, stated_context, tries=TRIES, pairs=lambda settings: True)
CONCURRENCY = 32
OPENAI_URL = "https://api.openai.com/v1"
TOP_LOGPROBS = 20


def open_engine(settings: Settings) -> "OpenAIEngine":
    """Prepare the connection; nothing is sent before the first request."""
    return OpenAIEngine(settings)


Options = Callable[[Request], dict[str, Any]]
"""Function from a request to the optional fields of its JSON body."""


class OpenAIEngine(Engine):
    """Chat completions over HTTP, many concurrently."""

    def __init__(self, settings: Settings) -> None:
        try:
            import aiohttp
        except ImportError:
            raise MissingPackageError("aiohttp", "openai") from None
        self._settings = settings
        self._concurrency = settings.concurrency or CONCURRENCY
        self._client = Client(
            settings.base_urls or (OPENAI_URL,), ceiling=self._concurrency, insecure=settings.insecure
        )
        self._options: tuple[Options, ...] = (constrained, with_logprobs, plain)
        self._scores = ScoreWatch()
        self._proven: set[frozenset[str]] = {frozenset()}
        """Sets of optional fields for which one request has shown whether the server accepts them."""
        self.facts = EngineFacts(
            engine="openai", engine_version=f"aiohttp {aiohttp.__version__}", revision=settings.revision
        )

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """Do nothing: the server has the tokenizer, and labels are looked up in its list of most probable tokens."""

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        with asyncio.Runner() as runner:
            runner.run(self._client.__aenter__())
            try:
                requests = iter(requests)
                for first in islice(requests, 1):
                    yield from self._run(runner, chain([first], requests), pairs=first.pair)
            finally:
                runner.run(self._client.__aexit__())

    def _run(self, runner: asyncio.Runner, requests: Iterable[Request], *, pairs: bool) -> Iterator[list[Reply]]:
        """Answer requests that are all `pairs` for a reranker, or all chat messages."""
        if not pairs:
            # A first request, sent alone, shows which optional fields the server accepts.
            yield from flow(runner, self._answer, requests, most=self._concurrency, alone=self._unproven)
        elif not self._settings.base_urls:
            raise UsageError(
                "OpenAI has no reranker: give the address of a server with --base-url, ending before /rerank"
            )
        else:
            yield from RerankApi(self._client, self._settings.model).together(runner, requests, self._concurrency)

    def close(self) -> None:
        """Do nothing: connections are closed after each run."""

    def _unproven(self, request: Request) -> bool:
        return frozenset(constrained(request)) not in self._proven

    async def _answer(self, request: Request) -> Reply:
        """Send a request with retries; a failure becomes a reply with `error`, unless the key is refused."""
        faults: list[str] = []
        try:
            return await self._call(request, faults)
        except AuthenticationError as error:
            raise EngineError(f"the server refuses the key in {PLACES}: {spoken(error)}") from None
        except CallError as error:
            # The faults include the last try, unless that one failed by an error that is not retried.
            tries = max(1, len(faults) + (not isinstance(error, RetriedError)))
            return Reply(key=request.key, error=spoken(error), tries=tries)

    async def _call(self, request: Request, faults: list[str]) -> Reply:
        """Send a request with all optional fields that the server has not refused.

        A 400 can mean that the server does not know a field or that this request is bad: a field is given up only if
        the same request succeeds without it.
        """
        wanted = frozenset(constrained(request))
        bodies = [chat_body(self._settings.model, request, options) for options in self._options]
        refused: BadRequestError | None = None
        for number, body in enumerate(bodies):
            if body in bodies[:number]:
                continue
            try:
                answer = await self._client.post("/chat/completions", json.dumps(body).encode(), faults)
            except BadRequestError as error:
                refused = error
                if wanted in self._proven:
                    break
                continue
            reply = read_answer(answer, request).model_copy(update={"tries": 1 + len(faults)})
            if reply.error is not None:
                return reply
            self._scores.see(reply, request)
            if number:
                log.info(
                    f"the server refuses requests of type {self._options[0].__name__}; the run continues with type "
                    f"{self._options[number].__name__}"
                )
                self._options = self._options[number:]
            self._proven.add(wanted)
            return reply
        assert refused is not None
        return Reply(key=request.key, error=spoken(refused))


def chat_body(model: str, request: Request, options: Options) -> dict[str, Any]:
    """Return the JSON body of a request for a chat completion."""
    return {
        "model": model,
        "messages": [message._asdict() for message in request.messages],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        **({} if request.seed is None else {"seed": request.seed}),
        **options(request),
    }


def constrained(request: Request) -> dict[str, Any]:
    """Return the fields for log-probabilities and for vLLM's constraint to the labels or to the pattern."""
    allowed = {"choice": list(request.labels)} if request.labels else {"regex": request.pattern}
    return with_logprobs(request) | ({"structured_outputs": allowed} if any(allowed.values()) else {})


def with_logprobs(request: Request) -> dict[str, Any]:
    """Return OpenAI's fields for log-probabilities of the most probable tokens; none if the request has no labels."""
    return {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if request.labels else {}


def plain(request: Request) -> dict[str, Any]:
    """Return no fields: the answer is text only, so that grades have no scores."""
    return {}
