"""Table of the options that only some engines use, so that an option without an effect is refused."""

from collections.abc import Iterable, Mapping
from typing import Any

from labelkit.engines import DEFAULT_WORKER, ENGINES
from labelkit.errors import UnknownNameError, UsageError

HERE = ("local", "vllm")
"""Engines that run the model themselves."""
SERVERS = ("openai", "openai-batch")
"""Engines that send requests to a server."""
CLUSTER = "ray"
"""Engine whose workers run another engine; it also uses the options of that engine."""
USED_BY: dict[str, tuple[str, ...]] = {
    "revision": (*HERE, *SERVERS),
    "max_model_len": (*HERE, *SERVERS, "scripted"),
    "tokenizer": SERVERS,
    "dtype": HERE,
    "trust_remote_code": HERE,
    "base_url": SERVERS,
    "insecure": SERVERS,
    "allow_drift": SERVERS,
    "concurrency": (*HERE, "openai", CLUSTER),
    "tensor_parallel": ("vllm",),
    "pipeline_parallel": ("vllm",),
    "data_parallel": ("vllm",),
    "reasoning_parser": ("vllm",),
    "thinking_tokens": ("vllm", *SERVERS),
    "reasoning_effort": SERVERS,
    "engine_arg": ("vllm",),
    "worker_engine": (CLUSTER,),
    "workers": (CLUSTER,),
    "wait": ("openai-batch",),
    "batch_dir": ("openai-batch",),
}
"""Option of a judge -> the engines that use it. Every engine uses the options that are not listed."""


def refuse_unused(engine: str, options: Mapping[str, Any]) -> None:
    """Raise `UsageError` for an option that has no effect with an engine; `options` are those that the user set."""
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    worker = options.get("worker_engine") or DEFAULT_WORKER
    if unused := unused_options(engine, options, worker=worker):
        named = (f"--{name.replace('_', '-')} (only for engine {engines_of(name)})" for name in unused)
        chosen = f"{engine} with {worker} workers" if engine == CLUSTER else engine
        effect, it = ("have no effect", "them") if len(unused) > 1 else ("has no effect", "it")
        raise UsageError(
            f"{', '.join(named)} {effect} with engine {chosen}: leave {it} out, or choose another --engine"
        )


def unused_options(engine: str, options: Iterable[str], *, worker: str | None = None) -> list[str]:
    """Return the names among `options` that an engine does not use; `worker` is the engine of the workers of a cluster.

    An option that `USED_BY` does not list is used by every engine.
    """
    engines = {engine, worker or DEFAULT_WORKER} if engine == CLUSTER else {engine}
    return [name for name in options if name in USED_BY and not engines & set(USED_BY[name])]


def engines_of(option: str) -> str:
    """Return the names of the engines that use an option, with the cluster if its workers can use it."""
    engines = list(USED_BY[option])
    if CLUSTER not in engines and set(HERE) & set(engines):
        engines.append(f"{CLUSTER} with such workers")
    return " or ".join(filter(None, [", ".join(engines[:-1]), engines[-1]]))
