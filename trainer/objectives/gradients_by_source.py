"""Measure the loss and the gradient of each source of labels, and the cosine between the gradients of two sources."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import Tensor
from torch import distributed as dist

from trainer.objectives.batch import SOURCE_CODES, Batch

LossOf = Callable[[Sequence[Tensor], Batch], Tensor]
"""Outputs of the model (embeddings of the queries and of the passages, or scores of the pairs) and their batch -> this
process's part of the mean loss.
"""


def by_source(loss_of: LossOf, outputs: Sequence[Tensor], batch: Batch, sources: Sequence[str]) -> dict[str, float]:
    """Compute the loss, share and gradient of each source of labels in a batch, with all other positives masked.

    `loss_SOURCE` is the mean loss over queries with a positive of the source, `share_SOURCE` the share of the source
    among the positives, `gradient_SOURCE` the norm of the gradient of `loss_SOURCE` with respect to all outputs of
    the model, and `cosine_ONE_OTHER` the cosine between the gradients of two sources: a value below 0 means that they
    move the outputs in opposite directions. A source without a positive in the batch has no figures.
    """
    figures: dict[str, float] = {}
    gradients: dict[str, Tensor] = {}
    total = _sum(batch.pos_mask.sum().float())
    for source in sources:
        mask = batch.pos_mask & (batch.pos_source == SOURCE_CODES[source])
        count = _sum(mask.sum().float())
        if not count:
            continue
        with torch.enable_grad():
            leaves = [part.detach().requires_grad_() for part in outputs]
            loss = loss_of(leaves, replace(batch, pos_mask=mask))
            parts = torch.autograd.grad(loss, leaves)
        gradients[source] = torch.cat([part.flatten().double() for part in parts])
        figures[f"loss_{source}"] = float(_sum(loss.detach()) / _processes())
        figures[f"share_{source}"] = float(count / total)
        figures[f"gradient_{source}"] = float(_dot(gradients[source], gradients[source]).sqrt()) / _processes()
    for one, other in combinations(gradients, 2):
        norms = [_dot(gradients[name], gradients[name]).sqrt() for name in (one, other)]
        if min(norms) > 0:
            cosine = _dot(gradients[one], gradients[other]) / (norms[0] * norms[1])
            figures[f"cosine_{one}_{other}"] = float(cosine)
    return figures


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Compute the dot product of two gradients over all processes; one process holds the gradient of each passage."""
    return _sum(one @ other)


def _sum(value: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
