"""Judge through any OpenAI-compatible server: OpenAI itself, `vllm serve`, and the many others.

Requests run concurrently. Retries are ours, not the client's: what a 429, a 5xx or a broken connection costs is
bounded by a deadline a call. Constrained answers and log-probabilities are asked for, and given up with a word on the
screen where the server refuses them; the strict parser stays in force either way.
"""

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from labelkit.console import say
from labelkit.engines import EngineFacts, Reply, Request, Settings
from labelkit.errors import EngineError, MissingPackageError, UsageError

CONCURRENCY = 32
TOP_LOGPROBS = 20
LOWEST = -9999.0
"""What vLLM sends for minus infinity."""
SLACK = 1e-3
"""A log-probability may be above 0 by rounding, not by more."""
MALFORMED = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError)
"""What reading a reply raises that is no chat completion: HTML with status 200, wrong types, half a body."""
REASON_LENGTH = 300
CALL_SECONDS = 300.0
"""Deadline of a call with all its retries."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the first retry and the most between two; the pause doubles and is drawn at random below that."""
KEY_VARIABLES = ("LABELKIT_API_KEY", "OPENAI_API_KEY")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_TOKENS = 8
"""Enough for any label; an answer that goes on is no label."""


def open_engine(settings: Settings) -> "OpenAIEngine":
    """Prepare the connection; nothing is sent before the first request."""
    return OpenAIEngine(settings)


Options = Callable[[tuple[str, ...]], dict[str, Any]]
"""What to ask of a server beside the text, from the labels."""


class OpenAIEngine:
    """Chat completions over HTTP, many at once."""

    def __init__(self, settings: Settings) -> None:
        try:
            import openai
        except ImportError:
            raise MissingPackageError("openai", "openai") from None
        if settings.dtype or settings.max_model_len:
            raise UsageError("the server decides dtype and context length: engine openai takes neither")
        self._settings = settings
        self._key = api_key(settings.base_url)
        self._options: tuple[Options, ...] = (constrained, with_logprobs, plain)
        self._proven = False
        self.facts = EngineFacts(
            engine="openai", engine_version=f"openai {openai.__version__}", revision=settings.revision
        )

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """The tokenizer is the server's: the labels are matched in its list of likeliest tokens instead."""

    def run(self, requests: Iterable[Request]) -> Iterator[Reply]:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        source = iter(requests)
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            # A redirect would carry prompts and key to whoever the server names.
            http = DefaultAsyncHttpxClient(follow_redirects=False)
            client = AsyncOpenAI(api_key=self._key, base_url=self._settings.base_url, max_retries=0, http_client=http)
            running: set[asyncio.Task[Reply]] = set()
            done: set[asyncio.Task[Reply]] = set()
            try:
                while True:
                    for request in source:
                        running.add(loop.create_task(self._answer(client, request)))
                        # One request alone finds out what the server can do.
                        if len(running) >= (self._settings.concurrency or CONCURRENCY) or not self._proven:
                            break
                    if not running:
                        break
                    done, running = runner.run(_first(running))
                    for task in done:
                        yield task.result()
            finally:
                runner.run(_stop(done | running, client))

    def close(self) -> None:
        """Connections end with each run."""

    async def _answer(self, client: Any, request: Request) -> Reply:
        """One call with its retries; whatever goes wrong becomes a reply with `error`."""
        import openai

        pause = FIRST_PAUSE
        try:
            async with asyncio.timeout(CALL_SECONDS):
                while True:
                    try:
                        return await self._call(client, request)
                    except (
                        openai.RateLimitError,
                        openai.APIConnectionError,
                        openai.InternalServerError,
                    ) as error:
                        if pause > LONGEST_PAUSE:
                            return self._failed(request, error)
                        await asyncio.sleep(retry_after(error) or random.uniform(0, pause))
                        pause *= 2
        except TimeoutError:
            return Reply(key=request.key, error=f"no answer within {CALL_SECONDS:.0f} s")
        except openai.AuthenticationError as error:
            raise EngineError(f"the server refuses the key in {' or '.join(KEY_VARIABLES)}: {error}") from None
        except (openai.OpenAIError, *MALFORMED) as error:
            return self._failed(request, error)

    def _failed(self, request: Request, error: Exception) -> Reply:
        """The reason on one line; some servers repeat the key that they were sent."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:REASON_LENGTH]
        safe = reason.replace(self._key, "[key]").encode(errors="backslashreplace").decode()
        return Reply(key=request.key, error=safe)

    async def _call(self, client: Any, request: Request) -> Reply:
        """Ask for all that the server may offer.

        A 400 can mean that it lacks an option or that this request is bad: the option is given up only where the same
        request goes through without it.
        """
        import openai

        refused: openai.BadRequestError | None = None
        for number, options in enumerate(self._options):
            try:
                completion = await client.chat.completions.create(
                    model=self._settings.model,
                    messages=[message._asdict() for message in request.messages],
                    temperature=0,
                    max_tokens=MAX_TOKENS,
                    **options(request.labels),
                )
            except openai.BadRequestError as error:
                refused = error
                if self._proven:
                    break
                continue
            reply = read_completion(completion, request)
            if number:
                say(f"the server refuses {self._options[0].__name__} answers; going on {options.__name__}")
            if not self._proven:
                self._options, self._proven = self._options[number:], True
            return reply
        assert refused is not None
        return self._failed(request, refused)


async def _first(
    running: set[asyncio.Task[Reply]],
) -> tuple[set[asyncio.Task[Reply]], set[asyncio.Task[Reply]]]:
    return await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)


async def _stop(tasks: set[asyncio.Task[Reply]], client: Any) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()


def constrained(labels: tuple[str, ...]) -> dict[str, Any]:
    """vLLM's choice constraint beside log-probabilities."""
    return with_logprobs(labels) | {"extra_body": {"structured_outputs": {"choice": list(labels)}}}


