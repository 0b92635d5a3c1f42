"""Judge with transformers in this process, on a GPU or the CPU, without a server.

The pairs of a query share a prefix (rubric and query), and all pairs of a run share the rubric. The keys and values of
the prefix are computed once: the cache of the previous query is truncated to the common tokens, extended, and then used
by a batch of passages. Only the last position of each passage is projected to the vocabulary.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

from labelkit.engines import Engine, EngineFacts, Reply, Request, Settings, Traits, choose
from labelkit.engines.chat_encoding import ChatEncoder
from labelkit.engines.tokenizers import model_tokens
from labelkit.errors import EngineError, MissingPackageError, UnknownNameError, UsageError, first_line
from labelkit.pooling.model_loading import hide_loading_bars, hub_commit
from labelkit.pooling.model_safety import refuse_code
from labelkit.storage import folders

ROWS = 16
"""Pairs per forward pass if the settings name no number; there is no padding."""
DTYPES = ("bfloat16", "float16", "float32")
CLASSIFIER = "ForSequenceClassification"
"""End of the names of transformers' classes for cross-encoders."""


def context_of(settings: Settings) -> int:
    """Return the most tokens of a prompt and its answer together, from the settings or the model's configuration."""
    from transformers import AutoConfig

    if settings.max_model_len:
        return settings.max_model_len
    try:
        config: Any = AutoConfig.from_pretrained(settings.model, revision=settings.revision)
    except Exception as error:  # the loaders raise errors of any type for a damaged folder
        raise EngineError(f"model {settings.model!r} cannot be loaded: {first_line(error)}") from error
    length: int = config.max_position_embeddings
    return length


def scores_pairs(settings: Settings) -> bool:
    """Return whether a model is a cross-encoder, and no language model, by its configuration.

    Raises `UsageError` for a folder with code that is not trusted, before its configuration is read, and `EngineError`.
    """
    from transformers import AutoConfig

    refuse_code(settings.model, trusted=settings.trust_remote_code)
    try:
        config: Any = AutoConfig.from_pretrained(settings.model, revision=settings.revision)
    except Exception as error:  # the loaders raise errors of any type for a damaged folder
        raise EngineError(f"model {settings.model!r} cannot be loaded: {first_line(error)}") from error
    return any(name.endswith(CLASSIFIER) for name in config.architectures or ())


TRAITS = Traits(model_tokens, context_of, pairs=scores_pairs)


def open_engine(settings: Settings) -> Engine:
    """Load a language model or a cross-encoder from a local folder or the Hub."""
    if scores_pairs(settings):
        from labelkit.engines.cross_encoder import CrossEncoderEngine

        return CrossEncoderEngine(settings)
    return LocalEngine(settings)


