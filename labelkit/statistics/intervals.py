"""Confidence intervals (95%) over queries: the only definition in both packages.

The pairs of a query are no independent samples, so a figure is a function of how often each query counts, and whole
queries are left out. The interval is a jackknife: leave out one query at a time, take the variance of the figure from
that (Efron and Stein 1981; for groups of unequal size Busing, Meijer and van der Leeden 1999), and a quantile of
Student's t with one degree of freedom fewer than there are queries. A figure with bounds is taken to the scale where it
has none (logarithm or logit), and back. `benchmarks/interval_coverage.py` simulates how often such intervals hold the
truth.

There is no interval with one query, where all queries gave the same value, or where a figure is undefined without one
of the queries: then the data do not say how much it varies.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95
SEED = 0
GROUPS = 100
"""Parts that are left out one at a time: single queries up to this number, random groups of queries above it."""
RANK_GROUPS = 10
"""Groups for a correlation of ranks, which moves in jumps: left out one by one, queries make its interval too wide."""
FEW_QUERIES = 10
"""Number of queries below which a reader is warned: intervals are wide, and the queries may be unlike others."""
NOTHING = 1e-12
"""A standard error below this is rounding: no query differs from another."""

Draws = NDArray[np.int64]
"""`[Q]` how often each query counts."""
Statistic = Callable[[Draws], float]
"""A figure of queries that count so often; nan where it is undefined."""
Bounds = tuple[float, float]
"""Least and greatest value that a figure can have."""
UNBOUNDED: Bounds = (-math.inf, math.inf)
POSITIVE: Bounds = (0.0, math.inf)
UNIT: Bounds = (0.0, 1.0)
SIGNED: Bounds = (-1.0, 1.0)


class Estimate(NamedTuple):
    """A figure with its 95% confidence interval; None where the data cannot support it."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return self.shown()

    def shown(self, form: str = ".3f") -> str:
        """The figure and its interval in brackets, each number in the format `form`, such as `+.3f`."""
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:{form}}"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def estimate(statistic: Statistic, queries: int, bounds: Bounds = UNBOUNDED, groups: int = GROUPS) -> Estimate:
    """Estimate a figure over `queries` queries, with its jackknife interval. `bounds` are those of the figure."""
    value = statistic(np.ones(queries, dtype=np.int64))
    if not math.isfinite(value):
        return Estimate(None)
    return t_interval(float(value), standard_error(statistic, queries, groups), min(queries, groups) - 1, bounds=bounds)


def standard_error(statistic: Statistic, queries: int, groups: int = GROUPS) -> float | None:
    """Compute the jackknife standard error of a figure over queries; None for one query, or where leaving out a query
    makes the figure undefined.

    With more queries than `groups` random groups of them are left out, drawn with a fixed seed.
    """
    if queries < 2:
        return None
    group = np.random.default_rng(SEED).permutation(queries) % groups
    sizes = np.bincount(group)
    value = statistic(np.ones(queries, dtype=np.int64))
    without = np.array([statistic((group != number).astype(np.int64)) for number in range(len(sizes))])
    if not np.isfinite(without).all():
        return None
    # Busing et al. (1999), equations 5 and 6; with single queries it is the usual jackknife.
    times = queries / sizes
    pseudo = times * value - (times - 1) * without
    centre = len(sizes) * value - float(((1 - 1 / times) * without).sum())
    return math.sqrt(float(np.mean((pseudo - centre) ** 2 / (times - 1))))


def t_interval(value: float, error: float | None, freedom: float, bounds: Bounds = UNBOUNDED) -> Estimate:
    """Make an interval from a standard error and its degrees of freedom; no interval where the error is None or 0.

    With bounds the interval is symmetric on the scale of log(x - low), or of log((x - low) / (high - x)), and lies
    within them; a figure that stands at a bound has none on that scale, and its interval is cut off there.
    """
    if error is None or error <= NOTHING * max(1.0, abs(value)):
        return Estimate(value)
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    low, high = bounds
    if math.isinf(low) or not low < value < high:
        return Estimate(value, max(low, value - half), min(high, value + half))
    if math.isinf(high):
        factor = math.exp(min(half / (value - low), 700.0))
        return Estimate(value, low + (value - low) / factor, low + (value - low) * factor)
    odds = (value - low) / (high - value)
    factor = math.exp(min(half * (high - low) / ((value - low) * (high - value)), 700.0))
    ends = (odds / factor / (1 + odds / factor), odds * factor / (1 + odds * factor))
    return Estimate(value, *(low + (high - low) * end for end in ends))


