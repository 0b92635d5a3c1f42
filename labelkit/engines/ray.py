"""Judge on more than one machine with Ray Data: each worker runs an engine of its own over blocks of requests.

A block comes back whole. One whose worker died is judged again by another; one in which an engine trips is judged row
by row, so that a bad row fails alone. The requests of a query come together, for the engine's prefix cache.
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

from labelkit.engines import Engine, Reply, Request, Settings, Traits, traits_of
from labelkit.engines import open_engine as open_named
from labelkit.engines.tokenizers import Tokens
from labelkit.errors import EngineError, LabelkitError, MissingPackageError, UnknownNameError, first_line

WORKER_ENGINES = ("local", "scripted", "vllm")
WORKER_ENGINE = "vllm"
"""The engine of the workers where the settings name none."""
BLOCK = 256
"""Requests a block, where the settings name no other number: what a worker that dies has to do again."""
PORTION = 200_000
"""Requests in Ray's object store at a time; the workers load their models anew for each portion."""
BLOCK_TRIES, WORKER_RESTARTS = 4, 16
"""A block that ends so many workers, or a worker that dies so often, stops the run."""


def tokens_of(settings: Settings, tokenizer: str | None) -> Tokens | None:
    """Return the tokenizer of the workers' engine."""
    return worker_traits(settings).tokens(settings, tokenizer)


def context_of(settings: Settings) -> int | None:
    """Return the context of the workers' engine, in tokens."""
    return worker_traits(settings).context(settings)


def worker_traits(settings: Settings) -> Traits:
    """Return what is known of the workers' engine."""
    return traits_of(settings.worker_engine or WORKER_ENGINE)


TRAITS = Traits(tokens_of, context_of)


def open_engine(settings: Settings) -> "RayEngine":
    """Prepare the workers' engine here, for its provenance; Ray starts with the first request."""
    if settings.worker_engine not in WORKER_ENGINES:
        raise UnknownNameError("engine of Ray workers", str(settings.worker_engine), WORKER_ENGINES)
    return RayEngine(settings)


class RayEngine(Engine):
    """A pool of actors with an engine each, fed by Ray Data; on the cluster of RAY_ADDRESS or one started here."""

    def __init__(self, settings: Settings) -> None:
        try:
            import ray
        except ImportError:
            raise MissingPackageError("ray", "ray") from None
        self._name = settings.worker_engine or ""
        self._quiet = ExitStack()
        self._inner = open_named(self._name, settings)
        facts = self._inner.facts
        # All workers compute in one dtype: that of the judge's provenance, whatever hardware they find.
        self._settings = settings._replace(dtype=facts.dtype)
        # The judge is the workers' engine, wherever it runs: a folder begun on one machine goes on here.
        self.facts = facts._replace(engine_version=f"{facts.engine_version} on ray {ray.__version__}")

    def check_labels(self, labels: tuple[str, ...]) -> None:
        self._inner.check_labels(labels)

    def run(self, requests: Iterable[Request]) -> Iterator[Reply]:
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
        """To the cluster of RAY_ADDRESS or one that runs on this machine; where there is none, one is started."""
        import ray

        if ray.is_initialized():
            return
        # Ray prints notes of its own on standard output, which belongs to results.
        self._quiet.enter_context(redirect_stdout(sys.stderr))
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), **quiet)
        except ConnectionError as error:
            if "RAY_ADDRESS" in os.environ:
                raise EngineError(f"no Ray cluster at RAY_ADDRESS: {first_line(error)}") from None
            # Logical CPUs: Ray's own tasks wait for ever where the workers hold all of them.
            ray.init(num_cpus=(self._settings.workers or 1) + (os.cpu_count() or 1), include_dashboard=False, **quiet)

    def _judge(self, portion: Sequence[Request]) -> Iterator[Reply]:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # What goes wrong comes as an exception; its trace is not for the screen. Bounded restarts have no other option.
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn`")
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        block = self._settings.concurrency or BLOCK
        rows = [{"request": pickle.dumps(request)} for request in portion]
        gpus, workers = self._places()
        replies = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // block)).map_batches(
            Worker,
            fn_constructor_args=(self._name, self._settings),
            batch_size=block,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=gpus or None,
            ray_remote_args_fn=lambda: {"max_restarts": WORKER_RESTARTS, "max_task_retries": BLOCK_TRIES},
        )
        left = {request.key for request in portion}
        try:
            for row in replies.iter_rows():
                if row["stop"]:
                    raise EngineError(row["stop"])
                reply = Reply.model_validate_json(row["reply"])
                if reply.key in left:
                    left.remove(reply.key)
                    yield reply
        except ray.exceptions.RayError as error:
            raise EngineError(f"the Ray workers stopped: {first_line(error)}; run the same command again") from None
        for key in sorted(left):
            yield Reply(key=key, error="the Ray workers gave no reply to it")

    def _places(self) -> tuple[int, int]:
        """GPUs a worker and the number of workers: one for each GPU, or group of GPUs, of the cluster."""
        import ray

        cluster: Any = ray
        found = int(cluster.cluster_resources().get("GPU", 0))
        if not found or traits_of(self._name).words:
            return 0, self._settings.workers or 1
        each = self._settings.tensor_parallel * self._settings.data_parallel
        return each, self._settings.workers or max(1, found // each)


class Worker:
    """An engine in an actor; the weights are loaded once."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._engine: Engine = open_named(name, settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        requests = [pickle.loads(row) for row in batch["request"]]
        try:
            replies = answer(self._engine, requests)
        except LabelkitError as error:
            # Ray would wrap it until its message is lost.
            return {"reply": [""], "stop": [str(error)]}
        return {"reply": [reply.model_dump_json() for reply in replies], "stop": [""] * len(replies)}


def answer(engine: Engine, requests: Sequence[Request]) -> list[Reply]:
    """A reply to each request; where the engine trips over the block, each row is tried alone."""
    try:
        return list(engine.run(requests))
    except LabelkitError:
        raise
    except Exception as error:  # whatever a row makes an engine raise
        if len(requests) == 1:
            return [Reply(key=requests[0].key, error=f"{type(error).__name__}: {first_line(error)}")]
        return [reply for request in requests for reply in answer(engine, [request])]
