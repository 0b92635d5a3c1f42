"""Estimates precision and recall of the pairs taken as positive, over all judged pairs.

Uses prediction-powered inference (Angelopoulos et al. 2023): the mean of calibrated probabilities over all pairs,
corrected by their mean error on the pairs with human grades. For a query with human grades, all its pairs have
probabilities of a fit to other queries. The fit to all labels decides which pairs are taken as positive. So if all
pairs are labelled, the estimates equal the true values. The labelled pairs must be a random sample of the judged pairs,
or be given with the probability of being chosen.

The fit to all labels has seen the labels, so these estimates are slightly too high. In a second estimate, the fit to
other queries decides which labelled pairs count as taken; it is slightly too low. The interval contains the intervals
of both estimates. `benchmarks/calibration_estimates.py` measures how often it contains the true value, and compares the
estimate with counting among the labelled pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelkit.quality.agreement_metrics import Floats, Ints, dense
from labelkit.statistics.intervals import UNIT, Draws, Estimate, estimate, ratio

Figure = Callable[[Draws], float]
LEAST_TAKING = 3
"""Smallest number of labelled queries with a pair taken as positive for which an interval is given."""


class Judged(NamedTuple):
    """`[n]` all judged pairs, and what is known of them."""

    query: Ints
    """Number of each pair's query."""
    taken: NDArray[np.bool_]
    """Whether the pair is taken as positive."""
    probability: Floats
    """Cross-fitted probability of being relevant."""
    blind: NDArray[np.bool_]
    """Whether that probability would take the pair as positive."""
    relevant: Floats
    """Whether people graded the pair as relevant, 1 or 0; nan without a human grade."""
    weight: Floats
    """1 / the probability with which a labelled pair was chosen; nan for pairs that are not used."""


def label_quality(judged: Judged) -> dict[str, Any]:
    """Estimate precision, recall and prevalence, with confidence intervals over the queries that have labels.

    Precision and recall have no interval if all pairs are labelled, because they are exact then, and if fewer than
    `LEAST_TAKING` labelled queries have a pair that is taken as positive.
    """
    taken, probability, blind = judged.taken, judged.probability, judged.blind
    used = np.flatnonzero(~np.isnan(judged.relevant) & ~np.isnan(judged.weight))
    weight, truth = judged.weight[used], judged.relevant[used]
    off = truth - probability[used]
    query, queries = dense(judged.query[used])

    def corrected(claimed: Floats, correction: Floats, share: float = 1.0) -> Figure:
        """Make the function: mean of `claimed` over all pairs plus `share` times the mean of `correction` over the
        labelled pairs.
        """
        sums, total = (np.bincount(query, weights=weight * one) for one in (correction, np.ones(len(used))))
        mean = float(claimed.mean())
        return lambda draws: mean + share * ratio(float(draws @ sums), float(draws @ total))

    known = probability.copy()
    known[used] = truth  # labelled pairs are known; only the others need the correction
    unlabelled, positives = 1 - len(used) / len(taken), float(taken.mean())
    wanted = corrected(probability, off)
    found = corrected(probability * taken, off * taken[used])
    found_blind = corrected(known * taken, off * blind[used], unlabelled)
    some = min(len(np.unique(query[one[used]])) for one in (taken, blind)) >= LEAST_TAKING
    figures = {
        "prevalence": [wanted],
        "precision": [over(one, lambda draws: positives) for one in (found, found_blind)],
        "recall": [over(found, wanted), over(found_blind, corrected(known, off, unlabelled))],
    }
    estimates = {
        name: spanned([estimate(within(figure), queries, UNIT) for figure in each], unlabelled > 0 and some)
        for name, each in figures.items()
    }
    return {"judged": len(taken), "labelled": len(used), "positives": int(taken.sum()), **estimates}


def spanned(found: Sequence[Estimate], has_interval: bool) -> Estimate:
    """Give the first estimate of a figure an interval that contains the intervals of all its estimates."""
    lows, highs = [one.low for one in found if one.low is not None], [one.high for one in found if one.high is not None]
    if len(found) > 1 and (not has_interval or len(lows) < len(found)):
        return Estimate(found[0].value)
    return Estimate(found[0].value, min(lows, default=None), max(highs, default=None))


def over(figure: Figure, other: Figure) -> Figure:
    """Divide a figure by another."""
    return lambda draws: ratio(figure(draws), other(draws))


def in_words(found: Mapping[str, Any]) -> str:
    """Describe the `estimate` of a calibration's report in a sentence, with the reason if there is no interval."""
    precision, recall = (Estimate(**found[name]) for name in ("precision", "recall"))
    note = f"corrected with {found['labelled']:,} human labels"
    if found["labelled"] == found["judged"]:
        note = "exact, because every judged pair has a human label"
    elif precision.low is None:
        note += f"; no interval, because fewer than {LEAST_TAKING} labelled queries have such a pair"
    return (
        f"{found['positives']:,} of {found['judged']:,} judged pairs have P(grade >= 2) >= {found['line']}: precision "
        f"{precision}, recall {recall}, {note}"
    )


def within(figure: Figure) -> Figure:
    """Clip a figure to 0 to 1, since the correction may exceed these bounds."""
    return lambda draws: float(np.clip(figure(draws), 0.0, 1.0))
