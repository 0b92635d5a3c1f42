"""Engines: messages in, replies with label log-probabilities out, whoever runs the model.

An engine takes requests lazily and yields replies as they finish, in any order; each reply carries the key of its
request. One bad request gives a reply with `error` set and never stops the rest; `EngineError` means that nothing can
be judged at all.

In: requests. Out: replies. Touches: GPUs, model files, servers and clusters.
"""

import importlib
import math
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from pydantic import BeforeValidator

from labelkit.errors import UnknownNameError
from labelkit.records import Record

if TYPE_CHECKING:
    from labelkit.engines.tokenizers import Tokens

ENGINES = {
    "local": "labelkit.engines.local",
    "openai": "labelkit.engines.openai",
    "openai-batch": "labelkit.engines.openai_batch",
    "ray": "labelkit.engines.ray",
    "scripted": "labelkit.engines.scripted",
    "vllm": "labelkit.engines.vllm",
}
"""Name of an engine -> its module, which has `open_engine(settings)` and the `Traits` of the engine as `TRAITS`."""

DEFAULT = "local"
"""The engine of a judge where none is named."""
DEFAULT_WORKER = "vllm"
"""The engine of a worker of `ray` where none is named."""
LABEL_TOKENS = 8
"""Enough for any label; an answer that goes on is no label."""
MOST_TOKENS = 10**9
"""No prompt and no answer has more: a larger count is no count."""
LOWEST = -9999.0
"""Log-probability of what cannot come, as vLLM's server writes it: JSON has no infinity."""


class Message(NamedTuple):
    """One chat turn."""

    role: str
    content: str


class Request(NamedTuple):
    """What is asked: one of `labels` with its distribution over them, or, without labels, text."""

    key: str
    group: str
    """Requests of one group (the pairs of a query) share their opening; they come together."""
    messages: tuple[Message, ...]
    labels: tuple[str, ...] = ()
    pattern: str | None = None
    """A regular expression that the whole answer must match; engines that can constrain their answers to it do."""
    max_tokens: int = LABEL_TOKENS
    """The longest answer."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0 the answer is drawn."""
    seed: int | None = None
    """Of the draw, where the engine takes one."""


def token_count(value: Any) -> int | None:
    """Convert a count of tokens as somebody states it: a whole number from 0 to `MOST_TOKENS`, else None.

    JSON has one type of number: 40.0 is 40. Text, fractions, negative and non-finite numbers are no counts.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value) if int(value) == value else None


def storable(value: Any) -> Any:
    """Write lone surrogates in a text as escapes, for UTF-8 holds none; anything else stays as it is."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def all_finite(logprobs: Any) -> Any:
    """Return log-probabilities as they are; None where one of them is NaN or infinite, for JSON would lose it."""
    numbers = logprobs.values() if isinstance(logprobs, dict) else ()
    return None if any(isinstance(value, float) and not math.isfinite(value) for value in numbers) else logprobs


Count = Annotated[int | None, BeforeValidator(token_count)]
Text = Annotated[str, BeforeValidator(storable)]


class Reply(Record):
    """What came back, before anybody reads a grade out of it.

    No text and no count of a server makes it invalid: a text is storable, and a count that cannot be one is None.
    """

    key: str
    text: Text | None = None
    label_logprobs: Annotated[dict[str, float] | None, BeforeValidator(all_finite)] = None
    """Natural log-probability of each label as the first token of the answer, over the whole vocabulary, not
    renormalised. None where the engine gives no log-probabilities.
    """
    masked: bool = False
    """The probabilities are among the labels alone: how much the model wanted to say something else is lost."""
    finish_reason: Text | None = None
    error: Text | None = None
    """Why there is no answer: the request was refused, too long, timed out."""
    tries: int = 1
    """Times that the request may have been billed: sent, and not refused."""
    model: Text | None = None
    fingerprint: Text | None = None
    prompt_tokens: Count = None
    """Tokens of the prompt as the engine counted them; None where it did not, or stated an impossible number."""
    completion_tokens: Count = None
    """Tokens of the answer, as above."""
    raw: Text | None = None
    """Body of the answer as the server sent it, kept where the other fields do not hold all that it says."""


