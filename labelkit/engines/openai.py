"""Judge through any OpenAI-compatible server: OpenAI itself, `vllm serve`, one or a fleet of them, and the many others.

Requests run concurrently. Constrained answers and log-probabilities are asked for, and given up with a word on the
screen where the server refuses them; the strict parser stays in force either way.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from labelkit.engines import Engine, EngineFacts, Reply, Request, Settings, Traits
from labelkit.engines.client import TRIES, Client
from labelkit.engines.completions import ScoreWatch, read_answer
from labelkit.engines.http import AuthenticationError, BadRequestError, CallError, RetriedError, spoken
from labelkit.engines.in_flight import flow
from labelkit.engines.tokenizers import file_tokens, stated_context
from labelkit.errors import EngineError, MissingPackageError, UsageError
from labelkit.storage.credentials import PLACES

log = logging.getLogger(__name__)

TRAITS = Traits(file_tokens, stated_context, tries=TRIES)
CONCURRENCY = 32
OPENAI_URL = "https://api.openai.com/v1"
TOP_LOGPROBS = 20


def open_engine(settings: Settings) -> "OpenAIEngine":
    """Prepare the connection; nothing is sent before the first request."""
    return OpenAIEngine(settings)


Options = Callable[[Request], dict[str, Any]]
"""What to ask of a server beside the text."""


class OpenAIEngine(Engine):
    """Chat completions over HTTP, many at once."""

    def __init__(self, settings: Settings) -> None:
        try:
            import aiohttp
        except ImportError:
            raise MissingPackageError("aiohttp", "openai") from None
        if settings.dtype:
            raise UsageError("the server decides dtype: engine openai takes none")
        self._settings = settings
        self._concurrency = settings.concurrency or CONCURRENCY
        self._client = Client(
            settings.base_urls or (OPENAI_URL,), ceiling=self._concurrency, insecure=settings.insecure
        )
        self._options: tuple[Options, ...] = (constrained, with_logprobs, plain)
        self._scores = ScoreWatch()
        self._proven: set[frozenset[str]] = {frozenset()}
        """Combinations of options that a request has gone through with, or without."""
        self.facts = EngineFacts(
            engine="openai", engine_version=f"aiohttp {aiohttp.__version__}", revision=settings.revision
        )

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """The tokenizer is the server's: the labels are matched in its list of likeliest tokens instead."""

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        with asyncio.Runner() as runner:
            runner.run(self._client.__aenter__())
            try:
                # One request alone finds out what the server can do.
                yield from flow(runner, self._answer, requests, most=self._concurrency, alone=self._unproven)
            finally:
                runner.run(self._client.__aexit__())

    def close(self) -> None:
        """Connections end with each run."""

    def _unproven(self, request: Request) -> bool:
        return frozenset(constrained(request)) not in self._proven

    async def _answer(self, request: Request) -> Reply:
        """One call with its retries; whatever goes wrong becomes a reply with `error`."""
        faults: list[str] = []
        try:
            return await self._call(request, faults)
        except AuthenticationError as error:
            raise EngineError(f"the server refuses the key in {PLACES}: {spoken(error)}") from None
        except CallError as error:
            # The last try of a call that failed by its faults is one of them.
            tries = max(1, len(faults) + (not isinstance(error, RetriedError)))
            return Reply(key=request.key, error=spoken(error), tries=tries)

    async def _call(self, request: Request, faults: list[str]) -> Reply:
        """Ask for all that the server may offer.

        A 400 can mean that it lacks an option or that this request is bad: the option is given up only where the same
        request goes through without it.
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
                    f"the server refuses {self._options[0].__name__} answers; going on {self._options[number].__name__}"
                )
                self._options = self._options[number:]
            self._proven.add(wanted)
            return reply
        assert refused is not None
        return Reply(key=request.key, error=spoken(refused))


def chat_body(model: str, request: Request, options: Options) -> dict[str, Any]:
    """The JSON document of a chat completion."""
    return {
        "model": model,
        "messages": [message._asdict() for message in request.messages],
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        **({} if request.seed is None else {"seed": request.seed}),
        **options(request),
    }


def constrained(request: Request) -> dict[str, Any]:
    """vLLM's constraint to the labels or to the pattern, beside log-probabilities."""
    allowed = {"choice": list(request.labels)} if request.labels else {"regex": request.pattern}
    return with_logprobs(request) | ({"structured_outputs": allowed} if any(allowed.values()) else {})


def with_logprobs(request: Request) -> dict[str, Any]:
    """Log-probabilities of the likeliest tokens, as OpenAI's own models give them; for labels alone."""
    return {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if request.labels else {}


def plain(request: Request) -> dict[str, Any]:
    """Text only: grades without scores."""
    return {}
