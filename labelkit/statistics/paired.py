"""Paired tests over queries: p-values by permutation, Holm's correction, and the queries that a difference needs.

A figure over several collections is the mean of the collections' means; signs are flipped within each collection.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from labelkit.statistics.intervals import POSITIVE, SIGNED, Estimate, estimate, mean_of_means

FLIPS = 9_999
"""Random sign flips; with up to 13 queries that differ, all of them."""
BATCH = 2_000_000
"""Signs held in memory at a time."""
SEED = 0
TELLING, ALPHA, POWER = 0.01, 0.05, 0.8
"""The difference that a power note is about, and the error rates at which it is to be seen."""

Samples = Sequence[NDArray[np.float64]]
"""Values of the queries of each collection, `[queries]` each."""


@dataclass(frozen=True)
class QueriesNeeded:
    """Queries that would show a difference of `TELLING` at a level of 5% in 80% of cases, with a 95% interval."""

    value: int
    low: int | None = None
    high: int | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"about {self.value:,} queries"
        return f"about {self.value:,} queries (95% interval {self.low:,} to {self.high:,})"


@dataclass(frozen=True)
class PairedTest:
    """A paired difference with its interval and p-values."""

    difference: Estimate
    p: float
    """Two-sided p-value of the paired permutation test."""
    p_holm: float
    """The p-value after Holm's correction for all differences that are read side by side."""
    queries_needed: QueriesNeeded | None
    """None where no query's difference varies."""


def permutation_p(samples: Samples) -> float:
    """Compute the two-sided p-value of the mean of paired differences by flipping their signs.

    `scipy.stats.permutation_test`: every sign pattern where up to 13 queries differ, else 9,999 random ones beside the
    one that happened (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585). The p-value is twice the smaller tail, so at
    least 2 in 10,000.
    """
    from scipy.stats import permutation_test

    differences = np.concatenate([sample / len(sample) / len(samples) for sample in samples])
    differences = differences[differences != 0]  # a difference of 0 has no sign to flip
    if len(differences) < 2:
        return 1.0
    found = permutation_test(
        (differences,),
        lambda values, axis: values.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        batch=max(1, BATCH // len(differences)),
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def show_p(p: float) -> str:
    """Write a p-value for a reader, who never sees it as zero."""
    return f"p {p:.3f}" if p >= 0.0005 else "p < 0.001"


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for being several (Holm 1979): with all at or below 5%, the chance that any of them is an
    accident is at most 5%.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def queries_needed(differences: NDArray[np.float64], telling: float = TELLING) -> QueriesNeeded | None:
    """Estimate how many queries, with differences that vary as these do, show a mean difference of `telling`.

    For a two-sided test at 5% that finds it in 80% of cases: n = ((1.960 + 0.842) sd / telling)^2. The interval is that
    of the variance over these queries.
    """
    count = len(differences)
    if count < 2:
        return None
    squares = differences**2

    def variance(draws: NDArray[np.int64]) -> float:
        total = float(draws.sum())
        centred = float(draws @ squares) / total - (float(draws @ differences) / total) ** 2
        return max(0.0, centred) * total / (total - 1) if total > 1 else math.nan

    found = estimate(variance, count, POSITIVE)
    if found.value is None or found.value <= 1e-18:
        return None
    factor = ((float(ndtri(1 - ALPHA / 2)) + float(ndtri(POWER))) / telling) ** 2
    needed = (None if value is None else math.ceil(value * factor) for value in found)
    value, low, high = needed
    return QueriesNeeded(value or 1, low, high)


def compare(families: Sequence[Samples]) -> list[PairedTest]:
    """Test several paired differences of measures between 0 and 1 that are read side by side, corrected for being
    several.
    """
    p_values = [permutation_p(samples) for samples in families]
    return [
        PairedTest(
            difference=mean_of_means(samples, SIGNED),
            p=p,
            p_holm=p_holm,
            queries_needed=queries_needed(np.concatenate([sample - sample.mean() for sample in samples])),
        )
        for samples, p, p_holm in zip(families, p_values, holm(p_values), strict=True)
    ]
