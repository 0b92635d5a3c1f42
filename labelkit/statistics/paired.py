"""Paired tests over queries: p-values by permutation, Holm's correction, and the queries that a difference needs.

A figure over several collections is the mean of their means; signs are flipped within each collection.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from labelkit.statistics.intervals import SIGNED, Estimate, mean_of_means, variance

FLIPS = 9_999
"""Number of random sign flips; with up to 13 differing queries, all flips are tried."""
BATCH = 2_000_000
"""Number of signs in memory at a time."""
SEED = 0
TELLING, ALPHA, POWER = 0.01, 0.05, 0.8
"""The difference to detect, the significance level, and the power, for the number of queries needed."""

Samples = Sequence[NDArray[np.float64]]
"""Values per query of each collection, `[queries]` each."""


@dataclass(frozen=True)
class QueriesNeeded:
    """Number of queries with which a test at the 5% level detects a difference of `TELLING` in 80% of cases.

    It has a 95% confidence interval.
    """

    value: int
    low: int | None = None
    high: int | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"about {self.value:,} queries"
        return f"about {self.value:,} queries (95% confidence interval {self.low:,} to {self.high:,})"


@dataclass(frozen=True)
class PairedTest:
    """A paired difference with its confidence interval and p-values."""

    difference: Estimate
    p: float
    """Two-sided p-value of the paired permutation test."""
    p_holm: float
    """The p-value after Holm's correction for all differences that are tested together."""
    queries_needed: QueriesNeeded | None
    """Number of queries needed for `TELLING`; None if the differences of queries do not vary."""


def permutation_p(samples: Samples) -> float:
    """Compute the two-sided p-value of a mean paired difference by a permutation test that flips signs.

    Uses `scipy.stats.permutation_test` with every sign pattern if up to 13 queries differ, else with 9,999 random
    patterns and the observed one (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585). The p-value is twice the smaller
    tail, so it is at least 2 in 10,000.
    """
    from scipy.stats import permutation_test

    differences = np.concatenate([sample / len(sample) / len(samples) for sample in samples])
    differences = differences[differences != 0]  # a difference of 0 has no sign to flip
    if len(differences) < 2:
        return 1.0
    differences /= np.abs(differences).sum()
    found = permutation_test(
        (differences,),
        # Equal sums must compare as equal, whatever the order in which their terms were rounded.
        lambda values, axis: values.sum(axis=axis).round(12),
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        batch=max(1, BATCH // len(differences)),
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def show_p(p: float) -> str:
    """Format a p-value for a reader, never as zero."""
    return f"p {p:.3f}" if p >= 0.0005 else "p < 0.001"


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (Holm 1979).

    If each corrected p-value at or below 5% is called significant, the probability of any false one is at most 5%.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def queries_needed(differences: NDArray[np.float64], telling: float = TELLING) -> QueriesNeeded | None:
    """Estimate the number of queries with which a mean difference of `telling` is detected, from observed differences.

    For a two-sided test at the 5% level with 80% power: n = ((1.960 + 0.842) sd / telling)^2. The confidence interval
    is that of the variance over these queries. None if the differences do not vary.
    """
    found = variance(differences)
    if found.value is None:
        return None
    factor = ((float(ndtri(1 - ALPHA / 2)) + float(ndtri(POWER))) / telling) ** 2
    needed = (None if value is None else math.ceil(value * factor) for value in found)
    value, low, high = needed
    return QueriesNeeded(value or 1, low, high)


def compare(families: Sequence[Samples]) -> list[PairedTest]:
    """Test several paired differences of measures between 0 and 1, corrected for multiple comparisons."""
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
