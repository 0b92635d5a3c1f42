"""Judge through any OpenAI-compatible server: OpenAI itself, `vllm serve`, one or a fleet of them, and the many others.

Requests run concurrently. Constrained answers and log-probabilities are asked for, and given up with a word on the
screen where the server refuses them; the strict parser stays in force either way.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from labelkit.engines import LOWEST, Engine, EngineFacts, Reply, Request, Settings
from labelkit.engines.client import Client
from labelkit.engines.http import AuthenticationError, BadRequestError, CallError, RetriedError, spoken
from labelkit.engines.in_flight import flow
from labelkit.errors import EngineError, MissingPackageError, UsageError
from labelkit.storage.credentials import PLACES

log = logging.getLogger(__name__)

CONCURRENCY = 32
OPENAI_URL = "https://api.openai.com/v1"
TOP_LOGPROBS = 20
SLACK = 1e-3
"""A log-probability may be above 0 by rounding, not by more."""
MALFORMED = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError)
"""What reading a reply raises that is no chat completion: HTML with status 200, wrong types, half a body."""


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
                yield from flow(runner, self._answer, requests, self._concurrency, self._unproven)
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
        except (CallError, *MALFORMED) as error:
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
            reply = read_completion(json.loads(answer), request).model_copy(update={"tries": 1 + len(faults)})
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


def read_completion(completion: Any, request: Request) -> Reply:
    """A completion as a reply. Servers send anything with status 200: what is missing stays None and fails in the
    parser, what is of a wrong type raises one of `MALFORMED`.
    """
    usage = completion.get("usage") or {}
    fields = {
        "key": request.key,
        "model": completion.get("model"),
        "fingerprint": completion.get("system_fingerprint"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
    }
    if not completion.get("choices"):
        return Reply(**fields)
    choice = completion["choices"][0]
    text = choice["message"].get("content")
    logprobs, masked = label_logprobs(choice.get("logprobs"), text, request.labels)
    return Reply(
        **fields,
        text=text if text is None else printable(text),
        finish_reason=choice.get("finish_reason"),
        label_logprobs=logprobs,
        masked=masked,
    )


def label_logprobs(logprobs: Any, text: str | None, labels: tuple[str, ...]) -> tuple[dict[str, float] | None, bool]:
    """Log-probability of each label at the first token of the answer, and whether all other tokens were masked away.

    A label outside the list gets the lowest value in it, which is its upper bound; None where no label has one.
    """
    if not logprobs or not logprobs.get("content") or not text:
        return None, False
    first = answer_token(logprobs["content"], text)
    if first is None:
        return None, False
    listed: dict[str, float] = {}
    for entry in first["top_logprobs"]:
        if not entry["logprob"] <= SLACK:
            raise ValueError(f"log-probability {entry['logprob']} of {entry['token']!r}")
        token, value = entry["token"].strip(), max(float(entry["logprob"]), LOWEST)
        listed[token] = max(value, listed.get(token, LOWEST))
    others = [value for token, value in listed.items() if token not in labels]
    if max((listed.get(label, LOWEST) for label in labels), default=LOWEST) == LOWEST:
        return None, False
    lowest = min(listed.values())
    return {label: listed.get(label, lowest) for label in labels}, bool(others) and max(others) == LOWEST


def answer_token(tokens: Any, text: str) -> Any:
    """The token with which the answer begins: the last from where on the tokens spell it.

    Reasoning stands before it and an end token may stand behind it. None where the tokens never spell the answer.
    """
    spelled = ""
    for token in reversed(tokens):
        spelled = token["token"] + spelled
        if spelled.lstrip().startswith(text.strip()):
            return token
    return None


def printable(text: str) -> str:
    """Text as UTF-8 can hold it. Raises `UnicodeEncodeError` for a lone surrogate, which no model means to say."""
    text.encode()
    return text
