"""Judge on several machines with Ray Data: each worker runs its own engine over blocks of requests.

A block is returned as a whole. If a worker dies, another one judges its block again. If an engine raises an error for a
block, the block is judged row by row, so that a bad row fails alone. The requests of a query stay together, for the
engine's prefix cache.
"""

import logging
import os
import pickle
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from itertools import islice
from typing import Any

from labelkit.engines import DEFAULT_WORKER, Engine, Reply, Request, Settings, Traits, traits_of
from labelkit.engines import open_engine as open_named
from labelkit.engines.tokenizers import Tokens
from labelkit.errors import EngineError, LabelkitError, MissingPackageError, UnknownNameError, first_line

WORKER_ENGINES = ("local", "scripted", "vllm")
BLOCK = 256
"""Requests per block if the settings name no number; when a worker dies, its whole block is judged again."""
PORTION = 200_000
"""Requests in Ray's object store at a time; the workers load their models again for each portion."""
BLOCK_TRIES, WORKER_RESTARTS = 4, 16
"""Most retries of a block and restarts of a worker before the run stops."""


def tokens_of(settings: Settings, tokenizer: str | None) -> Tokens | None:
    """Return the tokenizer of the workers' engine."""
    return worker_traits(settings).tokens(settings, tokenizer)


def context_of(settings: Settings) -> int | None:
    """Return the context of the workers' engine, in tokens."""
    return worker_traits(settings).context(settings)


def worker_of(settings: Settings) -> str:
    """Return the name of the workers' engine. Raises `UnknownNameError`."""
    name = settings.worker_engine or DEFAULT_WORKER
    if name not in WORKER_ENGINES:
        raise UnknownNameError("engine of Ray workers", name, WORKER_ENGINES)
    return name


def pairs_of(settings: Settings) -> bool | None:
    """Return whether the workers' engine runs the model as a reranker that scores pairs."""
    return worker_traits(settings).pairs(settings)


def worker_traits(settings: Settings) -> Traits:
    """Return the traits of the workers' engine."""
    return traits_of(worker_of(settings))


TRAITS = Traits(tokens_of, context_of, pairs=pairs_of)


def open_engine(settings: Settings) -> "RayEngine":
    """Open the workers' engine on this machine for its provenance; Ray starts at the first request."""
    return RayEngine(settings)


class RayEngine(Engine):
    """A pool of Ray actors with one engine each, on the cluster of RAY_ADDRESS or on one started here."""

    def __init__(self, settings: Settings) -> None:
        try:
            import ray
        except ImportError:
            raise MissingPackageError("ray", "ray") from None
        self._name = worker_of(settings)
        self._quiet = ExitStack()
        self._inner = open_named(self._name, settings)
        facts = self._inner.facts
        # All workers use the dtype of the judge's provenance, whatever their hardware.
        self._settings = settings._replace(dtype=facts.dtype)
        # The judge is the workers' engine, wherever it runs, so that a folder begun on one machine resumes here.
        self.facts = facts._replace(engine_version=f"{facts.engine_version} on ray {ray.__version__}")

    def check_labels(self, labels: tuple[str, ...]) -> None:
        self._inner.check_labels(labels)

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        source = iter(requests)
        while portion := list(islice(source, PORTION)):
            self._connect()
            yield from self._judge(portion)

    def close(self) -> None:
        import ray

        self._inner.close()
        ray.shutdown()
        self._quiet.close()

    def _connect(self) -> None:
        """Connect to the cluster of RAY_ADDRESS or to one on this machine; start one if there is none."""
        import ray

        if ray.is_initialized():
            return
        # Ray prints notes to standard output, which is reserved for results.
        self._quiet.enter_context(redirect_stdout(sys.stderr))
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
        except ConnectionError as error:
            if "RAY_ADDRESS" in os.environ:
                raise EngineError(f"no Ray cluster at RAY_ADDRESS: {first_line(error)}") from None
            # Ray's own tasks would wait forever if the workers occupied all logical CPUs.
            ray.init(num_cpus=(self._settings.workers or 1) + (os.cpu_count() or 1), include_dashboard=False, **quiet)

    def _judge(self, portion: Sequence[Request]) -> Iterator[list[Reply]]:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # Errors arrive as exceptions, so Ray need not print their traces. Its warning about `ray_remote_args_fn` is
        # ignored, because no other option limits restarts.
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn`")
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        block = self._settings.concurrency or BLOCK
        rows = [{"request": pickle.dumps(request)} for request in portion]
        gpus, workers = self._places()
        replies: Any = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // block)).map_batches(
            Worker,
            fn_constructor_args=(self._name, self._settings),
            batch_size=block,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=gpus or None,
            ray_remote_args_fn=lambda: {"max_restarts": WORKER_RESTARTS, "max_task_retries": BLOCK_TRIES},
        )
        left = {request.key for request in portion}
        try:
            # One batch per block, which a worker returned as a whole.
            for judged in replies.iter_batches(batch_size=None, batch_format="numpy"):
                if stopped := [reason for reason in judged["stop"] if reason]:
                    raise EngineError(stopped[0])
                found = {reply.key: reply for reply in map(Reply.model_validate_json, judged["reply"])}
                if new := [reply for key, reply in found.items() if key in left]:
                    left.difference_update(found)
                    yield new
        except ray.exceptions.RayError as error:
            raise EngineError(f"the Ray workers stopped: {first_line(error)}; run the same command again") from None
        if left:
            yield [Reply(key=key, error="the Ray workers gave no reply to this request") for key in sorted(left)]

    def _places(self) -> tuple[int, int]:
        """Return the GPUs per worker and the number of workers: one per GPU, or group of GPUs, of the cluster."""
        import ray

        cluster: Any = ray
        found = int(cluster.cluster_resources().get("GPU", 0))
        if not found or traits_of(self._name).words:
            return 0, self._settings.workers or 1
        parts = self._settings.tensor_parallel * self._settings.pipeline_parallel
        each = parts * self._settings.data_parallel
        return each, self._settings.workers or max(1, found // each)


class Worker:
    """An engine in a Ray actor, which loads the weights once."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._engine: Engine = open_named(name, settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        requests = [pickle.loads(row) for row in batch["request"]]
        try:
            replies = answer(self._engine, requests)
        except LabelkitError as error:
            # Raised here, the error would be wrapped by Ray until its message is lost.
            return {"reply": [""], "stop": [str(error)]}
        return {"reply": [reply.model_dump_json() for reply in replies], "stop": [""] * len(replies)}


def answer(engine: Engine, requests: Sequence[Request]) -> list[Reply]:
    """Return a reply to each request; if the engine raises an error for the block, try each row alone."""
    try:
        return list(engine.run(requests))
    except LabelkitError:
        raise
    except Exception as error:  # an engine may raise errors of any type for a bad row
        if len(requests) == 1:
            return [Reply(key=requests[0].key, error=f"{type(error).__name__}: {first_line(error)}")]
        return [reply for request in requests for reply in answer(engine, [request])]
