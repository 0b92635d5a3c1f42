"""How sure a number over queries is: intervals, paired tests, and how many queries a difference wants.

Queries are the sample. A figure over several collections is the mean of the collections' means, so resamples and sign
flips are drawn within each collection.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 0
BLOCK = 500
"""Resamples drawn at a time."""
TELLING, LEVEL, POWER = 0.01, 0.05, 0.8
"""The difference that a power note is about, and the error rates at which it is to be seen."""

Samples = Sequence[NDArray[np.float64]]
"""Values of the queries of each collection."""


@dataclass(frozen=True)
class Estimate:
    """A mean over queries and its 95% bootstrap interval: percentiles of 10,000 resamples of the queries."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Test:
    """A paired difference and how it was told from chance."""

    mean: float
    low: float
    high: float
    p: float
    """Two-sided p-value of the paired permutation test."""
    p_holm: float
    """The same after Holm's correction for all comparisons of the measure."""
    queries_needed: int | None
    """Queries that would show a difference of `TELLING` at a level of 5% in 80% of cases; None where none vary."""


def bootstrap(values: NDArray[np.float64], *more: NDArray[np.float64]) -> Estimate:
    """Mean of `[n]` values and the 2.5% and 97.5% percentiles of the means of resamples, with a fixed seed.

    With several collections, the mean of their means. Values of the same length are resampled alike, so intervals of
    models and differences belong together.
    """
    samples = (values, *more)
    means = np.zeros(RESAMPLES)
    for sample in samples:
        generator = np.random.default_rng(SEED)
        for start in range(0, RESAMPLES, BLOCK):
            rows = generator.integers(len(sample), size=(BLOCK, len(sample)))
            means[start : start + BLOCK] += sample[rows].mean(axis=1) / len(samples)
    low, high = np.percentile(means, (2.5, 97.5))
    return Estimate(float(np.mean([sample.mean() for sample in samples])), float(low), float(high))


def permutation_p(samples: Samples) -> float:
    """Two-sided p-value of the mean of paired differences: how often it is as far from 0 when every difference may as
    well have the other sign.

    10,000 random sign flips, the one that happened among them (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585), so
    the smallest p is 1 in 10,001.
    """
    observed = abs(float(np.mean([sample.mean() for sample in samples])))
    means = np.zeros(RESAMPLES)
    generator = np.random.default_rng(SEED)
    for sample in samples:
        for start in range(0, RESAMPLES, BLOCK):
            signs = generator.integers(2, size=(BLOCK, len(sample)), dtype=np.int8) * 2 - 1
            means[start : start + BLOCK] += signs @ sample / len(sample) / len(samples)
    as_far = int((np.abs(means) >= observed - 1e-12).sum())
    return (as_far + 1) / (RESAMPLES + 1)


def show_p(p: float) -> str:
    """For a reader, who never sees it as zero."""
    return f"p {p:.3f}" if p >= 0.0005 else "p < 0.001"


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979): with all at or below 5%, the chance that any of them is an
    accident is at most 5%.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def queries_needed(differences: NDArray[np.float64], telling: float = TELLING) -> int | None:
    """Queries with differences that vary as these do which would show a mean difference of `telling`.

    For a two-sided test at 5% that finds it in 80% of cases: n = ((1.960 + 0.842) sd / telling)^2.
    """
    if len(differences) < 2 or not differences.std(ddof=1):
        return None
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)
    return math.ceil((quantiles * float(differences.std(ddof=1)) / telling) ** 2)


def compare(families: Sequence[Samples]) -> list[Test]:
    """Tests of several paired differences that are read side by side, corrected for being several."""
    p_values = [permutation_p(samples) for samples in families]
    tests = []
    for samples, p, p_holm in zip(families, p_values, holm(p_values), strict=True):
        estimate = bootstrap(*samples)
        needed = queries_needed(np.concatenate([sample - sample.mean() for sample in samples]))
        tests.append(Test(estimate.mean, estimate.low, estimate.high, p, p_holm, needed))
    return tests
