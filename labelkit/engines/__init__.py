"""Run language models behind one interface: chat messages in, replies with label log-probabilities out.

An engine takes requests lazily and yields replies as they finish, in any order; each reply carries the key of its
request. A bad request gives a reply with `error` set and never stops the other requests; `EngineError` means that no
request can be answered.

In: requests. Out: replies. Touches: GPUs, model files, servers and clusters.
"""

import importlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from pydantic import BeforeValidator, Field

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
"""Engine name -> module that defines `open_engine(settings)` and the engine's `TRAITS`."""

EXTRAS = {"local": "local", "vllm": "vllm", "openai": "openai", "openai-batch": "openai", "ray": "ray"}
"""Engine name -> extra that installs its packages; other engines need none."""

DEFAULT = "local"
"""Engine of a judge if none is named."""
DEFAULT_WORKER = "vllm"
"""Engine of a `ray` worker if none is named."""
LABEL_TOKENS = 8
"""Token limit of an answer that is a label; a longer answer is not a label."""
THINKING_TOKENS = 2048
"""Token limit of the reasoning before an answer if the user names a parser of reasoning and no limit."""
MOST_TOKENS = 10**9
"""Largest valid token count of a prompt or an answer."""
PAIR_ROLES = ("query", "document")
"""Roles of the two messages that a reranker scores, as in the templates of such models."""
LOWEST = -9999.0
"""Log-probability of an impossible token, as vLLM's server writes it, because JSON has no infinity."""


class Message(NamedTuple):
    """One chat turn."""

    role: str
    content: str


class Request(NamedTuple):
    """A request for one of `labels` with a distribution over them, or for free text if there are no labels."""

    key: str
    group: str
    """Requests with the same group (the pairs of a query) begin with the same text and follow each other."""
    messages: tuple[Message, ...]
    labels: tuple[str, ...] = ()
    pattern: str | None = None
    """Regular expression that the whole answer must match, enforced by engines that can constrain answers."""
    max_tokens: int = LABEL_TOKENS
    """Token limit of the answer, including the reasoning before it."""
    temperature: float = 0.0
    """0 selects the most probable token; above 0 the answer is sampled."""
    seed: int | None = None
    """Random seed of a sampled answer, for engines that accept one."""

    @property
    def pair(self) -> bool:
        """Whether the messages are the query and the document of a reranker, which replies with a score."""
        return is_pair(self.messages)


def is_pair(messages: Sequence[Message]) -> bool:
    """Return whether messages are the query and the document of a reranker."""
    return len(messages) == len(PAIR_ROLES) and (messages[0].role, messages[1].role) == PAIR_ROLES


def token_count(value: Any) -> int | None:
    """Return a stated token count as an integer from 0 to `MOST_TOKENS`; None if it is not one.

    JSON has one type of number, so 40.0 is 40. Text, fractions, negative and non-finite numbers give None.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value) if int(value) == value else None


def storable(value: Any) -> Any:
    """Return a text with lone surrogates escaped, because UTF-8 cannot encode them; other values unchanged."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def all_finite(logprobs: Any) -> Any:
    """Return log-probabilities unchanged; None if one of them is NaN or infinite, which JSON cannot store."""
    numbers = logprobs.values() if isinstance(logprobs, dict) else ()
    return None if any(isinstance(value, float) and not math.isfinite(value) for value in numbers) else logprobs


