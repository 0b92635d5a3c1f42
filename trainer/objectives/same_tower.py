"""Negatives of the same tower: queries against queries, and passages against passages.

Legend of shapes: Q queries and P passages of this process, U unique passages of all processes, D dimensions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from trainer.objectives.batch import Batch
from trainer.objectives.masked import joint_lse, masked_lse
from trainer.objectives.processes import gather_passages, gather_rows, process
from trainer.objectives.streaming import streamed_lse
from trainer.objectives.tiles import Mask, PositivePairs


class Towers(NamedTuple):
    """Embeddings whose dot products are the similarities, not divided by the temperature."""

    queries: Tensor
    """[Q, D]: the queries of this process."""
    passages: Tensor
    """[U, D]: the unique passages of all processes."""
    place: Tensor
    """[P]: row of each passage of this process in `passages`."""
    key: Tensor
    """[U]: key of each passage."""


class SameTower(NamedTuple):
    """Log-sum-exp over the negatives of the same tower."""

    lse: Tensor
    """[Q]: log-sum-exp per query."""
    zero: Tensor
    """[]: 0, computed from the queries of all processes. If it is added to a loss, every process takes part in the
    backward pass of these queries.
    """


def same_tower_lse(towers: Towers, batch: Batch, mask: Mask, *, temperature: float | Tensor, tile: int) -> SameTower:
    """Compute LSE(q q') + LSE(d d'), added as log-sum-exps, for each query.

    q' are the other queries of all processes that have positives, except queries with a known positive of q among
    their positives. d are the positives of q, d' the passages that are negatives of q; the exponentials are averaged
    over d.
    """
    queries = towers.queries
    own = torch.arange(len(queries), device=queries.device)
    own_key = process() * 2**40 + own
    everyone, _, key = gather_passages(queries, own_key)
    row, column = batch.pos_mask.nonzero(as_tuple=True)
    asked = gather_rows(own_key[row])
    positive = gather_rows(batch.passage_key[batch.pos_index[row, column]])
    # Queries without positives include the stand-ins of processes that a small batch leaves without a query.
    present = torch.isin(key, asked)
    everyone, key = everyone[present], key[present]
    rows, entries = joined(batch.excluded_row, batch.excluded_key, positive)
    shared = torch.searchsorted(key, asked[entries])
    with_positives = batch.pos_mask.any(dim=-1)
    hidden = _sorted(
        torch.cat([own[with_positives], rows]), torch.cat([torch.searchsorted(key, own_key[with_positives]), shared])
    )
    others = Mask(hidden, _sorted(own[:0], own[:0]))
    of_queries = streamed_lse(queries / temperature, everyone, others, tile=tile, sharpness=1.0).values
    of_passages = _passage_lse(towers, batch, mask, temperature=temperature, tile=tile)
    return SameTower(joint_lse(of_queries, of_passages), 0.0 * everyone.sum())


def _passage_lse(towers: Towers, batch: Batch, mask: Mask, *, temperature: float | Tensor, tile: int) -> Tensor:
    most = batch.pos_mask.shape[1]
    positives = towers.passages[towers.place[batch.pos_index]].flatten(end_dim=1) / temperature
    each = Mask(_repeated(mask.excluded, most), _repeated(mask.judged, most), in_batch=mask.in_batch)
    lse = streamed_lse(positives, towers.passages, each, tile=tile, sharpness=1.0).values
    count = batch.pos_mask.sum(dim=-1).clamp(min=1)
    lse = lse.reshape(batch.pos_mask.shape)
    return masked_lse(lse, batch.pos_mask & (lse > -torch.inf)) - count.to(lse.dtype).log()


def joined(row: Tensor, key: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Join the entries of `key` `[E]` with equal entries of `among` `[K]`.

    Returns, for each pair, the `row` of the first entry and the place of the second.
    """
    ordered, order = among.sort()
    first = torch.searchsorted(ordered, key)
    count = torch.searchsorted(ordered, key, right=True) - first
    ends = count.cumsum(dim=0)
    step = torch.arange(int(count.sum()), device=key.device) - (ends - count).repeat_interleave(count)
    return row.repeat_interleave(count), order[first.repeat_interleave(count) + step]


def _repeated(pairs: PositivePairs, times: int) -> PositivePairs:
    """Repeat the pairs of each query for the `times` rows of its positives."""
    rows = pairs.row.unsqueeze(-1) * times + torch.arange(times, device=pairs.row.device)
    return PositivePairs(rows.flatten(), pairs.column.repeat_interleave(times))


def _sorted(row: Tensor, column: Tensor) -> PositivePairs:
    """Sort pairs by passage."""
    column, order = column.sort()
    return PositivePairs(row[order], column)
