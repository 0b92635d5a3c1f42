"""Log-sum-exps and sums over the negatives of each query, computed in tiles of passages.

Only one tile of scores is in memory. The backward pass computes it again, unless one tile has all passages.

Legend of shapes: Q queries, U passages, D dimensions, T passages per tile, E known pairs.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.objectives.masked import softplus
from trainer.objectives.tiles import Mask, scored

Against = Literal["all", "outside", "hardest", "pointwise", "group"]
"""Form of the negatives of a query: their log-sum-exp, the log-sum-exp of the negatives outside its group, the score of
the hardest negative, the sum of softplus over the negatives outside its group, or none.
"""

Sharpness = float | Tensor
"""Factor of the scores in the exponent of a log-sum-exp, above 0."""


class Streamed(NamedTuple):
    """The result of a pass over the passages."""

    values: Tensor
    """[Q]: log-sum-exp, sum of softplus or highest score per query."""
    hidden: Tensor
    """[]: number of masked pairs."""
    suspected: Tensor
    """[]: number of pairs masked by `Mask.ceiling`."""


class _StreamedSum(torch.autograd.Function):
    """Compute the log-sum-exp or the sum of softplus over the unmasked passages of each query in tiles.

    [Q, D], [U, D] -> [Q], [], [].
    """

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, passages: Tensor, mask: Mask, tile: int, sharpness: Sharpness | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stream over the passages; `sharpness` None selects the sum of softplus."""
        total = queries.new_full((len(queries),), 0.0 if sharpness is None else -torch.inf)
        hidden, suspected = torch.zeros(2, dtype=torch.int64, device=queries.device).unbind()
        kept = []
        for start in range(0, len(passages), tile):
            part = scored(queries, passages, start, size=tile)
            counts = mask.hide(part)
            hidden, suspected = hidden + counts[0], suspected + counts[1]
            if sharpness is None:
                total = total + softplus(part.scores).sum(dim=-1)
            else:
                total = torch.logaddexp(total, _times(part.scores, sharpness).logsumexp(dim=-1))
            kept = [part.scores] if part.whole else []
        ctx.save_for_backward(queries, passages, total, *kept)
        ctx.mask, ctx.tile, ctx.sharpness = mask, tile, sharpness
        ctx.mark_non_differentiable(hidden, suspected)
        return total, hidden, suspected

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        queries, passages, total, *kept = ctx.saved_tensors
        # For a query without negatives, exp(-inf - 0) = 0 is the correct gradient.
        total = torch.where(total == -torch.inf, 0.0, total).unsqueeze(-1)
        grad_queries, grad_passages = torch.zeros_like(queries), torch.empty_like(passages)
        for start in range(0, len(passages), ctx.tile):
            stop = start + ctx.tile
            scores = kept[0] if kept else _masked(queries, passages, ctx.mask, start=start, size=ctx.tile)
            # The sharpened part of a score is a constant and has no gradient.
            sharp = ctx.sharpness
            share = scores.sigmoid() if sharp is None else _times(scores, sharp).sub(total).exp_()
            share.mul_(gradient.unsqueeze(-1))
            grad_queries.addmm_(share, passages[start:stop])
            torch.mm(share.T, queries, out=grad_passages[start:stop])
        return grad_queries, grad_passages, None, None, None


def _times(scores: Tensor, sharpness: Sharpness) -> Tensor:
    return scores if isinstance(sharpness, float) and sharpness == 1 else scores * sharpness


def _masked(queries: Tensor, passages: Tensor, mask: Mask, *, start: int, size: int) -> Tensor:
    part = scored(queries, passages, start, size=size)
    mask.hide(part)
    return part.scores


def streamed_lse(queries: Tensor, passages: Tensor, mask: Mask, *, tile: int, sharpness: Sharpness) -> Streamed:
    """Compute the log-sum-exp of each query's scores over its unmasked passages, A in the docstrings of objectives.

    With `sharpness` k above 1 the value is LSE(k s) and its gradient softmax(k s), so that hard negatives have a
    greater share.
    """
    apply: Any = _StreamedSum.apply
    return Streamed(*apply(queries, passages, mask, tile, sharpness))


def streamed_softplus(
    queries: Tensor, passages: Tensor, mask: Mask, *, tile: int, sharpness: float | Tensor
) -> Streamed:
    """Compute the sum of softplus(score) over the unmasked passages of each query; `sharpness` has no effect."""
    apply: Any = _StreamedSum.apply
    return Streamed(*apply(queries, passages, mask, tile, None))


def hardest(queries: Tensor, passages: Tensor, mask: Mask, *, tile: int, sharpness: Sharpness) -> Streamed:
    """Compute the highest score of an unmasked passage per query; `sharpness` has no effect."""
    best = queries.new_full((len(queries),), -torch.inf)
    column = torch.zeros_like(best, dtype=torch.int64)
    hidden, suspected = torch.zeros(2, dtype=torch.int64, device=queries.device).unbind()
    with torch.no_grad():
        for start in range(0, len(passages), tile):
            part = scored(queries, passages, start, size=tile)
            counts = mask.hide(part)
            hidden, suspected = hidden + counts[0], suspected + counts[1]
            top, at = part.scores.max(dim=-1)
            column = torch.where(top > best, at + start, column)
            best = torch.maximum(best, top)
    if not len(passages):
        return Streamed(best, hidden, suspected)
    own = torch.einsum("qd,qd->q", queries, passages[column])
    return Streamed(torch.where(best == -torch.inf, -torch.inf, own), hidden, suspected)
