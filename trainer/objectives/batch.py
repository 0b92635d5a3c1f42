"""The layout of one batch: each passage once, ragged positives, and what is known of the other pairs.

A pair that is known is written down as the row of its query and the key of its passage. Keys are the same on every
process, so a pair is recognised also where another process brings the passage, and their number grows with what is
known, not with queries times passages.

Legend of shapes: Q queries, P unique passages, M positives of the query that has most of them, G passages of the
largest group, E and T known pairs.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import md5

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
    target: float = 0.0
    """Log-odds of relevance according to the label; what distillation learns."""


@dataclass(frozen=True)
class Negative:
    """A judged negative of a group."""

    passage_id: str
    target: float = 0.0


@dataclass(frozen=True)
class Group:
    """A query of one epoch with the passages drawn for it."""

    query_id: str
    query: str
    positives: tuple[Positive, ...]
    """Drawn positives, the best first."""
    negatives: tuple[Negative, ...]
    """Drawn negatives."""
    excluded: frozenset[str]
    """Ids that may never be negatives of this query: all its known positives, drawn or not, and its ignored
    passages.
    """
    judged_negatives: frozenset[str] = frozenset()
    """Ids of all its known negatives, drawn or not: no rule takes them for missed positives."""

    @property
    def members(self) -> tuple["Positive | Negative", ...]:
        """The drawn passages, positives first."""
        return (*self.positives, *self.negatives)


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
    group_index: Tensor
    """[Q, G] int64: rows of the query's own positives and negatives among the passages; 0 where masked."""
    group_mask: Tensor
    """[Q, G] bool."""
    group_target: Tensor
    """[Q, G] float32: log-odds of relevance; 0 where masked."""
    passage_key: Tensor
    """[P] int64: `key_of` each passage."""
    excluded_row: Tensor
    """[E] int64: queries of the pairs that may not act as negatives."""
    excluded_key: Tensor
    """[E] int64: keys of their passages, which need not be in the batch."""
    judged_row: Tensor
    """[T] int64: queries of the pairs that a judge called negative."""
    judged_key: Tensor
    """[T] int64: keys of their passages."""


def key_of(passage_id: str) -> int:
    """A passage id as a number of 63 bits. Two of ten million ids share one with a chance of 5 in a million."""
    return int.from_bytes(md5(passage_id.encode(), usedforsecurity=False).digest()[:8]) >> 1


def passages_of(groups: Iterable[Group]) -> list[str]:
    """Ids of all passages that the groups bring, each once, in order of first appearance."""
    return list(dict.fromkeys(member.passage_id for group in groups for member in group.members))


def lay_out(groups: Sequence[Group], passage_ids: Sequence[str]) -> Batch:
    """The layout of groups over the passages of their batch, `passages_of(groups)` in any order."""
    row_of = {passage_id: row for row, passage_id in enumerate(passage_ids)}
    queries = len(groups)
    most = max((len(group.positives) for group in groups), default=0)
    largest = max((len(group.members) for group in groups), default=0)
    excluded_row, excluded_key = _known(group.excluded for group in groups)
    judged_row, judged_key = _known(group.judged_negatives - group.excluded for group in groups)
    batch = Batch(
        pos_index=torch.zeros((queries, most), dtype=torch.int64),
        pos_mask=torch.zeros((queries, most), dtype=torch.bool),
        pos_weight=torch.ones((queries, most), dtype=torch.float32),
        pos_source=torch.full((queries, most), -1, dtype=torch.int64),
        group_index=torch.zeros((queries, largest), dtype=torch.int64),
        group_mask=torch.zeros((queries, largest), dtype=torch.bool),
        group_target=torch.zeros((queries, largest), dtype=torch.float32),
        passage_key=torch.tensor([key_of(passage_id) for passage_id in passage_ids], dtype=torch.int64),
        excluded_row=excluded_row,
        excluded_key=excluded_key,
        judged_row=judged_row,
        judged_key=judged_key,
    )
    for row, group in enumerate(groups):
        count = len(group.positives)
        batch.pos_mask[row, :count] = True
        for column, positive in enumerate(group.positives):
            batch.pos_index[row, column] = row_of[positive.passage_id]
            batch.pos_weight[row, column] = positive.weight
            batch.pos_source[row, column] = SOURCE_CODES[positive.source]
        batch.group_mask[row, : len(group.members)] = True
        for column, member in enumerate(group.members):
            batch.group_index[row, column] = row_of[member.passage_id]
            batch.group_target[row, column] = member.target
    return batch


def _known(ids_of_rows: Iterable[Collection[str]]) -> tuple[Tensor, Tensor]:
    pairs = [(row, key_of(passage_id)) for row, ids in enumerate(ids_of_rows) for passage_id in sorted(ids)]
    rows, keys = zip(*pairs, strict=True) if pairs else ((), ())
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(keys, dtype=torch.int64)