class LocalEngine(Engine):
    """A causal language model of transformers. Labels are read at the first token of the answer; free text is generated
    for one request at a time.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            import torch
            import transformers
        except ImportError:
            raise MissingPackageError("transformers", "local") from None
        self._settings = settings
        self._dtype = settings.dtype or default_dtype()
        if self._dtype not in DTYPES:
            raise UnknownNameError("dtype", self._dtype, DTYPES)
        self._rows = settings.concurrency or ROWS
        refuse_code(settings.model, trusted=settings.trust_remote_code)
        self._tokenizer = load_tokenizer(settings)
        self._encoder = load_encoder(settings)
        version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self.facts = model_facts("local", version, settings, dtype=self._dtype, tokenizer=self._tokenizer)

    def check_labels(self, labels: tuple[str, ...]) -> None:
        first_label_tokens(self._tokenizer, labels)

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        for _, group in groupby(requests, key=lambda request: request.group):
            yield from self._run_group(list(group))

    def close(self) -> None:
        for name in ("_model", "_prefix"):
            self.__dict__.pop(name, None)

    @cached_property
    def _model(self) -> Any:
        return _load_model(self._settings, self._dtype)

    @cached_property
    def _prefix(self) -> "_Prefix":
        return _Prefix(self._model)

    @cached_property
    def _limit(self) -> int:
        return self._settings.max_model_len or self._model.config.max_position_embeddings

    def _run_group(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        """Answer requests with a common prefix, whose tokens are computed once, in lists of one forward pass each."""
        rows, refused = [], []
        for request in requests:
            answer = 0 if request.labels else request.max_tokens
            ids = self._encoder.prompt_tokens(request, answer, limit=self._limit)
            if isinstance(ids, Reply):
                refused.append(ids)
            elif request.labels:
                rows.append((request, ids))
            else:
                yield [self._write(request, ids)]
        if refused:
            yield refused
        rows.sort(key=lambda row: len(row[1]))
        shared = common_prefix([ids[:-1] for _, ids in rows])
        for start in range(0, len(rows), self._rows):
            batch = rows[start : start + self._rows]
            logprobs = self._last_logprobs(shared, [ids[len(shared) :] for _, ids in batch])
            yield [self._reply(request, len(ids), row) for (request, ids), row in zip(batch, logprobs, strict=True)]

    def _last_logprobs(self, shared: list[int], suffixes: Sequence[list[int]]) -> Any:
        """Return the log-probabilities over the vocabulary after each suffix: [rows, vocabulary], float32.

        The suffixes follow each other in one sequence without padding. A mask restricts each suffix to the shared
        prefix and itself, and the positions of each suffix start at the end of the prefix.
        """
        import torch

        lengths = torch.tensor([len(suffix) for suffix in suffixes])
        row = torch.repeat_interleave(torch.arange(len(suffixes)), lengths)  # [T] which suffix a token belongs to
        token = torch.arange(len(row))
        own = (row[:, None] == row) & (token[:, None] >= token)  # [T, T]
        mask = torch.cat([torch.ones(len(row), len(shared), dtype=torch.bool), own], dim=1)
        ends = lengths.cumsum(0)
        positions = len(shared) + token - (ends - lengths)[row]
        ids = torch.tensor([token_id for suffix in suffixes for token_id in suffix])
        device = self._model.device
        with torch.inference_mode(), self._prefix.over(shared) as past:
            hidden = self._model.base_model(
                input_ids=ids[None].to(device),
                attention_mask=mask[None, None].to(device),
                position_ids=positions[None].to(device),
                past_key_values=past,
            ).last_hidden_state[0]
            logits = self._model.get_output_embeddings()(hidden[(ends - 1).to(device)])
            return torch.log_softmax(logits.float(), dim=-1).cpu()

    def _write(self, request: Request, ids: list[int]) -> Reply:
        """Generate text after a prompt, token by token."""
        from labelkit.engines.constrained import write

        with self._prefix.over(ids[:-1]) as past:
            text, finish_reason, count = write(self._model, self._tokenizer, past, last=ids[-1], request=request)
        return Reply(
            key=request.key,
            text=text,
            finish_reason=finish_reason,
            model=self.facts.model_answered,
            prompt_tokens=len(ids),
            completion_tokens=count,
        )

    def _reply(self, request: Request, prompt_tokens: int, logprobs: Any) -> Reply:
        tokens = first_label_tokens(self._tokenizer, request.labels)
        label_logprobs = {label: float(logprobs[token]) for label, token in tokens.items()}
        if not all(map(math.isfinite, label_logprobs.values())):
            error = "the model computes no finite probabilities; try another --dtype, such as float32"
            return Reply(key=request.key, error=error, prompt_tokens=prompt_tokens, completion_tokens=1)
        return Reply(
            key=request.key,
            text=choose(label_logprobs, request),
            label_logprobs=label_logprobs,
            finish_reason="stop",
            model=self.facts.model_answered,
            prompt_tokens=prompt_tokens,
            completion_tokens=1,
        )


class _Prefix:
    """Keys and values of the prefix that the next rows share; truncated and extended, never computed twice."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self._model = model
        self._ids: list[int] = []
        self._cache = DynamicCache(config=model.config)

    @contextmanager
    def over(self, ids: list[int]) -> Iterator[Any]:
        """Yield the cache of `ids`; entries that the block appends to it are removed afterwards."""
        import torch

        self._cut(len(common_prefix([self._ids, ids])))
        if len(self._ids) < len(ids):
            fresh = torch.tensor([ids[len(self._ids) :]], device=self._model.device)
            self._model.base_model(input_ids=fresh, past_key_values=self._cache)
        self._ids = list(ids)
        yield self._cache
        self._cut(len(ids))

    def _cut(self, length: int) -> None:
        if surplus := self._cache.get_seq_length() - length:
            self._cache.crop(-surplus)
        del self._ids[length:]


