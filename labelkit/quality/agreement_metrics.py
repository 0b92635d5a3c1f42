"""The figures of agreement between two raters. Each is a function of the numbers of pairs by grades and scores.

The numbers are sums over queries, each counted as often as it is drawn, so leaving out a query copies no data. A figure
that is undefined for the data (a constant rater, a single class) is nan.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelkit.records import MAX_GRADE
from labelkit.statistics.intervals import POSITIVE, SIGNED, UNIT, Bounds, Draws, Estimate, estimates

RELEVANT = 2
"""Lowest grade that counts as relevant in the binary figures."""
BINARY = "; no grade is 2 or 3: for binary qrels give --scale 0-1"
"""End of an error about human grades of which none is relevant."""
GRADES = MAX_GRADE + 1

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]


class Counts(NamedTuple):
    """Weighted numbers of pairs that two raters graded; the first rater is the reference.

    With leading dimensions `...`, there is one figure for each of several sets of pairs.
    """

    confusion: Floats
    """`[..., 4, 4]` pairs by grade of the reference and grade of the judge."""
    relevant: Floats
    """`[..., L]` pairs that the reference calls relevant by level of the judge's score, lowest first."""
    others: Floats
    """`[..., L]` all other pairs by level."""
    queries: Floats
    """`[...]` number of queries."""


class Rated:
    """`[n]` pairs that two raters graded; the first rater is the reference.

    `query` has the number of each pair's query, from 0 to `queries` - 1, and `level` the rank of the judge's score
    among its distinct scores; AUC and average precision need only this.
    """

    def __init__(self, query: Ints, reference: Ints, judged: Ints, *, level: Ints, queries: int) -> None:
        self.query, self.judged, self.queries = query, judged, queries
        self.cell = (reference * GRADES + judged).astype(np.int8)
        """`[n]` cell of the confusion matrix: 4 * grade of the reference + grade of the judge."""
        self.level = level
        self.levels = int(level.max()) + 1 if len(level) else 0
        relevant = reference >= RELEVANT
        self._sides = [(query[side], level[side]) for side in (relevant, ~relevant)]

    @cached_property
    def by_query(self) -> Floats:
        """`[Q, 16]` number of pairs by query and cell."""
        place = self.query.astype(np.int64) * GRADES**2 + self.cell
        counts = np.bincount(place, minlength=self.queries * GRADES**2)
        return counts.reshape(self.queries, GRADES**2).astype(float)

    @cached_property
    def by_level(self) -> list[Floats]:
        """`[2][L]` numbers of relevant and of other pairs by level."""
        return [_counts(level, np.ones(len(level)), self.levels) for _, level in self._sides]

    def weighted(self, draws: Draws) -> Floats:
        """`[4, 4]` number of pairs by grades, each counted as often as its query."""
        return (draws.astype(float) @ self.by_query).reshape(GRADES, GRADES)

    def count(self, draws: Draws) -> Counts:
        """Count the pairs, each as often as its query counts."""
        leaves_out = bool((draws <= 1).all()) and 2 * int(draws.sum()) > len(draws)
        relevant, others = (
            self._without(side, draws == 0) if leaves_out else _counts(level, draws.astype(float)[query], self.levels)
            for side, (query, level) in enumerate(self._sides)
        )
        return Counts(self.weighted(draws), relevant, others, queries=draws.astype(float).sum())

    def _without(self, side: int, dropped: NDArray[np.bool_]) -> Floats:
        """Count the pairs of a side by level without the pairs of some queries, `[Q]`: all counts minus a few."""
        query, level = self._sides[side]
        left = self.by_level[side].copy()
        np.subtract.at(left, level[dropped[query]], 1.0)
        return left

    def confusion(self) -> list[list[int]]:
        """Return the numbers of pairs by grade. Rows: grade by the reference; columns: grade by the judge."""
        counts: list[list[int]] = self.by_query.sum(0).astype(int).reshape(GRADES, GRADES).tolist()
        return counts


def _counts(cell: Ints, weight: Floats, size: int) -> Floats:
    counts: Floats = np.bincount(cell, weights=weight, minlength=size).astype(float)
    return counts


class GradedPair(NamedTuple):
    """A pair that two raters graded; the first rater is the reference."""

    query_id: str
    reference: int
    judged: int
    score: float
    """The judge's score, or its grade if it gave no score."""


