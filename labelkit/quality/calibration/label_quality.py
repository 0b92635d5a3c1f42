"""Estimates precision and recall of the pairs taken as positive, over all judged pairs.

Uses prediction-powered inference (Angelopoulos et al. 2023): the mean of calibrated probabilities over all pairs,
corrected by their mean error on the pairs with human grades. For a query with human grades, all its pairs have
probabilities of a fit to other queries. The fit to all labels decides which pairs are taken as positive. So if all
pairs are labelled, the estimates equal the true values. `benchmarks/calibration_estimates.py` compares this estimate
with counting among the labelled pairs. The labelled pairs must be a random sample of the judged pairs, or be given with
the probability of being chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelkit.quality.agreement_metrics import Floats
from labelkit.records import PairIds
from labelkit.statistics.intervals import UNIT, Draws, estimate, ratio


def label_quality(
    judged: Sequence[PairIds],
    taken: NDArray[np.bool_],
    probability: Floats,
    *,
    relevant: Mapping[PairIds, bool],
    weights: Mapping[PairIds, float] | None = None,
) -> dict[str, Any]:
    """Estimate precision, recall and prevalence, with confidence intervals over the queries that have labels.

    `judged`, `taken`, `probability`: all pairs, whether each is taken as positive, and its cross-fitted probability of
    being relevant, `[n]`. `relevant`: labelled pair -> whether people graded it as relevant. `weights`: labelled pair
    -> 1 / its probability of being chosen; other pairs are not used.
    """
    used = [row for row, pair in enumerate(judged) if pair in relevant and (weights is None or pair in weights)]
    pairs = [judged[row] for row in used]
    weight = np.array([1.0 if weights is None else weights[pair] for pair in pairs])
    off = np.array([relevant[pair] for pair in pairs], dtype=float) - probability[used]
    names, query = np.unique(np.array([query_id for query_id, _ in pairs], dtype=object), return_inverse=True)

    def corrected(claimed: Floats, correction: Floats) -> Callable[[Draws], float]:
        """Make the function: mean of `claimed` over all pairs plus mean of `correction` over the labelled pairs."""
        sums, total = (np.bincount(query, weights=weight * one) for one in (correction, np.ones(len(used))))
        mean = float(claimed.mean())
        return lambda draws: mean + ratio(float(draws @ sums), float(draws @ total))

    positives = float(taken.mean())
    found = corrected(probability * taken, off * taken[used])
    wanted = corrected(probability, off)
    figures: dict[str, Callable[[Draws], float]] = {
        "prevalence": wanted,
        "precision": lambda draws: ratio(found(draws), positives),
        "recall": lambda draws: ratio(found(draws), wanted(draws)),
    }
    estimates = {name: estimate(within(figure), len(names), UNIT) for name, figure in figures.items()}
    return {"judged": len(judged), "labelled": len(used), "positives": int(taken.sum()), **estimates}


def within(figure: Callable[[Draws], float]) -> Callable[[Draws], float]:
    """Clip a figure to 0 to 1, since the correction may exceed these bounds."""
    return lambda draws: float(np.clip(figure(draws), 0.0, 1.0))