class Settings(NamedTuple):
    """What an engine may be told. Engines refuse what does not apply to them."""

    model: str
    revision: str | None = None
    dtype: str | None = None
    base_urls: tuple[str, ...] = ()
    """Addresses of servers that serve the same model (openai, openai-batch)."""
    concurrency: int | None = None
    """Requests in flight (openai) or rows a batch (local, vllm)."""
    max_model_len: int | None = None
    insecure: bool = False
    """Plain http to other machines and unverified TLS are allowed (openai, openai-batch)."""
    trust_remote_code: bool = False
    """Code that comes with the model may run (local, vllm, ray)."""
    tensor_parallel: int = 1
    """GPUs that one model is spread over (vllm)."""
    data_parallel: int = 1
    """Copies of the model that share the requests (vllm)."""
    reasoning_parser: str | None = None
    """vLLM's name for how a reasoning model marks its reasoning (vllm)."""
    worker_engine: str | None = None
    """The engine of each worker (ray)."""
    workers: int | None = None
    """How many there are (ray)."""
    wait: bool = False
    """Stay until all batches are done (openai-batch)."""
    batch_dir: Path | None = None
    """Exchange files in this folder and ask no server (openai-batch)."""
    folder: Path | None = None
    """The folder of the run, where an engine may keep a record of its own."""

    @property
    def called(self) -> str:
        """The model as provenance names it: of a local folder the name alone, for its path says who runs it where."""
        folder = Path(self.model)
        return folder.resolve().name if folder.is_dir() else self.model


class Traits(NamedTuple):
    """What is known of an engine before it is opened."""

    tokens: Callable[[Settings, str | None], "Tokens | None"]
    """(settings, tokenizer that the user names) -> the judge's tokenizer; None where nobody names that of a server."""
    context: Callable[[Settings], int | None]
    """Settings -> tokens that a prompt and its answer may have together; None where only the server knows."""
    tries: int = 1
    """The most times that one request may be sent and billed."""
    batch: bool = False
    """Requests are submitted now, at the provider's batch price, and collected later: what an earlier run submitted is
    not submitted again.
    """
    words: bool = False
    """It counts words, not tokens."""


class EngineFacts(NamedTuple):
    """What provenance keeps of an engine: these fields become those of the `Judge`."""

    engine: str
    engine_version: str
    model_answered: str | None = None
    revision: str | None = None
    dtype: str | None = None
    chat_template_sha256: str | None = None


class Engine(Protocol):
    """The interface behind which every engine stands."""

    facts: EngineFacts

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """Raise `UsageError` where two labels start with the same token under this model's tokenizer."""

    def run(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Answer every request once. The weights are loaded when the first request comes, so that a run with nothing
        to ask costs nothing.
        """
        return chain.from_iterable(self.together(requests))

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        """The same, with replies that came together in one list, so that one commit keeps them. An engine defines this
        one or `run`.
        """
        return ([reply] for reply in self.run(requests))

    def close(self) -> None:
        """Give back memory, processes and connections."""


def open_engine(name: str, settings: Settings) -> Engine:
    """Start the engine `name`. Raises `UsageError` for a wrong setting and `EngineError` where the model cannot run."""
    engine: Engine = _module_of(name).open_engine(settings)
    return engine


def traits_of(name: str) -> Traits:
    """Return what is known of the engine `name`. Raises `UnknownNameError`."""
    traits: Traits = _module_of(name).TRAITS
    return traits


def _module_of(name: str) -> Any:
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    return importlib.import_module(ENGINES[name])


def choose(logprobs: dict[str, float], request: Request) -> str:
    """The likeliest label; above temperature 0 one drawn from the sharpened or flattened probabilities.

    The key is part of the seed: one seed must not draw the same quantile for every pair.
    """
    top = max(logprobs, key=lambda label: logprobs[label])
    if request.temperature == 0:
        return top
    weights = [math.exp((value - logprobs[top]) / request.temperature) for value in logprobs.values()]
    return random.Random(f"{request.seed} {request.key}").choices(list(logprobs), weights)[0]