def with_logprobs(labels: tuple[str, ...]) -> dict[str, Any]:
    """Log-probabilities of the likeliest tokens, as OpenAI's own models give them."""
    return {"logprobs": True, "top_logprobs": TOP_LOGPROBS}


def plain(labels: tuple[str, ...]) -> dict[str, Any]:
    """Text only: grades without scores."""
    return {}


def read_completion(completion: Any, request: Request) -> Reply:
    """A completion as a reply. Servers send anything with status 200: what is missing stays None and fails in the
    parser.
    """
    usage = completion.usage
    fields = {
        "key": request.key,
        "model": completion.model,
        "fingerprint": completion.system_fingerprint,
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
    }
    if not completion.choices:
        return Reply(**fields)
    choice = completion.choices[0]
    text = choice.message.content
    logprobs, masked = label_logprobs(choice.logprobs, request.labels)
    return Reply(
        **fields,
        text=text if text is None else printable(text),
        finish_reason=choice.finish_reason,
        label_logprobs=logprobs,
        masked=masked,
    )


def label_logprobs(logprobs: Any, labels: tuple[str, ...]) -> tuple[dict[str, float] | None, bool]:
    """Log-probability of each label at the first token, and whether all other tokens were masked away.

    A label outside the list gets the lowest value in it, which is its upper bound; None where no label has one.
    """
    if logprobs is None or not logprobs.content:
        return None, False
    listed: dict[str, float] = {}
    for entry in logprobs.content[0].top_logprobs:
        if not entry.logprob <= SLACK:
            raise ValueError(f"log-probability {entry.logprob} of {entry.token!r}")
        token, value = entry.token.strip(), max(float(entry.logprob), LOWEST)
        listed[token] = max(value, listed.get(token, LOWEST))
    others = [value for token, value in listed.items() if token not in labels]
    if max((listed.get(label, LOWEST) for label in labels), default=LOWEST) == LOWEST:
        return None, False
    lowest = min(listed.values())
    return {label: listed.get(label, lowest) for label in labels}, bool(others) and max(others) == LOWEST


def printable(text: str) -> str:
    """Text as UTF-8 can hold it. Raises `UnicodeEncodeError` for a lone surrogate, which no model means to say."""
    text.encode()
    return text


def api_key(base_url: str | None) -> str:
    """The key from the environment; a server on this machine may go without. Raises `UsageError` where one is
    needed.
    """
    for variable in KEY_VARIABLES:
        if value := os.environ.get(variable):
            return value
    if base_url and urlsplit(base_url).hostname in LOOPBACK:
        return "none"
    raise UsageError(f"no API key: set {' or '.join(KEY_VARIABLES)} in the environment")


def retry_after(error: Any) -> float | None:
    """Seconds that the server asked to wait, where it said so in a number."""
    response = getattr(error, "response", None)
    try:
        return max(0.0, float(response.headers["retry-after"])) if response is not None else None
    except (KeyError, ValueError):
        return None