def default_dtype() -> str:
    """Return bfloat16 if the hardware supports it, else float16 on a GPU and float32 on a CPU.

    A CPU without bfloat16 emulates it, four times slower than float32.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def load_tokenizer(settings: Settings) -> Any:
    """Return the tokenizer of a local folder or Hub id, with its chat template; it is loaded once, in one or two
    seconds.
    """
    return _tokenizer_of(settings.model, settings.revision)


def load_encoder(settings: Settings) -> ChatEncoder:
    """Return the encoder of chats with the tokenizer of a local folder or Hub id; all users share one and its cache."""
    return _encoder_of(settings.model, settings.revision)


@lru_cache
def _encoder_of(model: str, revision: str | None) -> ChatEncoder:
    return ChatEncoder(_tokenizer_of(model, revision))


@lru_cache
def _tokenizer_of(model: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    try:
        untyped: Any = AutoTokenizer
        tokenizer: Any = untyped.from_pretrained(model, revision=revision)
        # The tokenizer's file may ask to truncate texts, which would hide that a text is too long.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        return tokenizer
    except Exception as error:  # the loaders raise errors of any type for a damaged folder
        raise EngineError(f"model {model!r} cannot be loaded: {first_line(error)}") from error


def _load_model(settings: Settings, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    hide_loading_bars()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            settings.model,
            revision=settings.revision,
            dtype=getattr(torch, dtype),
            attn_implementation="sdpa",
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=None if settings.trust_remote_code else True,
        )
    except Exception as error:  # the loaders raise errors of any type for a damaged folder
        raise EngineError(f"model {settings.model!r} cannot be loaded: {first_line(error)}") from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def first_label_tokens(tokenizer: Any, labels: Sequence[str]) -> dict[str, int]:
    """Return the first token of each label. Raises `UsageError` if two labels have the same first token."""
    tokens = {label: tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in labels}
    if len(set(tokens.values())) < len(tokens):
        raise UsageError(f"labels {', '.join(labels)} share a first token under this model's tokenizer; rename them")
    return tokens


def common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    """Return the longest common prefix of all rows; empty if there are no rows."""
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return [column[0] for column in shared]


def model_facts(engine: str, version: str, settings: Settings, dtype: str, tokenizer: Any) -> EngineFacts:
    """Return the provenance of a model that runs on this machine."""
    template: str | None = tokenizer.chat_template
    return EngineFacts(
        engine=engine,
        engine_version=version,
        model_answered=settings.called,
        revision=model_revision(settings),
        dtype=dtype,
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest() if template is not None else None,
    )


def model_revision(settings: Settings) -> str | None:
    """Return the commit of a Hub model, or the sha256 over configuration, tokenizer and weights of a local folder.

    If the folder has a manifest of labelkit, file hashes are taken from it, which saves reading gigabytes.
    """
    folder = Path(settings.model)
    if not folder.is_dir():
        return hub_commit(settings.model, settings.revision)
    digest = hashlib.sha256()
    for name, sha256 in sorted(folders.known_sha256(folder).items()):
        if name.endswith((".json", ".safetensors", ".jinja")):
            digest.update(f"{name} {sha256}\n".encode())
    return f"sha256:{digest.hexdigest()}"
