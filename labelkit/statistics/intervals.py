"""Confidence intervals (95%) over queries: the only definition in both packages.

The pairs of a query are not independent samples, so a figure is a function of how often each query counts, and whole
queries are left out. The interval is a jackknife interval: it leaves out one query at a time, estimates the variance of
the figure from the results (Efron and Stein 1981; for groups of unequal size Busing, Meijer and van der Leeden 1999),
and uses a quantile of Student's t with (queries - 1) degrees of freedom. The interval of a figure with bounds is
computed on an unbounded scale (logarithm or logit) and transformed back. `benchmarks/interval_coverage.py` simulates
how often such intervals contain the true value.

There is no interval for one query, for equal values of all queries, or if the figure is undefined without one of the
queries, since its variance is then unknown.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

LEVEL = 0.95
SEED = 0
GROUPS = 100
"""Largest number of parts that are left out in turn: single queries, or random groups if there are more queries."""
RANK_GROUPS = 10
"""Number of groups for a rank correlation. It changes in jumps, so leaving out single queries gives too
wide intervals.
"""
FEW_QUERIES = 10
"""Smallest number of queries without a warning. With fewer, intervals are wide and queries may not be typical."""
NORMAL = 1.959963984540054
"""Quantile of the normal distribution for a 95% interval."""
NOTHING = 1e-12
"""A standard error below this is a rounding error: all queries have the same value."""
ROUNDING = 1e-18
"""A variance below this is a rounding error."""

Draws = NDArray[np.int64]
"""`[Q]` how often each query counts."""
Statistic = Callable[[Draws], float]
"""Function from how often each query counts, `[Q]`, to a figure; nan if it is undefined."""
Queries = Sequence[str] | NDArray[np.integer[Any]]
"""`[n]` id or number of each pair's query."""
Counts = Sequence[int] | NDArray[np.int64]
"""`[Q]` numbers of events by query."""
Statistics = Callable[[Draws], NDArray[np.float64]]
"""Function from how often each query counts, `[Q]`, to `[F]` figures."""
Bounds = tuple[float, float]
"""Least and greatest value that a figure can have."""
UNBOUNDED: Bounds = (-math.inf, math.inf)
POSITIVE: Bounds = (0.0, math.inf)
UNIT: Bounds = (0.0, 1.0)
SIGNED: Bounds = (-1.0, 1.0)


class Estimate(NamedTuple):
    """A figure with its 95% confidence interval; None for a value or an interval that the data do not define."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        return self.shown()

    def shown(self, form: str = ".3f") -> str:
        """Format the figure with its interval in brackets; `form` is the format of each number, such as `+.3f`."""
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:{form}}"
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def estimate(statistic: Statistic, queries: int, bounds: Bounds = UNBOUNDED, groups: int = GROUPS) -> Estimate:
    """Estimate a figure over `queries` queries, with its jackknife interval within the figure's `bounds`."""
    return estimates(lambda draws: np.array([statistic(draws)]), queries, [bounds], groups=groups)[0]


def estimates(statistics: Statistics, queries: int, bounds: Sequence[Bounds], groups: int = GROUPS) -> list[Estimate]:
    """Estimate several figures that are computed together, each within its own bounds."""
    values = statistics(np.ones(queries, dtype=np.int64))
    found = [Estimate(float(value) if math.isfinite(value) else None) for value in values]
    if queries < 2 or not np.isfinite(values).any():
        return found
    without, sizes = leaving_out(statistics, queries, groups)
    for place in np.flatnonzero(np.isfinite(values)).tolist():
        value = float(values[place])
        known = spread_of_parts(value, without[:, place], sizes)
        error = known[1] if known else None
        found[place] = t_interval(value, error, min(queries, groups) - 1, bounds=bounds[place])
    return found


def standard_error(statistic: Statistic, queries: int, groups: int = GROUPS) -> float | None:
    """Compute the jackknife standard error of a figure over queries; None for one query, or if leaving out a query
    makes the figure undefined.

    With more queries than `groups`, random groups of queries are left out, drawn with a fixed seed.
    """
    found = jackknife(statistic, queries, groups)
    return found[1] if found else None


