"""The figures of agreement between two raters. Each is a function of the pairs and of how often each query counts.

All are defined on weighted pairs, so leaving out a query copies no data. A figure that is undefined for the data (a
constant rater, a single class) is nan.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelkit.records import MAX_GRADE
from labelkit.statistics.intervals import POSITIVE, SIGNED, UNIT, Bounds, Draws, Estimate, estimate, ratio

RELEVANT = 2
"""Lowest grade that counts as relevant in the binary figures."""
GRADES = MAX_GRADE + 1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Rated(NamedTuple):
    """`[n]` pairs that two raters graded; the first rater is the reference."""

    query: Ints
    """Number of each pair's query, 0 to Q-1."""
    reference: Ints
    judged: Ints
    level: Ints
    """Rank of the judge's score among its distinct scores; AUC and average precision need only this."""
    queries: int

    def weight(self, draws: Draws) -> Floats:
        """Return `[n]` how often each pair counts."""
        weight: Floats = draws[self.query].astype(float)
        return weight

    def confusion(self, draws: Draws) -> Floats:
        """Return `[4, 4]` weighted counts of pairs: grade by the reference, grade by the judge."""
        cell = self.reference * GRADES + self.judged
        return _counts(cell, self.weight(draws), GRADES * GRADES).reshape(GRADES, GRADES)

    def by_level(self, draws: Draws) -> tuple[Floats, Floats]:
        """Return the weighted counts of relevant and of other pairs at each level of the score, lowest first."""
        weight, relevant = self.weight(draws), self.reference >= RELEVANT
        size = int(self.level.max()) + 1 if len(self.level) else 0
        return _counts(self.level, weight * relevant, size), _counts(self.level, weight * ~relevant, size)


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
    names, query = np.unique(np.array(query_ids, dtype=object), return_inverse=True)
    _, level = np.unique(np.array(scores, dtype=float), return_inverse=True)
    return Rated(query, np.array(reference, dtype=int), np.array(judged, dtype=int), level=level, queries=len(names))


def kappa(confusion: Floats, disagreement: Floats) -> float:
    """Compute Cohen's (weighted) kappa: 1 - observed / expected disagreement (Cohen 1968)."""
    total = confusion.sum()
    if total == 0:
        return math.nan
    expected = np.outer(confusion.sum(1), confusion.sum(0)) / total
    return 1 - ratio(float((confusion * disagreement).sum()), float((expected * disagreement).sum()))


def coincidences(ratings: Floats) -> Floats:
    """Compute `[n, 4, 4]` the part of each pair in Krippendorff's coincidence matrix.

    `ratings`: `[raters, n]` grades, nan if a rater gave none. A pair with fewer than two grades adds nothing.
    """
    counts = np.stack([(ratings == grade).sum(0) for grade in range(GRADES)], axis=1).astype(float)  # [n, 4]
    given = counts.sum(1)
    both = counts[:, :, None] * counts[:, None, :] - np.eye(GRADES) * counts[:, :, None]
    added: Floats = np.where(given > 1, 1 / np.maximum(given - 1, 1), 0.0)[:, None, None] * both
    return added


def alpha(coincidence: Floats) -> float:
    """Compute Krippendorff's alpha with the ordinal metric from a `[4, 4]` coincidence matrix (Krippendorff 2011)."""
    marginal = coincidence.sum(0)
    total = marginal.sum()
    if total == 0:
        return math.nan
    below = np.cumsum(marginal) - marginal / 2
    distance = (below[:, None] - below[None, :]) ** 2
    expected = float((np.outer(marginal, marginal) * distance).sum())
    return 1 - ratio((total - 1) * float((coincidence * distance).sum()), expected)


def _kappa_from(grade: int) -> Callable[[Rated, Draws], float]:
    side = np.arange(GRADES) >= grade
    return lambda pairs, draws: kappa(pairs.confusion(draws), (side[:, None] != side[None, :]).astype(float))


def _alpha(pairs: Rated, draws: Draws) -> float:
    confusion = pairs.confusion(draws)
    return alpha(confusion + confusion.T)


def _mean_difference(power: Callable[[Floats], Floats]) -> Callable[[Rated, Draws], float]:
    steps = (np.arange(GRADES)[None, :] - np.arange(GRADES)[:, None]).astype(float)

    def mean(pairs: Rated, draws: Draws) -> float:
        confusion = pairs.confusion(draws)
        return ratio(float((confusion * power(steps)).sum()), float(confusion.sum()))

    return mean


def _auc(pairs: Rated, draws: Draws) -> float:
    """Compute the share of (relevant, other) pairs with the higher score for the relevant one; ties count half."""
    relevant, others = pairs.by_level(draws)
    in_order = float((relevant * (np.cumsum(others) - others / 2)).sum())
    return ratio(in_order, float(relevant.sum() * others.sum()))


def _average_precision(pairs: Rated, draws: Draws) -> float:
    """Compute the sum over thresholds, from the highest score down, of precision times the gain in recall."""
    relevant, others = (counts[::-1] for counts in pairs.by_level(draws))
    found = np.cumsum(relevant)
    taken = found + np.cumsum(others)
    precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
    return ratio(float((precision * relevant).sum()), float(relevant.sum()))


def _precision(pairs: Rated, draws: Draws) -> float:
    confusion = pairs.confusion(draws)
    return ratio(float(confusion[RELEVANT:, RELEVANT:].sum()), float(confusion[:, RELEVANT:].sum()))


def _recall(pairs: Rated, draws: Draws) -> float:
    confusion = pairs.confusion(draws)
    return ratio(float(confusion[RELEVANT:, RELEVANT:].sum()), float(confusion[RELEVANT:].sum()))


def _selected(pairs: Rated, draws: Draws) -> float:
    return ratio(float(pairs.confusion(draws)[:, RELEVANT:].sum()), float(draws.sum()))


STEPS = np.abs(np.arange(GRADES)[:, None] - np.arange(GRADES)[None, :]).astype(float)


class Figure(NamedTuple):
    label: str
    """Name of the figure in tables."""
    of: Callable[[Rated, Draws], float]
    bounds: Bounds = SIGNED
    """Least and greatest possible value."""


FIGURES = {
    "kappa": Figure(
        "Cohen's kappa, grades 0 to 3", lambda pairs, draws: kappa(pairs.confusion(draws), (STEPS > 0).astype(float))
    ),
    "kappa_1": Figure("Cohen's kappa, grade >= 1", _kappa_from(1)),
    "kappa_2": Figure("Cohen's kappa, grade >= 2", _kappa_from(2)),
    "kappa_3": Figure("Cohen's kappa, grade >= 3", _kappa_from(3)),
    "kappa_quadratic": Figure("quadratic kappa", lambda pairs, draws: kappa(pairs.confusion(draws), STEPS**2)),
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


def figure_interval(name: str, pairs: Rated) -> Estimate:
    """Estimate a figure with its confidence interval over queries."""
    figure = FIGURES[name]
    return estimate(lambda draws: figure.of(pairs, draws), pairs.queries, figure.bounds)


def figure_difference(name: str, one: Rated, other: Rated) -> Estimate:
    """Estimate the difference of a figure between two judges on the same pairs, with its paired confidence interval."""
    figure = FIGURES[name]
    low, high = figure.bounds
    return estimate(
        lambda draws: figure.of(one, draws) - figure.of(other, draws), one.queries, (low - high, high - low)
    )
