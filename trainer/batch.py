"""The layout of one batch: each passage once, ragged positives, and the pairs that may not act as negatives.

Legend of shapes: Q queries, P unique passages, M positives of the query that has most of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SOURCE_CODES = {"human": 0, "llm": 1, "imported": 2}
"""Source of a positive label -> its number in `Batch.pos_source`."""


@dataclass(frozen=True)
class Positive:
    """A positive of a group as the batch needs it."""

    passage_id: str
    weight: float
    source: str


@dataclass(frozen=True)
class Group:
    """A query of one epoch with the passages drawn for it."""

    query_id: str
    query: str
    positives: tuple[Positive, ...]
    """Drawn positives, the best first."""
    negatives: tuple[str, ...]
    """Ids of drawn negatives."""
    excluded: frozenset[str]
    """Ids that may never be negatives of this query: all its known positives, drawn or not, and its ignored
    passages.
    """


@dataclass(frozen=True)
class Batch:
    """Tensors that say how queries `[Q, D]` and passages `[P, D]` of a batch belong together."""

    pos_index: Tensor
    """[Q, M] int64: row of the positive among the passages; 0 where masked."""
    pos_mask: Tensor
    """[Q, M] bool: True where there is a positive."""
    pos_weight: Tensor
    """[Q, M] float32: weight of the positive; 1 where masked."""
    pos_source: Tensor
    """[Q, M] int64: a value of `SOURCE_CODES`; -1 where masked."""
    excluded: Tensor
    """[Q, P] bool: True where the passage may not act as a negative of the query."""


def lay_out(groups: Sequence[Group]) -> tuple[list[str], Batch]:
    """The ids of the batch's passages, each once in order of first appearance, and the layout over them."""
    row_of: dict[str, int] = {}
    for group in groups:
        for passage_id in (*(positive.passage_id for positive in group.positives), *group.negatives):
            row_of.setdefault(passage_id, len(row_of))
    shape = (len(groups), max((len(group.positives) for group in groups), default=0))
    batch = Batch(
        pos_index=torch.zeros(shape, dtype=torch.int64),
        pos_mask=torch.zeros(shape, dtype=torch.bool),
        pos_weight=torch.ones(shape, dtype=torch.float32),
        pos_source=torch.full(shape, -1, dtype=torch.int64),
        excluded=torch.zeros((len(groups), len(row_of)), dtype=torch.bool),
    )
    for row, group in enumerate(groups):
        for column, positive in enumerate(group.positives):
            batch.pos_index[row, column] = row_of[positive.passage_id]
            batch.pos_mask[row, column] = True
            batch.pos_weight[row, column] = positive.weight
            batch.pos_source[row, column] = SOURCE_CODES[positive.source]
        here = [row_of[passage_id] for passage_id in group.excluded if passage_id in row_of]
        batch.excluded[row, here] = True
    return list(row_of), batch
