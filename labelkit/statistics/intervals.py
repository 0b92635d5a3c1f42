"""How sure a figure is: 95% intervals by a bootstrap over queries.

The pairs of a query are no independent samples, so whole queries are drawn, with all their pairs. A figure is a
function of how often each query was drawn. With few queries the interval is too narrow, and with one there is none.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 0
LEVEL = 0.95
FEW_QUERIES = 20
"""Below this a reader is told that intervals come out too narrow."""
DEFINED = 0.9
"""Share of the resamples in which a figure must be defined for its interval to be given."""

Draws = NDArray[np.int64]
"""[Q] how often each query is drawn."""
Statistic = Callable[[Draws], float]
"""A figure of a resample; nan where it is undefined."""


class Estimate(NamedTuple):
    """A figure with its 95% interval; None where the data cannot support it."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(statistic: Statistic, queries: int) -> Estimate:
    """A figure over all `queries` and the 2.5% and 97.5% percentiles of its resamples.

    Figures over the same number of queries are resampled alike, so that intervals of differences are paired ones.
    """
    value = statistic(np.ones(queries, dtype=np.int64))
    if not math.isfinite(value):
        return Estimate(None)
    values = replicates(statistic, queries) if queries > 1 else np.array([])
    if len(values) < DEFINED * RESAMPLES:
        return Estimate(float(value))
    low, high = np.percentile(values, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return Estimate(float(value), float(low), float(high))


def replicates(statistic: Statistic, queries: int) -> NDArray[np.float64]:
    """The figure in every resample where it is defined."""
    drawn = np.random.default_rng(SEED).multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES)
    values = (statistic(draws) for draws in drawn)
    return np.array([value for value in values if math.isfinite(value)])


def mean(query_ids: Sequence[str], values: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Mean of one value a pair, with its interval over queries."""
    if not len(values):
        return Estimate(None)
    queries, query = np.unique(np.array(query_ids, dtype=object), return_inverse=True)
    sums, counts = np.bincount(query, weights=values), np.bincount(query)
    return estimate(lambda draws: ratio(float(draws @ sums), float(draws @ counts)), len(queries))


def rate(successes: Sequence[int], attempts: Sequence[int]) -> Estimate:
    """A share with its interval: successes and attempts of each query.

    Where all attempts ended alike no resample differs; the interval is then that of Clopper and Pearson (1934).
    """
    hits, tries = np.array(successes), np.array(attempts)
    total = int(tries.sum())
    if total == 0:
        return Estimate(None)
    if 0 < hits.sum() < total:
        return estimate(lambda draws: ratio(float(draws @ hits), float(draws @ tries)), len(tries))
    from scipy.stats import beta

    tail = (1 - LEVEL) / 2
    if hits.sum() == 0:
        return Estimate(0.0, 0.0, float(beta.ppf(1 - tail, 1, total)))
    return Estimate(1.0, float(beta.ppf(tail, total, 1)), 1.0)


def ratio(numerator: float, denominator: float) -> float:
    """A quotient; nan where there is nothing to divide by."""
    return numerator / denominator if denominator else math.nan
