"""The layout of one batch: unique passages, ragged positives, and the known labels of the other pairs.

A known pair is stored as the row of its query and the key of its passage. A passage has the same key in every process,
so a pair is also recognised when another process contributes the passage. The memory grows with the number of known
pairs, not with queries times passages.

Legend of shapes: Q queries, P unique passages, M the largest number of positives of a query, G the largest number of
passages in a group, E excluded pairs, T pairs judged negative.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import md5

import torch
from torch import Tensor

SOURCE_CODES = {"human": 0, "llm": 1, "imported": 2}
"""Source of a positive label -> its code in `Batch.pos_source`."""


@dataclass(frozen=True)
class Positive:
    """A positive passage of a group."""

    passage_id: str
    weight: float
    source: str
    target: float = 0.0
    """Log-odds of relevance according to the label, the target of distillation."""


@dataclass(frozen=True)
class Negative:
    """A negative passage of a group."""

    passage_id: str
    target: float = 0.0
    """Log-odds of relevance according to the label."""


@dataclass(frozen=True)
class Group:
    """A query of one epoch and the passages drawn for it."""

    query_id: str
    query: str
    positives: tuple[Positive, ...]
    """Drawn positives, best first."""
    negatives: tuple[Negative, ...]
    """Drawn negatives."""
    excluded: frozenset[str]
    """Ids of the passages that may not be negatives of this query: all its known positives, drawn or not, and its
    ignored passages.
    """
    judged_negatives: frozenset[str] = frozenset()
    """Ids of all its known negatives, drawn or not. They always remain negatives: `ContrastRules.margin` and `ratio`
    mask only unjudged passages.
    """

    @property
    def members(self) -> tuple["Positive | Negative", ...]:
        """All drawn passages, positives first."""
        return (*self.positives, *self.negatives)


@dataclass(frozen=True)
class Batch:
    """Tensors that relate the queries `[Q, D]` of a batch to its passages `[P, D]`."""

    pos_index: Tensor
    """[Q, M] int64: row of each positive among the passages; 0 where masked."""
    pos_mask: Tensor
    """[Q, M] bool: True where a query has a positive."""
    pos_weight: Tensor
    """[Q, M] float32: weight of each positive; 1 where masked."""
    pos_source: Tensor
    """[Q, M] int64: a value of `SOURCE_CODES`; -1 where masked."""
    group_index: Tensor
    """[Q, G] int64: row of each passage of the query's group among the passages; 0 where masked."""
    group_mask: Tensor
    """[Q, G] bool: True where a group has a passage."""
    group_target: Tensor
    """[Q, G] float32: log-odds of relevance; 0 where masked."""
    passage_key: Tensor
    """[P] int64: `key_of` each passage."""
    excluded_row: Tensor
    """[E] int64: row of the query of each pair that may not act as a negative."""
    excluded_key: Tensor
    """[E] int64: key of the passage of each pair in `excluded_row`; the passage may be absent from the batch."""
    judged_row: Tensor
    """[T] int64: row of the query of each pair that a judge called negative."""
    judged_key: Tensor
    """[T] int64: key of the passage of each pair in `judged_row`; the passage may be absent from the batch."""


def key_of(passage_id: str) -> int:
    """Hash a passage id to an integer of 63 bits. Among ten million ids, the probability of a collision is 5e-6."""
    return int.from_bytes(md5(passage_id.encode(), usedforsecurity=False).digest()[:8]) >> 1


def passages_of(groups: Iterable[Group]) -> list[str]:
    """List the unique passage ids of some groups, in order of first appearance."""
    return list(dict.fromkeys(member.passage_id for group in groups for member in group.members))


def lay_out(groups: Sequence[Group], passage_ids: Sequence[str]) -> Batch:
    """Build the batch of some groups. `passage_ids` are `passages_of(groups)` in any order."""
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
    """Convert the passage ids of each query to pairs of row and key, two `[pairs]` int64 tensors."""
    pairs = [(row, key_of(passage_id)) for row, ids in enumerate(ids_of_rows) for passage_id in sorted(ids)]
    rows, keys = zip(*pairs, strict=True) if pairs else ((), ())
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(keys, dtype=torch.int64)
