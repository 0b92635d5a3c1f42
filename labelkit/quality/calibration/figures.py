"""Figures of grades and probabilities on pairs with human grades: agreement, losses, skill over the base rate."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from labelkit.quality.agreement_metrics import (
    FIGURES,
    RELEVANT,
    Floats,
    Ints,
    Rated,
    dense,
    figure_differences,
    figure_intervals,
    rated_columns,
)
from labelkit.statistics.intervals import POSITIVE, UNIT, Estimate, estimate, mean, ratio

BINS = 10
"""Number of bins of the reliability diagram; all bins have the same number of pairs."""
FLOOR = 1e-6
"""Smallest probability in a log loss."""
SHOWN = ("kappa", "kappa_2", "kappa_quadratic", "alpha_ordinal", "auc", "bias")
COMPARED = ("kappa", "kappa_2", "kappa_quadratic", "alpha_ordinal", "auc")
"""Figures whose difference between calibrated and raw is reported; higher is better for all of them."""
LABELS = {name: FIGURES[name].label for name in SHOWN} | {
    "log_loss": "log loss of P(grade >= 2)",
    "log_loss_skill": "skill in log loss: 1 - loss / loss of the base rate",
    "brier": "Brier score of P(grade >= 2)",
    "brier_skill": "skill in Brier score: 1 - score / score of the base rate",
    "ece": "expected calibration error",
}
"""Figure of a calibration report -> its name in tables."""
BETTER = "better than raw"
ALIKE = "no significant difference from raw"
WORSE = "worse than raw: do not apply"


class Graded(NamedTuple):
    """Pairs with their human grades, and a judge's grades, scores and probabilities."""

    query: Ints
    """`[n]` number of each pair's query."""
    human: Ints
    grades: Ints
    scores: Floats
    probability: Floats | None
    """`[n]` P(grade >= 2); None if the judge gives no probabilities."""
    base: Floats
    """`[n]` share of relevant pairs among the training queries of the fold from which each pair is held out."""

    def rated(self) -> Rated:
        """Convert the pairs to arrays for figures of agreement."""
        return rated_columns(self.query, self.human, self.grades, score=self.scores)


def quality(found: Graded) -> dict[str, Any]:
    """Measure the agreement of grades and scores with people, and the accuracy of probabilities."""
    pairs = found.rated()
    figures: dict[str, Any] = {**figure_intervals(SHOWN, pairs), "confusion": pairs.confusion()}
    if found.probability is None:
        return figures
    truth = (found.human >= RELEVANT).astype(float)
    logs, squares = log_loss(truth, found.probability), (truth - found.probability) ** 2
    return figures | {
        "log_loss": mean(found.query, logs, POSITIVE),
        "log_loss_skill": skill(found.query, logs, log_loss(truth, found.base)),
        "brier": mean(found.query, squares, UNIT),
        "brier_skill": skill(found.query, squares, (truth - found.base) ** 2),
        "ece": Estimate(expected_calibration_error(truth, found.probability)),
        "reliability": reliability(truth, found.probability),
    }


def skill(query: Ints, loss: Floats, base: Floats) -> Estimate:
    """Estimate 1 - loss / loss of the base rate from `[n]` losses: 1 is perfect; 0 or less means useless scores."""
    own, _ = dense(query)
    ours, theirs = np.bincount(own, weights=loss), np.bincount(own, weights=base)
    return estimate(lambda draws: 1 - ratio(float(draws @ ours), float(draws @ theirs)), len(ours), (-math.inf, 1.0))


def gain(calibrated: Graded, raw: Graded, names: Sequence[str] = COMPARED) -> dict[str, Estimate]:
    """Estimate calibrated minus raw for each figure, on the same pairs, with confidence intervals over queries."""
    return figure_differences(names, calibrated.rated(), raw.rated())


def verdict(change: Estimate) -> str:
    """Judge a calibration by its difference in kappa on held-out queries, calibrated minus raw."""
    if change.value is not None and change.value < 0:
        return WORSE
    return BETTER if change.low is not None and change.low > 0 else ALIKE


def log_loss(truth: Floats, probability: Floats) -> Floats:
    """Compute `[n]` log losses (natural logarithm); probabilities are clipped to `FLOOR` and 1 - `FLOOR`."""
    inside = np.clip(probability, FLOOR, 1 - FLOOR)
    loss: Floats = -(truth * np.log(inside) + (1 - truth) * np.log(1 - inside))
    return loss


def reliability(truth: Floats, probability: Floats) -> list[dict[str, float]]:
    """Compute bins of equal size by probability: mean probability (`said`), share of true pairs (`was`), and size."""
    order = np.argsort(probability, kind="stable")
    return [
        {"said": float(probability[rows].mean()), "was": float(truth[rows].mean()), "pairs": len(rows)}
        for rows in np.array_split(order, min(BINS, len(order)))
    ]


def expected_calibration_error(truth: Floats, probability: Floats) -> float:
    """Compute the mean of |said - was| over the bins, weighted by size (Naeini et al. 2015, with bins of
    equal count).
    """
    bins = reliability(truth, probability)
    return sum(abs(one["said"] - one["was"]) * one["pairs"] for one in bins) / max(1, len(truth))
