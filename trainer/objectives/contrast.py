"""Computes the inputs of an objective, scores and log-sum-exp, from the embeddings of a batch.

The scores of the positives are computed separately from the negatives. The log-sum-exp over the negatives is computed
in tiles of passages, and recomputed in the backward pass: memory grows with queries plus passages, not with their
product. With several processes, the passages and their gradients are gathered, duplicates are removed, and every
process contrasts its own queries with all passages.

Legend of shapes: Q queries and P passages of this process, U unique passages of all processes, M the largest number of
positives of a query, G the largest number of passages in a group, D dimensions, T passages per tile.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from labelkit.pooling.dense_search import SIMILARITIES
from trainer.objectives.batch import Batch
from trainer.objectives.tiles import Mask, known_pairs, scored, tile_size


class ContrastRules(NamedTuple):
    """The similarity of a pair, and the rule that decides which pairs count as negatives."""

    similarity: str = "cosine"
    """A name of `SIMILARITIES`."""
    in_batch: bool = True
    """True: unjudged passages of the batch count as negatives. False: only judged negatives do."""
    margin: float | None = None
    """An unjudged passage is masked as a suspected positive if its similarity exceeds the similarity of the query's
    best positive by more than this margin.
    """
    ratio: float | None = None
    """An unjudged passage is masked as a suspected positive if its similarity exceeds this ratio times the similarity
    of the query's best positive. Used instead of `margin` if both are set.
    """


class Scores(NamedTuple):
    """Similarities divided by the temperature, in float32 or wider, and the shares of masked pairs."""

    pos_scores: Tensor
    """[Q, M]: scores of the positives; masked entries are arbitrary."""
    group_scores: Tensor
    """[Q, G]: scores of the passages of each query's group; masked entries are arbitrary."""
    neg_lse: Tensor
    """[Q]: log-sum-exp over the negatives, or the score of the hardest negative; -inf for a query without negatives."""
    masked_share: Tensor
    """[]: share of masked pairs among all pairs, not counting a query's own drawn positives."""
    suspected_share: Tensor
    """[]: share of pairs masked as suspected positives by `ContrastRules.margin` or `ContrastRules.ratio`."""


def contrast(
    queries: Tensor,
    passages: Tensor,
    batch: Batch,
    rules: ContrastRules,
    temperature: float | Tensor,
    *,
    against: Literal["all", "hardest", "group"] = "all",
    tile: int | None = None,
) -> Scores:
    """Score the queries `[Q, D]` of a batch against the passages of all processes, `[P, D]` of which are its own.

    Scores are computed in float32 even if the encoder runs in half precision: at temperature 0.05 a bfloat16 score is
    off by up to 0.06. `against` is `Objective.against`; with "group" no negatives are scored. `tile` is T, by default
    the number of passages of `tile_size`.
    """
    with torch.autocast(queries.device.type, enabled=False):
        prepare = SIMILARITIES[rules.similarity]
        wide = torch.promote_types(queries.dtype, torch.float32)
        queries = prepare(queries.to(wide)) / temperature
        passages, place, key = gather_passages(prepare(passages.to(wide)), batch.passage_key)
        pos_scores, group_scores = (
            torch.einsum("qd,qmd->qm", queries, passages[place[index]])
            for index in (batch.pos_index, batch.group_index)
        )
        nothing = torch.zeros((), device=queries.device)
        if against == "group":
            none = pos_scores.new_full(pos_scores.shape[:1], -torch.inf)
            return Scores(pos_scores, group_scores, none, masked_share=nothing, suspected_share=nothing)
        mask = Mask(
            excluded=known_pairs(batch.excluded_row, batch.excluded_key, key),
            judged=known_pairs(batch.judged_row, batch.judged_key, key),
            ceiling=_ceiling(pos_scores.detach(), batch.pos_mask, rules, temperature=temperature),
            in_batch=rules.in_batch,
        )
        tile = tile or tile_size(queries, len(passages))
        neg_lse, hidden, suspected = _AGAINST[against](queries, passages, mask, tile)
        own = batch.pos_mask.sum()
        others = (len(queries) * len(passages) - own).clamp(min=1)
        return Scores(
            pos_scores, group_scores, neg_lse, masked_share=(hidden - own) / others, suspected_share=suspected / others
        )


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


