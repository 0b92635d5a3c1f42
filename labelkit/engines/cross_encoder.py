"""Score pairs of texts with a cross-encoder of sentence-transformers in this process, on a GPU or the CPU.

Pairs of many queries are sorted by length and batched by tokens, so that batches contain little padding, and a thread
tokenises a few batches in advance. The scores are the model's logits, without the activation that its configuration
may name.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, NoReturn

from labelkit.corpora.words import CHARACTERS
from labelkit.engines import Engine, Reply, Request, Settings
from labelkit.errors import EngineError, MissingPackageError, UnknownNameError, UsageError, first_line
from labelkit.pooling.model_loading import hide_loading_bars
from labelkit.pooling.model_safety import refuse_code

WINDOW = 4096
"""Number of pairs that are sorted by length together."""
THREAD_TOKENS = 1024
"""Tokens per batch for each thread of a CPU: fewer cost less padding, but threads wait for each other more often."""
PROBES = (("A QUERY, with CAPITALS?", "ünïcödé æ 中文 [SEP] (2+2)"), ("", "x"), ("x", ""), ("a b c", "a " * 40))
"""Pairs for which fast tokenisation and the model's own preprocessing are compared."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class PairRow:
    """Token ids of a pair, and the number of the text to which each token belongs."""

    ids: Sequence[int]
    types: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)


class Batch(NamedTuple):
    """Requests with pairs of similar length, and their features."""

    requests: list[Request]
    lengths: list[int]
    """Number of tokens of each pair."""
    features: dict[str, Any]


class CrossEncoderEngine(Engine):
    """A model with one output for a query and a document that it reads together."""

    def __init__(self, settings: Settings) -> None:
        try:
            import sentence_transformers
            import torch
            import transformers
        except ImportError:
            raise MissingPackageError("sentence-transformers", "train") from None
        from labelkit.engines.local import DTYPES, load_tokenizer, model_facts

        self._settings = settings
        self._dtype = settings.dtype or reranker_dtype()
        if self._dtype not in DTYPES:
            raise UnknownNameError("dtype", self._dtype, DTYPES)
        refuse_code(settings.model, trusted=settings.trust_remote_code)
        packages = (sentence_transformers, transformers, torch)
        version = ", ".join(f"{package.__name__.replace('_', '-')} {package.__version__}" for package in packages)
        tokenizer = load_tokenizer(settings)
        self.facts = model_facts("local", version, settings, dtype=self._dtype, tokenizer=tokenizer)

    def check_labels(self, labels: tuple[str, ...]) -> None:
        if labels:
            refuse_messages(self._settings.model)

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        source = iter(requests)
        while window := list(islice(source, WINDOW)):
            if not all(request.pair for request in window):
                refuse_messages(self._settings.model)
            yield from self._score(window)

    def close(self) -> None:
        self.__dict__.pop("_encoder", None)

    @cached_property
    def _encoder(self) -> Any:
        return load_cross_encoder(self._settings, self._dtype)

    @cached_property
    def _rows(self) -> Callable[[Sequence[Pair]], list[PairRow]]:
        return pair_rows(self._encoder)

    @property
    def _limit(self) -> int:
        longest: int = self._encoder.max_seq_length
        return min(self._settings.max_model_len or longest, longest)

    def _score(self, window: Sequence[Request]) -> Iterator[list[Reply]]:
        """Score pairs in batches of similar length; a pair over the length limit fails alone."""
        from labelkit.pooling.encoding import ahead

        sized = sorted(((sum(len(one.content) for one in request.messages), request) for request in window), key=size)
        fitting = [request for count, request in reversed(sized) if count <= CHARACTERS * self._limit]
        refused = [
            over_limit(request, f"{n} characters", self._limit) for n, request in sized if n > CHARACTERS * self._limit
        ]
        if refused:
            yield refused
        # On a CPU the model takes all cores, for which a thread that tokenises would only compete.
        batches = self._batches(fitting)
        for batch in ahead(batches) if self._encoder.device.type == "cuda" else batches:
            if isinstance(batch, list):
                yield batch
            else:
                yield self._replies(batch)

    def _batches(self, requests: Sequence[Request]) -> Iterator[Batch | list[Reply]]:
        """Yield batches of at most a number of tokens, and the replies to pairs that are too long."""
        import torch

        from labelkit.pooling.encoding import BLOCK, GPU_TOKENS, by_tokens

        refused: list[Reply] = []
        kept: list[Request] = []

        def blocks() -> Iterator[list[PairRow]]:
            for first in range(0, len(requests), BLOCK):
                some = requests[first : first + BLOCK]
                rows = self._rows([texts_of(request) for request in some])
                for request, row in zip(some, rows, strict=True):
                    if len(row) > self._limit:
                        refused.append(over_limit(request, f"{len(row)} tokens", self._limit))
                kept.extend(one for one, row in zip(some, rows, strict=True) if len(row) <= self._limit)
                yield [row for row in rows if len(row) <= self._limit]

        tokens = GPU_TOKENS if self._encoder.device.type == "cuda" else THREAD_TOKENS * torch.get_num_threads()
        for places, rows in by_tokens(blocks(), tokens, most=self._settings.concurrency):
            features = padded(rows, self._encoder.tokenizer)
            yield Batch([kept[place] for place in places], list(map(len, rows)), features)
        if refused:
            yield refused

    def _replies(self, batch: Batch) -> list[Reply]:
        """Run the model on a batch."""
        import torch

        device = self._encoder.device
        moved = {name: value.to(device) for name, value in batch.features.items()}
        with torch.inference_mode():
            scores = self._encoder(moved)["scores"].float().flatten().tolist()
        return [self._reply(*one) for one in zip(batch.requests, batch.lengths, scores, strict=True)]

    def _reply(self, request: Request, tokens: int, score: float) -> Reply:
        if not math.isfinite(score):
            error = "the model computes no finite score; try another --dtype, such as float32"
            return Reply(key=request.key, error=error, prompt_tokens=tokens, completion_tokens=0)
        return Reply(
            key=request.key,
            score=score,
            finish_reason="stop",
            model=self.facts.model_answered,
            prompt_tokens=tokens,
            completion_tokens=0,
        )


