"""Decide whether human labels can tell two prompts apart, before a judge is asked.

The test compares the kappa (grade >= 2) of two prompts on the same pairs. A difference in kappa is a difference in the
share of pairs on which judge and person agree, divided by 1 - expected agreement. The variance of that share follows
from the share of pairs that two prompts decide differently and from the correlation of the pairs of a query.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from scipy.special import nctdtr, ndtri, stdtrit

from labelkit.errors import DataError
from labelkit.quality.agreement_metrics import BINARY, RELEVANT
from labelkit.records import PairIds
from labelkit.statistics.paired import ALPHA, POWER

DISCORDANT = 0.2
"""Assumed share of pairs whose relevance two prompts of one judge decide differently."""
CORRELATION = 0.1
"""Assumed correlation of the differences between two prompts on two pairs of one query."""
MOST_QUERIES = 1_000_000
"""Largest number of queries that is named as needed."""


class Counts(NamedTuple):
    """The size of a set of labels."""

    queries: int
    labels: float
    relevant: float
    """Number of labels with a grade of 2 or higher."""
    together: float
    """Mean number of labels on the query of a label; more than labels per query if queries differ in size."""

    @property
    def expected(self) -> float:
        """Agreement that two raters with this share of relevant pairs reach by chance."""
        share = self.relevant / self.labels
        return share**2 + (1 - share) ** 2

    @property
    def design(self) -> float:
        """Factor by which labels of one query, which are correlated, increase the variance (Kish 1965)."""
        return 1 + (self.together - 1) * CORRELATION


def counts_of(grades: Mapping[PairIds, int]) -> Counts:
    """Count the labels of a set of pairs."""
    sizes = Counter(query_id for query_id, _ in grades)
    squares = sum(size**2 for size in sizes.values())
    relevant = sum(grade >= RELEVANT for grade in grades.values())
    return Counts(len(sizes), len(grades), relevant, together=squares / len(grades) if grades else 0.0)


def power(counts: Counts, detect: float) -> float:
    """Compute the probability that a difference of `detect` in kappa is significant at the 5% level (two-sided).

    The statistic has a noncentral t distribution over the queries, as the confidence intervals have Student's.
    """
    if counts.queries < 2:
        return 0.0
    difference = detect * (1 - counts.expected)
    error = math.sqrt(variance(difference) * counts.design / counts.labels)
    freedom, distance = counts.queries - 1, difference / error
    threshold = float(stdtrit(freedom, 1 - ALPHA / 2))
    # Far from the threshold the power is 1, and the distribution function is not a number.
    return 1.0 if distance > threshold + 10 else 1 - float(nctdtr(freedom, distance, threshold))


def queries_needed(counts: Counts, detect: float) -> int:
    """Compute the number of queries, each with as many labels as these, with which the power is 80%."""

    def enough(queries: int) -> bool:
        times = queries / counts.queries
        grown = counts._replace(queries=queries, labels=counts.labels * times, relevant=counts.relevant * times)
        return power(grown, detect) >= POWER

    return bisect_left(range(2, MOST_QUERIES), True, key=enough) + 2


def variance(difference: float) -> float:
    """Compute the variance of the difference of two prompts on one pair: -1, 0 or 1, with this mean."""
    return max(DISCORDANT, difference) - difference**2


def quantile(probability: float) -> float:
    """Return a quantile of the standard normal distribution."""
    return float(ndtri(probability))


def refuse_too_few(choosing: Counts, reporting: Counts, detect: float) -> None:
    """Raise `DataError` if the labels cannot tell two prompts apart, with the number of queries that could."""
    hint = "" if choosing.relevant + reporting.relevant else BINARY
    for counts in (choosing, reporting):
        if not 0 < counts.relevant < counts.labels:
            raise DataError(
                f"one half of the queries has {counts.relevant} relevant pairs among {counts.labels} labels; tuning "
                f"needs relevant and other pairs in both halves: grade pairs of more queries{hint}"
            )
    found = power(reporting, detect)
    if found >= POWER:
        return
    needed = 2 * queries_needed(reporting, detect)
    queries, labels = choosing.queries + reporting.queries, choosing.labels + reporting.labels
    raise DataError(
        f"too few labels to tell prompts apart: with {labels:,} labels on {queries:,} queries, half of which are "
        f"reported, a difference of {detect:g} in kappa is detected with probability {found:.2f}, not {POWER:g}; that "
        f"needs about {needed:,} queries with {labels / queries:.3g} labels each: grade {needed - queries:,} more "
        f"queries (labelkit review){', or look for a larger difference with --detect' if detect < 1 else ''}"
    )