def mean(
    query_ids: Sequence[str], values: Sequence[float] | NDArray[np.float64], bounds: Bounds = UNBOUNDED
) -> Estimate:
    """Estimate the mean of one value a pair, with its interval over queries."""
    if not len(values):
        return Estimate(None)
    queries, query = np.unique(np.array(query_ids, dtype=object), return_inverse=True)
    sums, counts = np.bincount(query, weights=values), np.bincount(query)
    return estimate(lambda draws: ratio(float(draws @ sums), float(draws @ counts)), len(queries), bounds)


def mean_of_means(samples: Sequence[NDArray[np.float64]], bounds: Bounds = UNBOUNDED) -> Estimate:
    """Estimate the mean over collections of the mean of one value per query; `samples` are `[queries]` each.

    The variances of the collections add up; degrees of freedom by Welch (1947) and Satterthwaite (1946). For one
    collection this is the jackknife of a mean.
    """
    value = float(np.mean([sample.mean() for sample in samples]))
    if any(len(sample) < 2 for sample in samples):
        return Estimate(value)
    parts = [(float(sample.var(ddof=1)) / len(sample) / len(samples) ** 2, len(sample) - 1) for sample in samples]
    return t_interval(value, math.sqrt(sum(part for part, _ in parts)), freedom_of(parts), bounds=bounds)


def freedom_of(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances, each with its own (Welch 1947, Satterthwaite 1946)."""
    total, weighted = sum(part for part, _ in parts), sum(part**2 / freedom for part, freedom in parts if part)
    return max(1.0, ratio(total**2, weighted)) if weighted else 1.0


def share(query_ids: Sequence[str], hits: Sequence[bool]) -> Estimate:
    """Estimate the share of pairs that are hits, with its interval over queries."""
    queries, query = np.unique(np.array(query_ids, dtype=object), return_inverse=True)
    found = np.bincount(query, weights=np.array(hits, dtype=float), minlength=len(queries))
    return rate(found.astype(int).tolist(), np.bincount(query, minlength=len(queries)).tolist())


def rate(successes: Sequence[int], attempts: Sequence[int]) -> Estimate:
    """Estimate a share from successes and attempts of each query.

    Where all attempts ended alike no query differs from another; the interval is then that of Clopper and Pearson
    (1934) with as many attempts as there are queries, since attempts of one query may all end alike.
    """
    hits, tries = np.array(successes), np.array(attempts)
    hits, tries = hits[tries > 0], tries[tries > 0]
    if not len(tries):
        return Estimate(None)
    if 0 < hits.sum() < tries.sum():
        return estimate(lambda draws: ratio(float(draws @ hits), float(draws @ tries)), len(tries), UNIT)
    far = ((1 - LEVEL) / 2) ** (1 / len(tries))
    return Estimate(0.0, 0.0, 1 - far) if hits.sum() == 0 else Estimate(1.0, far, 1.0)


def ratio(numerator: float, denominator: float) -> float:
    """Divide; nan where there is nothing to divide by."""
    return numerator / denominator if denominator else math.nan


def few_queries(queries: int) -> str | None:
    """Warn a reader of intervals over few queries; None where there are enough of them, or none."""
    if not 0 < queries < FEW_QUERIES:
        return None
    counted = "1 query has no interval" if queries == 1 else f"{queries} queries are few"
    return (
        f"{counted}: figures over fewer than {FEW_QUERIES} queries say little about other queries; "
        "judge more queries before you rely on them"
    )