def reranker_dtype() -> str:
    """Return the default precision of a reranker: float32 on a CPU, because bfloat16 rounds 5.31 to 5.3125."""
    import torch

    from labelkit.engines.local import default_dtype

    return default_dtype() if torch.cuda.is_available() else "float32"


def refuse_messages(model: str) -> NoReturn:
    """Raise `UsageError` for a request that is no pair."""
    raise UsageError(f"model {model!r} is a reranker, which gives scores only: use --method rerank")


def over_limit(request: Request, what: str, limit: int) -> Reply:
    """Return the failed reply to a pair over the length limit in tokens."""
    error = f"query and passage of {what} are over the limit of {limit}; cut passages with --passage-tokens"
    return Reply(key=request.key, error=error)


def size(sized: tuple[int, Request]) -> int:
    """Return the number of characters of a pair."""
    return sized[0]


def texts_of(request: Request) -> Pair:
    """Return the query and the document of a request."""
    query, document = request.messages
    return query.content, document.content


def load_cross_encoder(settings: Settings, dtype: str) -> Any:
    """Load a `CrossEncoder` from a local folder or the Hub.

    Raises `EngineError` if it cannot be loaded, and `UsageError` if it has several outputs.
    """
    import torch
    from sentence_transformers import CrossEncoder

    hide_loading_bars()
    safe = {} if settings.trust_remote_code else {"use_safetensors": True}
    try:
        encoder: Any = CrossEncoder(
            settings.model,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            device="cuda" if torch.cuda.is_available() else "cpu",
            model_kwargs=safe | {"dtype": getattr(torch, dtype)},
        )
    except Exception as error:  # the loaders raise errors of any type for a damaged folder
        raise EngineError(f"model {settings.model!r} cannot be loaded: {first_line(error)}") from error
    if encoder.num_labels != 1:
        raise UsageError(f"model {settings.model!r} has {encoder.num_labels} outputs; a reranker has one")
    return encoder.eval()


def pair_rows(encoder: Any) -> Callable[[Sequence[Pair]], list[PairRow]]:
    """Return a function from pairs to tokens: by the fast tokenizer, if the preprocessing gives the same tokens."""

    def slow(pairs: Sequence[Pair]) -> list[PairRow]:
        prompt = encoder.prompts.get(encoder.default_prompt_name)
        return [row for pair in pairs for row in rows_in(encoder.preprocess([list(pair)], prompt=prompt))]

    fast = fast_pair_rows(encoder.tokenizer)
    probes = [(query, document) for query, document in PROBES if encoder.max_seq_length > len(document)]
    return fast if fast(probes) == slow(probes) else slow


def fast_pair_rows(tokenizer: Any) -> Callable[[Sequence[Pair]], list[PairRow]]:
    """Return a function from pairs to all their tokens, without truncation."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    typed = "token_type_ids" in tokenizer.model_input_names

    def rows(pairs: Sequence[Pair]) -> list[PairRow]:
        return [PairRow(one.ids, one.type_ids if typed else ()) for one in backend.encode_batch_fast(list(pairs))]

    return rows


def rows_in(features: dict[str, Any]) -> Iterator[PairRow]:
    """Yield the tokens of each pair of a batch without its padding."""
    types = features.get("token_type_ids")
    for number, (ids, attention) in enumerate(zip(features["input_ids"], features["attention_mask"], strict=True)):
        shown = attention.bool()
        yield PairRow(ids[shown].tolist(), () if types is None else types[number][shown].tolist())


def padded(rows: Sequence[PairRow], tokenizer: Any) -> dict[str, Any]:
    """Pad rows of tokens to the features of one batch."""
    import numpy as np
    import torch

    shape = (len(rows), max(map(len, rows)))
    features = {"input_ids": np.full(shape, tokenizer.pad_token_id or 0), "attention_mask": np.zeros(shape, dtype=int)}
    if rows[0].types:
        features["token_type_ids"] = np.zeros(shape, dtype=int)
    for number, row in enumerate(rows):
        place = slice(shape[1] - len(row), None) if tokenizer.padding_side == "left" else slice(len(row))
        features["input_ids"][number, place], features["attention_mask"][number, place] = row.ids, 1
        if row.types:
            features["token_type_ids"][number, place] = row.types
    return {name: torch.from_numpy(value) for name, value in features.items()}