class _StreamedLse(torch.autograd.Function):
    """Log-sum-exp over unmasked passages, one tile at a time. [Q, D], [U, D] -> [Q], [], [].

    The scores are computed again in the backward pass; the scores of a single tile are kept instead.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, passages: Tensor, mask: Mask, tile: int) -> tuple[Tensor, Tensor, Tensor]:
        lse = queries.new_full((len(queries),), -torch.inf)
        hidden, suspected = torch.zeros(2, dtype=torch.int64, device=queries.device).unbind()
        kept = []
        for start in range(0, len(passages), tile):
            part = scored(queries, passages, start, tile)
            counts = mask.hide(part)
            hidden, suspected = hidden + counts[0], suspected + counts[1]
            lse = torch.logaddexp(lse, part.scores.logsumexp(dim=-1))
            kept = [part.scores] if part.whole else []
        ctx.save_for_backward(queries, passages, lse, *kept)
        ctx.mask, ctx.tile = mask, tile
        ctx.mark_non_differentiable(hidden, suspected)
        return lse, hidden, suspected

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_lse: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None]:
        queries, passages, lse, *kept = ctx.saved_tensors
        # A query without negatives: exp(-inf - 0) is the 0 that its gradient is.
        lse = torch.where(lse == -torch.inf, 0.0, lse).unsqueeze(-1)
        grad_queries, grad_passages = torch.zeros_like(queries), torch.empty_like(passages)
        for start in range(0, len(passages), ctx.tile):
            stop = start + ctx.tile
            share = kept[0].sub(lse) if kept else _masked(queries, passages, ctx.mask, start, ctx.tile).sub_(lse)
            share.exp_().mul_(grad_lse.unsqueeze(-1))
            grad_queries.addmm_(share, passages[start:stop])
            torch.mm(share.T, queries, out=grad_passages[start:stop])
        return grad_queries, grad_passages, None, None


def _masked(queries: Tensor, passages: Tensor, mask: Mask, start: int, size: int) -> Tensor:
    part = scored(queries, passages, start, size)
    mask.hide(part)
    return part.scores


def _streamed_lse(queries: Tensor, passages: Tensor, mask: Mask, tile: int) -> tuple[Tensor, Tensor, Tensor]:
    apply: Any = _StreamedLse.apply
    found: tuple[Tensor, Tensor, Tensor] = apply(queries, passages, mask, tile)
    return found


def _hardest(queries: Tensor, passages: Tensor, mask: Mask, tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the highest score of an unmasked passage per query. [Q, D], [U, D] -> [Q], [], []."""
    best = queries.new_full((len(queries),), -torch.inf)
    column = torch.zeros_like(best, dtype=torch.int64)
    hidden, suspected = torch.zeros(2, dtype=torch.int64, device=queries.device).unbind()
    with torch.no_grad():
        for start in range(0, len(passages), tile):
            part = scored(queries, passages, start, tile)
            counts = mask.hide(part)
            hidden, suspected = hidden + counts[0], suspected + counts[1]
            top, at = part.scores.max(dim=-1)
            column = torch.where(top > best, at + start, column)
            best = torch.maximum(best, top)
    if not len(passages):
        return best, hidden, suspected
    own = torch.einsum("qd,qd->q", queries, passages[column])
    return torch.where(best == -torch.inf, -torch.inf, own), hidden, suspected


_AGAINST = {"all": _streamed_lse, "hardest": _hardest}


def _ceiling(pos_scores: Tensor, pos_mask: Tensor, rules: ContrastRules, temperature: float | Tensor) -> Tensor | None:
    """Compute the score `[Q]` above which an unjudged passage is masked as a suspected positive."""
    if rules.margin is None and rules.ratio is None:
        return None
    if not pos_mask.shape[1]:
        return pos_scores.new_full(pos_scores.shape[:1], torch.inf)
    best = pos_scores.masked_fill(~pos_mask, -torch.inf).amax(dim=-1)
    ceiling = best * rules.ratio if rules.ratio is not None else best + (rules.margin or 0.0) / temperature
    return torch.where(pos_mask.any(dim=-1), ceiling, torch.inf).detach()


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _gather_with_gradient(rows: Tensor) -> list[Tensor]:
    apply: Any = _Gathered.apply
    return list(apply(rows))


def _gather(rows: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return parts