def finite(value: Any) -> Any:
    """Return a score unchanged; None if it is NaN or infinite, which JSON cannot store."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


IN_ORDER = Field(union_mode="left_to_right")
"""The first type of a union that accepts a value is used: Python code runs only for values that others refuse."""
Whole = Annotated[int, Field(strict=True, ge=0, le=MOST_TOKENS)]
Count = Annotated[Whole | Annotated[int | None, BeforeValidator(token_count)] | None, IN_ORDER]
# A `str` with a length is refused if it has lone surrogates, and a `str` alone is not.
Sound = Annotated[str, Field(min_length=0)]
Text = Annotated[Sound | Annotated[str, BeforeValidator(storable)] | None, IN_ORDER]
Logprobs = dict[str, float] | None
Number = float | None


class Reply(Record):
    """An engine's reply to one request, before a grade is parsed from it.

    No text or count from a server makes the record invalid: texts are made storable, impossible counts become None.
    """

    key: str
    text: Text = None
    reasoning: Text = None
    """Reasoning that a server states apart from the answer."""
    in_json: bool = False
    """True if the answer was requested as a JSON object; `text` is the answer in it."""
    label_logprobs: Annotated[Logprobs | Annotated[Logprobs, BeforeValidator(all_finite)], IN_ORDER] = None
    """Natural log-probability of each label as the first token of the answer, over the whole vocabulary, not
    renormalised. None if the engine gives no log-probabilities.
    """
    score: Annotated[Number | Annotated[Number, BeforeValidator(finite)], IN_ORDER] = None
    """Score of a reranker as the model computes it: a logit, or a probability if a server gives nothing else."""
    masked: bool = False
    """True if the engine computed probabilities among the labels only: the mass of other answers is unknown."""
    finish_reason: Text = None
    error: Text = None
    """Reason for a missing answer, such as a refused request, a prompt over the limit or a timeout."""
    tries: int = 1
    """Number of times that the request was sent and not refused, and so may have been billed."""
    model: Text = None
    fingerprint: Text = None
    prompt_tokens: Count = None
    """Prompt tokens counted by the engine; None if it stated no number or an impossible one."""
    completion_tokens: Count = None
    """Answer tokens counted by the engine; None if it stated no number or an impossible one."""
    raw: Text = None
    """Body of the answer as the server sent it, kept if the other fields do not preserve all of its content."""


class Settings(NamedTuple):
    """Settings of an engine. `option_use.USED_BY` names the engines that use a setting; the others ignore it."""

    model: str
    revision: str | None = None
    dtype: str | None = None
    base_urls: tuple[str, ...] = ()
    """Addresses of servers that serve the same model (openai, openai-batch)."""
    concurrency: int | None = None
    """Requests in flight (openai) or rows per batch (local, vllm)."""
    max_model_len: int | None = None
    insecure: bool = False
    """Plain http to other machines and unverified TLS are allowed (openai, openai-batch)."""
    trust_remote_code: bool = False
    """Code that comes with the model may run (local, vllm, ray)."""
    tensor_parallel: int = 1
    """Number of GPUs that share each layer of a copy of the model (vllm)."""
    pipeline_parallel: int = 1
    """Number of groups of GPUs that have a part of the layers each (vllm)."""
    data_parallel: int = 1
    """Copies of the model that share the requests (vllm)."""
    reasoning_parser: str | None = None
    """Name of vLLM's parser that separates reasoning from the answer (vllm)."""
    thinking_tokens: int | None = None
    """Token limit of the reasoning before an answer (openai, openai-batch, vllm)."""
    reasoning_effort: str | None = None
    """How long a model is to reason, as a word of the server (openai, openai-batch)."""
    engine_args: tuple[str, ...] = ()
    """Arguments of vLLM itself, as NAME=VALUE (vllm)."""
    worker_engine: str | None = None
    """The engine of each worker; None means `DEFAULT_WORKER` (ray)."""
    workers: int | None = None
    """Number of workers (ray)."""
    wait: bool = False
    """Wait until all batches have ended (openai-batch)."""
    batch_dir: Path | None = None
    """Folder for files that are exchanged with `vllm run-batch` instead of calling a server (openai-batch)."""
    folder: Path | None = None
    """Folder of the run, in which an engine may keep its own record."""

    @property
    def called(self) -> str:
        """Name of the model in provenance; for a local folder without its path, which reveals user and machine."""
        folder = Path(self.model)
        return folder.resolve().name if folder.is_dir() else self.model


