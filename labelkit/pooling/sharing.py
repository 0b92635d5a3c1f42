"""Share encoding and searching among the processes that `torchrun` started.

PyTorch is imported only if there are several processes.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
T = TypeVar("T")
Part = TypeVar("Part")
_SHARED: ContextVar[bool] = ContextVar("shared", default=False)


@contextmanager
def sharing() -> Iterator[bool]:
    """Share the work within the block among the processes; True for the process that reports the results.

    Every process must do the same work in the same order. Without `torchrun` nothing is shared.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    import torch
    from torch import distributed as dist

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    started = not dist.is_initialized()
    if started:
        dist.init_process_group("nccl" if gpu else "gloo")
    token = _SHARED.set(True)
    try:
        yield dist.get_rank() == 0
    finally:
        _SHARED.reset(token)
        if started:
            dist.destroy_process_group()


def encode_shared(texts: Sequence[str], encode: Callable[[Sequence[str]], Vectors]) -> Vectors:
    """Return the embeddings of all texts, of which each process encodes every Nth: [texts, dimensions]."""
    if not _SHARED.get():
        return encode(texts)
    from torch import distributed as dist

    # Neighbours have similar lengths where the texts are sorted, so every process gets the same amount of work.
    processes = dist.get_world_size()
    own = texts[dist.get_rank() :: processes]
    parts: list[Any] = [None] * processes
    dist.all_gather_object(parts, encode(own) if own else None)
    whole = next(part for part in parts if part is not None)
    vectors: Vectors = np.empty((len(texts), whole.shape[1]), dtype=np.float32)
    for process, part in enumerate(parts):
        if part is not None:
            vectors[process::processes] = part
    return vectors


def map_shared(work: Callable[[Sequence[Part]], Iterable[T]], parts: Sequence[Part]) -> Iterable[T]:
    """Return the results of all parts, of which each process computes every Nth with `work`."""
    if not _SHARED.get():
        return work(parts)
    from torch import distributed as dist

    processes = dist.get_world_size()
    found: list[Any] = [None] * processes
    dist.all_gather_object(found, list(work(parts[dist.get_rank() :: processes])))
    return [found[number % processes][number // processes] for number in range(len(parts))]


def of_first(value: T) -> T:
    """Return the first process's value, in every process."""
    if not _SHARED.get():
        return value
    from torch import distributed as dist

    found = [value]
    dist.broadcast_object_list(found)
    return found[0]


def is_first() -> bool:
    """Return whether this process writes what all of them have."""
    return not _SHARED.get() or os.environ["RANK"] == "0"