def rated(pairs: Iterable[GradedPair]) -> Rated:
    """Convert pairs to arrays; queries are numbered in the order of their ids."""
    rows = list(pairs)
    query_ids, reference, judged, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    _, query = np.unique(np.array(query_ids, dtype=object), return_inverse=True)
    return rated_columns(
        query, np.array(reference, dtype=int), np.array(judged, dtype=int), score=np.array(scores, dtype=float)
    )


def rated_columns(query: Ints, reference: Ints, judged: Ints, score: Floats) -> Rated:
    """Convert `[n]` columns of pairs; `query` has numbers of queries, which are numbered again without gaps."""
    own, queries = dense(query)
    _, level = np.unique(score, return_inverse=True)
    return Rated(own, reference, judged, level=level.astype(np.int32), queries=queries)


def dense(numbers: Ints) -> tuple[Ints, int]:
    """Number some numbers from 0 without gaps, in their order. Returns the new numbers, and how many there are."""
    used = np.zeros(int(numbers.max(initial=-1)) + 1, dtype=bool)
    used[numbers] = True
    new = np.cumsum(used, dtype=np.int32) - 1
    return new[numbers], int(used.sum())


def kappa(confusion: Floats, disagreement: Floats) -> Floats:
    """Compute Cohen's (weighted) kappa: 1 - observed / expected disagreement (Cohen 1968); `[..., 4, 4]` -> `[...]`."""
    total = _sum(confusion)
    expected = confusion.sum(-1)[..., :, None] * confusion.sum(-2)[..., None, :] / _or_nan(total)[..., None, None]
    return 1 - _divide(_sum(confusion * disagreement), _sum(expected * disagreement))


def _sum(cells: Floats) -> Floats:
    """Add up `[..., 4, 4]` cells."""
    total: Floats = cells.reshape(*cells.shape[:-2], -1).sum(-1)
    return total


def _or_nan(number: Floats) -> Floats:
    return np.where(number == 0, np.nan, number)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """Divide; nan for a zero denominator."""
    return np.asarray(numerator / _or_nan(denominator))


def coincidences(counts: Ints) -> Floats:
    """Compute `[n, 4, 4]` the part of each pair in Krippendorff's coincidence matrix.

    `counts`: `[n, 4]` numbers of raters who gave each grade, at least two for a pair.
    """
    each = counts.astype(float)
    both = each[:, :, None] * each[:, None, :] - np.eye(GRADES) * each[:, :, None]
    added: Floats = (1 / (each.sum(1) - 1))[:, None, None] * both
    return added


def alpha(coincidence: Floats) -> Floats:
    """Compute Krippendorff's alpha with the ordinal metric (Krippendorff 2011) from coincidences; `[..., 4, 4]` ->
    `[...]`.
    """
    marginal = coincidence.sum(-2)
    total = marginal.sum(-1)
    below = np.cumsum(marginal, axis=-1) - marginal / 2
    distance = (below[..., :, None] - below[..., None, :]) ** 2
    expected = _sum(marginal[..., :, None] * marginal[..., None, :] * distance)
    return 1 - _divide((total - 1) * _sum(coincidence * distance), expected)


def _kappa_from(grade: int) -> Callable[[Counts], Floats]:
    side = np.arange(GRADES) >= grade
    return lambda counts: kappa(counts.confusion, (side[:, None] != side[None, :]).astype(float))


def _alpha(counts: Counts) -> Floats:
    return alpha(counts.confusion + counts.confusion.swapaxes(-1, -2))


def _mean_difference(power: Callable[[Floats], Floats]) -> Callable[[Counts], Floats]:
    steps = power((np.arange(GRADES)[None, :] - np.arange(GRADES)[:, None]).astype(float))
    return lambda counts: _divide(_sum(counts.confusion * steps), _sum(counts.confusion))


def _auc(counts: Counts) -> Floats:
    """Compute the share of (relevant, other) pairs with the higher score for the relevant one; ties count half."""
    relevant, others = counts.relevant, counts.others
    in_order = np.vecdot(relevant, np.cumsum(others, axis=-1)) - np.vecdot(relevant, others) / 2
    return _divide(in_order, relevant.sum(-1) * others.sum(-1))