class Traits(NamedTuple):
    """Facts about an engine that are known before it is opened."""

    tokens: Callable[[Settings, str | None], "Tokens | None"]
    """(settings, tokenizer named by the user) -> the judge's tokenizer; None if the user names none for a server."""
    context: Callable[[Settings], int | None]
    """Settings -> most tokens of a prompt and its answer together; None if only the server knows."""
    tries: int = 1
    """Most times that one request may be sent and billed."""
    batch: bool = False
    """True if requests are submitted in batches, at the provider's batch price, and collected later. Requests that an
    earlier run submitted are not submitted again.
    """
    words: bool = False
    """True if the engine counts words instead of tokens."""
    pairs: Callable[[Settings], bool | None] = lambda settings: None
    """Settings -> True if the model is a reranker that scores pairs of texts, False if it answers chat messages; None
    if the engine runs no rerankers.
    """


class EngineFacts(NamedTuple):
    """Provenance of an engine; its fields are copied into the `Judge`."""

    engine: str
    engine_version: str
    model_answered: str | None = None
    revision: str | None = None
    dtype: str | None = None
    chat_template_sha256: str | None = None
    arguments: tuple[str, ...] = ()
    """The engine's own arguments that may change a reply, as NAME=VALUE."""
    sent: tuple[tuple[str, Any], ...] = ()
    """Options of a request that are spelled otherwise than by default, because the server refuses the default, as
    (name, spelling). See `labelkit.engines.dialects`.
    """


class Probed(NamedTuple):
    """The reply to a request that was sent alone to find out which options the server accepts."""

    reply: Reply
    again: bool
    """True if the same request is to be sent again, with the options that `facts.sent` now has."""


class Engine(Protocol):
    """Interface of all engines."""

    facts: EngineFacts
    settled: bool = True
    """False while `probe` must find out which options of a request the server accepts."""

    def probe(self, request: Request) -> Probed:
        """Send a request once, alone, with the options of `facts.sent`, which may change with the reply."""
        return Probed(next(iter(self.run([request]))), again=False)

    def learn(self, request: Request, reply: Reply) -> bool:
        """Take in the stored reply to a request with the options of `facts.sent`, which may change with it; return
        whether the same request is to be sent again.
        """
        return False

    def adopt(self, sent: Mapping[str, Any] | None) -> None:
        """Take these options of a request as known, so that no request is probed; None if they cannot be found out."""
        self.settled = True

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """Raise `UsageError` if two labels start with the same token in this model's tokenizer."""

    def run(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply per request. Weights are loaded at the first request, so an empty run loads none."""
        return chain.from_iterable(self.together(requests))

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        """Yield one reply per request, in lists of replies that arrived together and are committed together.

        An engine defines either `run` or `together`.
        """
        return ([reply] for reply in self.run(requests))

    def close(self) -> None:
        """Release memory, processes and connections."""


def open_engine(name: str, settings: Settings) -> Engine:
    """Open the engine `name`. Raises `UsageError` for an invalid setting, `EngineError` if the model cannot run."""
    engine: Engine = _module_of(name).open_engine(settings)
    return engine


def traits_of(name: str) -> Traits:
    """Return the traits of the engine `name`. Raises `UnknownNameError`."""
    traits: Traits = _module_of(name).TRAITS
    return traits


def _module_of(name: str) -> Any:
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    return importlib.import_module(ENGINES[name])


def choose(logprobs: dict[str, float], request: Request) -> str:
    """Return the most probable label; at a temperature above 0, return a label sampled at that temperature.

    The key is part of the seed, because one seed must not draw the same quantile for every pair.
    """
    top = max(logprobs, key=lambda label: logprobs[label])
    if request.temperature == 0:
        return top
    weights = [math.exp((value - logprobs[top]) / request.temperature) for value in logprobs.values()]
    return random.Random(f"{request.seed} {request.key}").choices(list(logprobs), weights)[0]