def error_of_counts(
    statistic: Callable[[NDArray[np.float64]], float], cell: NDArray[np.integer[Any]], cells: int, groups: int = GROUPS
) -> float | None:
    """Compute the jackknife standard error over `[n]` pairs of a figure of their numbers by cell, `[cells]`, as if each
    pair was a query of its own; None as in `standard_error`.
    """
    if len(cell) < 2:
        return None
    group = groups_of(len(cell), groups)
    parts = np.bincount(group.astype(np.int32) * cells + cell, minlength=(int(group.max()) + 1) * cells)
    parts = parts.reshape(-1, cells).astype(float)
    without = np.array([statistic(parts.sum(0) - part) for part in parts])
    found = spread_of_parts(statistic(parts.sum(0)), without, np.bincount(group))
    return found[1] if found else None


def jackknife(statistic: Statistic, queries: int, groups: int = GROUPS) -> tuple[float, float] | None:
    """Compute the jackknife value of a figure, which corrects its bias, and its standard error."""
    if queries < 2:
        return None
    value = statistic(np.ones(queries, dtype=np.int64))
    without, sizes = leaving_out(lambda draws: np.array([statistic(draws)]), queries, groups)
    return spread_of_parts(value, without[:, 0], sizes)


def leaving_out(statistics: Statistics, queries: int, groups: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Compute figures without each group of queries in turn, `[groups, F]`, and the sizes of the groups."""
    group = groups_of(queries, groups)
    sizes = np.bincount(group)
    return np.array([statistics((group != number).astype(np.int64)) for number in range(len(sizes))]), sizes


def groups_of(queries: int, groups: int) -> NDArray[np.int16]:
    """Draw the group of each query, `[Q]`; each query is a group of its own if there are at most `groups`."""
    return (np.random.default_rng(SEED).permutation(queries) % groups).astype(np.int16)


def spread_of_parts(value: float, without: NDArray[np.float64], sizes: NDArray[np.int64]) -> tuple[float, float] | None:
    """Compute the jackknife value and standard error of a figure from its values without each group, `[groups]`; None
    if one of the values is undefined.
    """
    if not np.isfinite(without).all():
        return None
    # Busing et al. (1999), equations 5 and 6; for single queries this is the usual jackknife.
    times = sizes.sum() / sizes
    pseudo = times * value - (times - 1) * without
    centre = len(sizes) * value - float(((1 - 1 / times) * without).sum())
    return centre, math.sqrt(float(np.mean((pseudo - centre) ** 2 / (times - 1))))


def t_interval(value: float, error: float | None, freedom: float, bounds: Bounds = UNBOUNDED) -> Estimate:
    """Compute a confidence interval from a standard error and its degrees of freedom; no interval if the error is None
    or 0.

    With bounds the interval is symmetric on the scale of log(x - low) or log((x - low) / (high - x)), and is within the
    bounds. A figure at a bound has no such interval; it gets a symmetric interval that is cut off at the bound.
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


def mean(query_ids: Queries, values: Sequence[float] | NDArray[np.float64], bounds: Bounds = UNBOUNDED) -> Estimate:
    """Estimate the mean of one value per pair, with its confidence interval over queries."""
    if not len(values):
        return Estimate(None)
    queries, query = _numbered(query_ids)
    sums, counts = np.bincount(query, weights=values), np.bincount(query)
    return estimate(lambda draws: ratio(float(draws @ sums), float(draws @ counts)), len(queries), bounds)


def _numbered(query_ids: Queries) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the distinct queries, and the number of each pair's query among them."""
    ids = query_ids if isinstance(query_ids, np.ndarray) else np.array(query_ids, dtype=object)
    queries, query = np.unique(ids, return_inverse=True)
    return queries, query


def variance(values: NDArray[np.float64]) -> Estimate:
    """Estimate the variance of one value per query, with its interval over queries.

    On the scale of the logarithm, around the jackknife value. Of two standard errors, the jackknife's and that of
    Bonett (2006, doi 10.1016/j.csda.2004.10.003), the greater counts: with few queries and heavy tails each is too
    small, by turns (`benchmarks/coverage.py`).
    """
    count = len(values)
    value = float(values.var(ddof=1)) if count > 1 else math.nan
    if not value > ROUNDING:
        return Estimate(None)
    centred = values - values.mean()
    squares = centred**2

    def logarithm(draws: Draws) -> float:
        total = float(draws.sum())
        spread = float(draws @ squares) - float(draws @ centred) ** 2 / total
        return math.log(spread / (total - 1)) if total > 1 and spread > NOTHING * value else math.nan

    found = jackknife(logarithm, count)
    if found is None:
        return Estimate(value)
    centre, error = found
    half = float(stdtrit(min(count, GROUPS) - 1, (1 + LEVEL) / 2)) * max(error, bonett_error(values))
    return Estimate(value, math.exp(centre - half), math.exp(min(centre + half, 700.0)))


def bonett_error(values: NDArray[np.float64]) -> float:
    """Compute the standard error of a log variance by Bonett (2006): from the kurtosis around a trimmed mean."""
    count = len(values)
    trim = min(int(count / (2 * math.sqrt(count - 4))), (count - 1) // 2) if count > 4 else (count - 1) // 2
    middle = np.sort(values)[trim : count - trim].mean()
    kurtosis = count * ((values - middle) ** 4).sum() / ((values - values.mean()) ** 2).sum() ** 2
    # The first factor is Bonett's: it lets both ends of the interval miss equally often.
    return count / (count - NORMAL) * math.sqrt((kurtosis - (count - 3) / count) / (count - 1))


def mean_of_means(samples: Sequence[NDArray[np.float64]], bounds: Bounds = UNBOUNDED) -> Estimate:
    """Estimate the mean over collections of the mean of one value per query; `samples` are `[queries]` each.

    The variances of the collections are added; the degrees of freedom are computed by Welch (1947) and Satterthwaite
    (1946). For one collection this is the jackknife interval of a mean.
    """
    value = float(np.mean([sample.mean() for sample in samples]))
    if any(len(sample) < 2 for sample in samples):
        return Estimate(value)
    parts = [(float(sample.var(ddof=1)) / len(sample) / len(samples) ** 2, len(sample) - 1) for sample in samples]
    return t_interval(value, math.sqrt(sum(part for part, _ in parts)), freedom_of(parts), bounds=bounds)


def freedom_of(parts: Sequence[tuple[float, float]]) -> float:
    """Compute the degrees of freedom of a sum of independent variances (Welch 1947, Satterthwaite 1946).

    `parts`: (variance, degrees of freedom) of each part.
    """
    total, weighted = sum(part for part, _ in parts), sum(part**2 / freedom for part, freedom in parts if part)
    return max(1.0, ratio(total**2, weighted)) if weighted else 1.0


def share(query_ids: Queries, hits: Sequence[bool] | NDArray[np.bool_]) -> Estimate:
    """Estimate the share of pairs that are hits, with its confidence interval over queries."""
    queries, query = _numbered(query_ids)
    found = np.bincount(query, weights=np.array(hits, dtype=float), minlength=len(queries))
    return rate(found.astype(int).tolist(), np.bincount(query, minlength=len(queries)).tolist())


def rate(successes: Counts, attempts: Counts) -> Estimate:
    """Estimate a share from the successes and attempts of each query, with its confidence interval over queries.

    If all attempts have the same result, the interval is that of Clopper and Pearson (1934) with one attempt per query,
    since the attempts of one query are not independent.
    """
    hits, tries = np.asarray(successes), np.asarray(attempts)
    hits, tries = hits[tries > 0], tries[tries > 0]
    if not len(tries):
        return Estimate(None)
    if 0 < hits.sum() < tries.sum():
        return estimate(lambda draws: ratio(float(draws @ hits), float(draws @ tries)), len(tries), UNIT)
    far = ((1 - LEVEL) / 2) ** (1 / len(tries))
    return Estimate(0.0, 0.0, 1 - far) if hits.sum() == 0 else Estimate(1.0, far, 1.0)


def ratio(numerator: float, denominator: float) -> float:
    """Divide two numbers; nan for a zero denominator."""
    return numerator / denominator if denominator else math.nan


def few_queries(queries: int) -> str | None:
    """Return a warning about intervals over few queries; None if there are enough queries, or none."""
    if not 0 < queries < FEW_QUERIES:
        return None
    counted = "1 query has no interval" if queries == 1 else f"{queries} queries are few"
    return (
        f"{counted}: figures over fewer than {FEW_QUERIES} queries say little about other queries; "
        "judge more queries before you rely on them"
    )
