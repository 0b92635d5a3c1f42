"""The layout of one batch: unique passages, ragged positives, and the known labels of the other pairs.

A known pair is stored as the row of its query and the key of its passage. A passage has the same key in every process,
so a pair is also recognised when another process contributes the passage. The memory grows with the number of known
pairs, not with queries times passages.

Legend of shapes: Q queries, P unique passages, M the largest number of positives of a query, G the largest number of
passages in a group, E excluded pairs, T pairs judged negative.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import md5
from typing import Any

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
    target: float | None = None
    """Target of distillation: log-odds of relevance or the raw score of the label; None if it has none."""
    grade: float = 1.0
    """Grade, at least 1."""
    probability: float = 1.0
    """Probability of relevance according to the label; 1 if it has none."""


@dataclass(frozen=True)
class Negative:
    """A passage of a group that is not positive: a negative, or a passage with a grade between both."""

    passage_id: str
    target: float | None = None
    """Target of distillation: log-odds of relevance or the raw score of the label; None if it has none."""
    grade: float = 0.0
    """Grade: 0 for a negative; a passage of a higher grade is in `Group.excluded`."""
    probability: float = 0.0
    """Probability of relevance according to the label; 0 if it has none."""


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
    """[Q, G] float32: scores of the teacher; 0 for passages that it did not score."""
    group_taught: Tensor
    """[Q, G] bool: True where the teacher gave a score."""
    group_positive: Tensor
    """[Q, G] bool: True for the positives, which come first in a group."""
    group_grade: Tensor
    """[Q, G] float32: grades; 0 for negatives and where masked."""
    group_probability: Tensor
    """[Q, G] float32: probabilities of relevance; 0 where masked."""
    group_weight: Tensor
    """[Q, G] float32: weights of the positives; 1 elsewhere."""
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
    positives, members = [group.positives for group in groups], [group.members for group in groups]
    excluded_row, excluded_key = _known(group.excluded for group in groups)
    judged_row, judged_key = _known(group.judged_negatives - group.excluded for group in groups)
    return Batch(
        pos_index=_padded(positives, lambda one: row_of[one.passage_id], 0),
        pos_mask=_padded(positives, lambda one: True, False),
        pos_weight=_padded(positives, lambda one: one.weight, 1.0),
        pos_source=_padded(positives, lambda one: SOURCE_CODES[one.source], -1),
        group_index=_padded(members, lambda one: row_of[one.passage_id], 0),
        group_mask=_padded(members, lambda one: True, False),
        group_target=_padded(members, lambda one: 0.0 if one.target is None else one.target, 0.0),
        group_taught=_padded(members, lambda one: one.target is not None, False),
        group_positive=_padded(members, lambda one: isinstance(one, Positive), False),
        group_grade=_padded(members, lambda one: one.grade, 0.0),
        group_probability=_padded(members, lambda one: one.probability, 0.0),
        group_weight=_padded(members, lambda one: one.weight if isinstance(one, Positive) else 1.0, 1.0),
        passage_key=torch.tensor([key_of(passage_id) for passage_id in passage_ids], dtype=torch.int64),
        excluded_row=excluded_row,
        excluded_key=excluded_key,
        judged_row=judged_row,
        judged_key=judged_key,
    )


def lay_out_pairs(groups: Sequence[Group], order: Sequence[int]) -> Batch:
    """Build the batch of some groups for a cross-encoder, whose rows are pairs of a query and a passage of its group.

    `order` `[N]` has for each row the number of its pair, counted group by group, positives first. The indices of the
    batch are rows of pairs instead of passages.
    """
    row_of = {number: row for row, number in enumerate(order)}
    numbers = itertools.count()
    rows = [[row_of[next(numbers)] for _ in group.members] for group in groups]
    positives = [each[: len(group.positives)] for each, group in zip(rows, groups, strict=True)]
    return replace(
        lay_out(groups, passages_of(groups)),
        pos_index=_padded(positives, lambda row: row, 0),
        group_index=_padded(rows, lambda row: row, 0),
    )


def _padded(rows: Sequence[Sequence[Any]], value_of: Callable[[Any], float], filler: float) -> Tensor:
    """Pad ragged rows to a tensor `[rows, longest row]` with a value of each entry and `filler` after the last one."""
    longest = max(map(len, rows), default=0)
    values = [[*map(value_of, row), *[filler] * (longest - len(row))] for row in rows]
    return torch.tensor(values, dtype=TYPES[type(filler)]).reshape(len(rows), longest)


TYPES = {bool: torch.bool, int: torch.int64, float: torch.float32}
"""Type of a value -> type of its tensor."""


def _known(ids_of_rows: Iterable[Collection[str]]) -> tuple[Tensor, Tensor]:
    """Convert the passage ids of each query to pairs of row and key, two `[pairs]` int64 tensors."""
    pairs = [(row, key_of(passage_id)) for row, ids in enumerate(ids_of_rows) for passage_id in sorted(ids)]
    rows, keys = zip(*pairs, strict=True) if pairs else ((), ())
    return torch.tensor(rows, dtype=torch.int64), torch.tensor(keys, dtype=torch.int64)