def _average_precision(counts: Counts) -> Floats:
    """Compute the sum over thresholds, from the highest score down, of precision times the gain in recall."""
    relevant, others = counts.relevant[..., ::-1], counts.others[..., ::-1]
    found = np.cumsum(relevant, axis=-1)
    taken = np.cumsum(others, axis=-1)
    taken += found
    precision = np.divide(found, taken, out=taken, where=taken > 0)
    precision *= relevant
    return _divide(precision.sum(-1), relevant.sum(-1))


def _precision(counts: Counts) -> Floats:
    return _divide(_both(counts), counts.confusion[..., RELEVANT:].sum((-2, -1)))


def _recall(counts: Counts) -> Floats:
    return _divide(_both(counts), counts.confusion[..., RELEVANT:, :].sum((-2, -1)))


def _both(counts: Counts) -> Floats:
    """Add up the pairs that both raters call relevant."""
    total: Floats = counts.confusion[..., RELEVANT:, RELEVANT:].sum((-2, -1))
    return total


def _selected(counts: Counts) -> Floats:
    return _divide(counts.confusion[..., RELEVANT:].sum((-2, -1)), counts.queries)


STEPS = np.abs(np.arange(GRADES)[:, None] - np.arange(GRADES)[None, :]).astype(float)
"""`[4, 4]` distance of two grades."""
UNEQUAL = (STEPS > 0).astype(float)
"""`[4, 4]` 1 for different grades, else 0."""


class Figure(NamedTuple):
    label: str
    """Name of the figure in tables."""
    of: Callable[[Counts], Floats]
    """Function from counts with leading dimensions `[...]` to `[...]` values."""
    bounds: Bounds = SIGNED
    """Least and greatest possible value."""


FIGURES = {
    "kappa": Figure("Cohen's kappa, grades 0 to 3", lambda counts: kappa(counts.confusion, UNEQUAL)),
    "kappa_1": Figure("Cohen's kappa, grade >= 1", _kappa_from(1)),
    "kappa_2": Figure("Cohen's kappa, grade >= 2", _kappa_from(2)),
    "kappa_3": Figure("Cohen's kappa, grade >= 3", _kappa_from(3)),
    "kappa_quadratic": Figure("quadratic kappa", lambda counts: kappa(counts.confusion, STEPS**2)),
    "alpha_ordinal": Figure("Krippendorff's alpha, ordinal", _alpha),
    "mae": Figure("mean absolute error, in grades", _mean_difference(np.abs), (0.0, MAX_GRADE)),
    "bias": Figure(
        "bias: judge minus reference, in grades", _mean_difference(lambda steps: steps), (-MAX_GRADE, MAX_GRADE)
    ),
    "auc": Figure("AUC of the score, reference grade >= 2", _auc, UNIT),
    "average_precision": Figure("average precision of the score", _average_precision, UNIT),
    "precision": Figure("precision, grade >= 2", _precision, UNIT),
    "recall": Figure("recall, grade >= 2", _recall, UNIT),
    "selected": Figure("mean number of pairs with grade >= 2 per query", _selected, POSITIVE),
}
"""Name of a figure in JSON -> its name in tables and its function."""
FIGURES_OF_SCORES = ("auc", "average_precision")
"""Figures that need no grades by the judge, only scores."""


def figure_intervals(names: Iterable[str], pairs: Rated) -> dict[str, Estimate]:
    """Estimate figures with their confidence intervals over queries; the pairs are counted once for all figures."""
    figures = {name: FIGURES[name] for name in names}

    def values(draws: Draws) -> Floats:
        counts = pairs.count(draws)
        return np.array([figure.of(counts) for figure in figures.values()])

    found = estimates(values, pairs.queries, [figure.bounds for figure in figures.values()])
    return dict(zip(figures, found, strict=True))


def figure_interval(name: str, pairs: Rated) -> Estimate:
    """Estimate a figure with its confidence interval over queries."""
    return figure_intervals([name], pairs)[name]


def figure_differences(names: Iterable[str], one: Rated, other: Rated) -> dict[str, Estimate]:
    """Estimate differences of figures between two judges on the same pairs, with paired confidence intervals."""
    figures = {name: FIGURES[name] for name in names}

    def values(draws: Draws) -> Floats:
        first, second = one.count(draws), other.count(draws)
        return np.array([figure.of(first) - figure.of(second) for figure in figures.values()])

    spans = [high - low for low, high in (figure.bounds for figure in figures.values())]
    found = estimates(values, one.queries, [(-span, span) for span in spans])
    return dict(zip(figures, found, strict=True))
