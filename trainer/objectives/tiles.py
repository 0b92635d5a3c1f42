"""Scores of all pairs of a batch, computed in tiles, and the masked pairs of a tile.

On a GPU a tile is as large as its memory allows, and if one tile has all pairs, this module never waits for the GPU.

Legend of shapes: Q queries, U passages, D dimensions, T passages per tile, E known pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TILE_PAIRS = 2**22
"""Pairs of query and passage in a tile: 16 MiB of scores in float32."""
GPU_TILE_PAIRS = 2**26
"""Pairs in a tile on a GPU, if the scores of all pairs do not fit into its memory."""
SCORES_KEPT = 4
"""All pairs are scored at once if this many copies of their scores fit into the free memory of a GPU. The scores are
kept, and two temporary copies exist at a time.
"""


class PositivePairs(NamedTuple):
    """Pairs of query and passage, sorted by passage."""

    row: Tensor
    """[E] int64: row of the query."""
    column: Tensor
    """[E] int64: row of the passage; U, the number of passages, if it is not among them."""

    def within(self, tile: "Tile") -> Tensor:
        """Return the places of the pairs in `Tile.flat`; pairs whose passage is not in the tile have the last place."""
        row, column = self.row, self.column
        if not tile.whole:
            bounds = column.new_tensor([tile.start, tile.start + tile.scores.shape[1]])
            first, last = torch.searchsorted(column, bounds).tolist()
            row, column = row[first:last], column[first:last] - tile.start
        queries, passages = tile.scores.shape
        return torch.where(column < passages, row * passages + column, queries * passages)


def known_pairs(row: Tensor, key: Tensor, passage_key: Tensor) -> PositivePairs:
    """Find the passages of the pairs (row `[E]`, key `[E]`) among `passage_key` `[U]`.

    The shapes do not depend on the number of pairs found, so that the CPU does not wait for the GPU.
    """
    passages = len(passage_key)
    if not passages:
        return PositivePairs(row, torch.zeros_like(key))
    ordered, order = passage_key.sort()
    at = torch.searchsorted(ordered, key).clamp(max=passages - 1)
    column, by_column = torch.where(ordered[at] == key, order[at], passages).sort()
    return PositivePairs(row[by_column], column)


class Tile(NamedTuple):
    """Scores of the queries and some neighbouring passages."""

    flat: Tensor
    """[Q * T + 1]: scores; the last entry is a placeholder for all pairs outside of the tile."""
    scores: Tensor
    """[Q, T]: view of `flat` without the last entry."""
    start: int
    """Row of the first passage."""
    whole: bool
    """True if the tile has all passages."""


def scored(queries: Tensor, passages: Tensor, start: int, size: int) -> Tile:
    """Compute the scores of queries `[Q, D]` and of `size` passages `[U, D]` from a row on."""
    part = passages[start : start + size]
    flat = queries.new_empty(len(queries) * len(part) + 1)
    flat[-1].zero_()
    scores = flat[:-1].view(len(queries), len(part))
    torch.mm(queries, part.T, out=scores)
    return Tile(flat, scores, start, whole=len(part) == len(passages))


class Mask(NamedTuple):
    """The rules that decide which pairs act as negatives."""

    excluded: PositivePairs
    """Pairs that are always masked."""
    judged: PositivePairs
    """Pairs judged negative, masked only if they are also excluded."""
    ceiling: Tensor | None = None
    """[Q]: an unjudged passage with a higher score is masked as a suspected positive; None masks none."""
    in_batch: bool = True
    """False: all unjudged pairs are masked."""

    def hide(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Set masked scores of a tile to -inf; return the numbers of masked and of suspected pairs."""
        excluded = self.excluded.within(tile)
        if self.in_batch and self.ceiling is None:
            tile.flat.index_fill_(0, excluded, -torch.inf)
            hidden = (excluded < tile.scores.numel()).sum()
            return hidden, torch.zeros_like(hidden)
        judged = self.judged.within(tile)
        suspected = torch.zeros_like(tile.flat, dtype=torch.bool)
        if self.ceiling is not None:
            torch.gt(tile.scores, self.ceiling.unsqueeze(-1), out=suspected[:-1].view(tile.scores.shape))
            suspected.index_fill_(0, judged, False).index_fill_(0, excluded, False)
        masked = suspected if self.in_batch else torch.ones_like(suspected)
        suspects = suspected[:-1].sum()
        masked.index_fill_(0, judged, False).index_fill_(0, excluded, True)
        tile.flat.masked_fill_(masked, -torch.inf)
        return masked[:-1].sum(), suspects


def tile_size(queries: Tensor, passages: int) -> int:
    """Choose the number of passages per tile: all passages if their scores fit into the memory of the GPU."""
    rows = max(1, len(queries))
    if queries.device.type != "cuda":
        return max(1, TILE_PAIRS // rows)
    if rows * passages > TILE_PAIRS:
        free, _ = torch.cuda.mem_get_info(queries.device)
        free += torch.cuda.memory_reserved(queries.device) - torch.cuda.memory_allocated(queries.device)
        if SCORES_KEPT * rows * passages * queries.element_size() > free:
            return max(1, GPU_TILE_PAIRS // rows)
    return max(1, passages)
