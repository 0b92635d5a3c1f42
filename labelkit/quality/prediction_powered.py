"""How good are the labels really: precision and recall of what is taken as positive, over all judged pairs.

Prediction-powered inference (Angelopoulos et al. 2023): the calibrated probabilities speak for all pairs, and the pairs
that people graded say how far off they are on average. The labelled pairs must be a random sample of the judged ones,
or come with the chance at which each was chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from labelkit.quality.agreement_metrics import RELEVANT, Floats, Ints
from labelkit.records import PairIds
from labelkit.statistics.intervals import Draws, estimate, ratio


def powered(
    pairs: Sequence[PairIds],
    grades: Ints,
    held: Floats,
    judged: Sequence[PairIds],
    probability: Floats,
    line: float,
    weights: Mapping[PairIds, float] | None,
) -> dict[str, Any]:
    """Precision, recall and prevalence with intervals clustered by query.

    `pairs`, `grades`, `held`: what people graded, and its probability by models that did not see the query. `judged`,
    `probability`: all pairs. A pair is taken as positive from probability `line`. `weights`: labelled pair -> 1 / its
    chance of being chosen; pairs that are not in it are not used.
    """
    names = sorted({query_id for query_id, _ in judged})
    numbers = {query_id: number for number, query_id in enumerate(names)}
    used = [row for row, pair in enumerate(pairs) if weights is None or pair in weights]
    weight = np.array([1.0 if weights is None else weights[pairs[row]] for row in used])
    query = np.array([numbers[pairs[row][0]] for row in used], dtype=int)
    off = (grades[used] >= RELEVANT) - held[used]
    taken, taken_labelled = probability >= line, held[used] >= line
    every = np.array([numbers[query_id] for query_id, _ in judged])

    def sums(of: Ints, values: Floats) -> Floats:
        return np.bincount(of, weights=values, minlength=len(names)).astype(float)

    total, labelled = sums(every, np.ones(len(judged))), sums(query, weight)
    hits, hits_off = sums(every, probability * taken), sums(query, weight * off * taken_labelled)
    relevant, relevant_off = sums(every, probability), sums(query, weight * off)
    positives = sums(every, taken.astype(float))

    def share(draws: Draws, claimed: Floats, correction: Floats) -> float:
        return ratio(float(draws @ claimed), float(draws @ total)) + ratio(
            float(draws @ correction), float(draws @ labelled)
        )

    figures: dict[str, Callable[[Draws], float]] = {
        "prevalence": lambda draws: share(draws, relevant, relevant_off),
        "precision": lambda draws: ratio(
            share(draws, hits, hits_off), ratio(float(draws @ positives), float(draws @ total))
        ),
        "recall": lambda draws: ratio(share(draws, hits, hits_off), share(draws, relevant, relevant_off)),
    }
    found = {name: estimate(within(figure), len(names)) for name, figure in figures.items()}
    return {"line": line, "judged": len(judged), "labelled": len(used), "positives": int(taken.sum()), **found}


def within(figure: Callable[[Draws], float]) -> Callable[[Draws], float]:
    """A share between 0 and 1: the correction may overshoot."""
    return lambda draws: float(np.clip(figure(draws), 0.0, 1.0))
