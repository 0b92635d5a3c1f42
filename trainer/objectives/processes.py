"""Collectives over the processes of a run, with gradients."""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad


def gather_passages(passages: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gather the unique passages of all processes: embeddings `[U, D]`, places of this process's passages among them
    `[P]`, keys `[U]`.

    The gradient of a passage is summed over all processes and goes to the first process that contributed the passage.
    Processes may contribute different numbers of passages.
    """
    if not _distributed():
        return passages, torch.arange(len(key), device=key.device), key
    counts = [int(count) for count in _gather(key.new_tensor([len(key)]))]
    longest = max(counts)
    short = longest - len(key)
    everything, every_key = (
        torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        for parts in (_gather_with_gradient(pad(passages, (0, 0, 0, short))), _gather(pad(key, (0, short))))
    )
    unique, inverse = torch.unique(every_key, return_inverse=True)
    rows = torch.arange(len(every_key), device=key.device)
    first = torch.full_like(unique, len(every_key)).scatter_reduce(0, inverse, rows, "amin")
    before = sum(counts[: dist.get_rank()])
    return everything[first], inverse[before : before + len(key)], unique


def mean_over_processes(rows: Tensor, counts: Tensor) -> Tensor:
    """Compute this process's part of the mean loss over the counted rows of all processes.

    `rows` `[Q]` are losses; `counts` `[Q]` is True for the counted rows. DistributedDataParallel averages gradients
    over processes. Each process therefore divides its sum by the average number of counted rows per process, which
    gives the gradient of the mean over all rows even if processes have different numbers of rows.
    """
    rows = torch.where(counts, rows, 0.0)
    total = counts.sum().to(rows.dtype)
    processes = 1
    if _distributed():
        dist.all_reduce(total)
        processes = dist.get_world_size()
    return rows.sum() * processes / total.clamp(min=1)


class _Gathered(torch.autograd.Function):
    """Gather the rows `[R, D]` of each process; the gradient of a row is summed over all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(_gather(rows))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        own = torch.empty_like(gradients[0])
        dist.reduce_scatter(own, [gradient.contiguous() for gradient in gradients])
        return own


def gather_rows(values: Tensor) -> Tensor:
    """Gather the values `[n]` of all processes in order of rank; processes may have different numbers of values."""
    if not _distributed():
        return values
    counts = [int(count) for count in _gather(values.new_tensor([len(values)]))]
    parts = _gather(pad(values, (0, max(counts) - len(values))))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def process() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if _distributed() else 0


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _gather_with_gradient(rows: Tensor) -> list[Tensor]:
    apply: Any = _Gathered.apply
    return list(apply(rows))


def _gather(rows: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return parts
