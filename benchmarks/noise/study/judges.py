"""Simulated judges: scores, labels and probabilities whose errors follow GPT-4o and Llama-3-70B on `llmjudge-val`."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from labelkit.records import Example, Label

Floats = NDArray[np.float64]
Kind = Literal["near", "uniform"]
NEAR_MISS = (-0.92, 0.52)
"""Log-odds that a non-relevant passage is a near miss: a + b z."""
JUDGE = (0.84, 2.42, 0.90)
"""Added to a score by a near miss, by relevance, and by one standard deviation of similarity."""
SURE_NEGATIVE = 0.1
"""Probability of relevance below which a passage is a negative."""
STRONGEST = 200.0


class Pool(NamedTuple):
    """The pool of a query."""

    query_id: str
    passages: Sequence[str]
    z: Floats
    """[passages]: cosine similarity, standardized within the pool."""
    relevant: NDArray[np.bool_]
    """[passages]."""


class Drawn(NamedTuple):
    """Labels of a simulated judge and what they are like."""

    examples: dict[str, Example]
    facts: dict[str, float]
    """strength, precision, recall, auc, positives per query."""


class Setting(NamedTuple):
    """What labels a simulated judge should give."""

    kind: Kind
    precision: float
    positives: float
    """Positives per query, on average over the queries."""


def draw_labels(pools: Sequence[Pool], setting: Setting, seed: int) -> Drawn:
    """Draw the labels of all pools; the strength of the judge follows from the precision that is asked for."""
    generator = np.random.default_rng(seed)
    z, relevant = (np.concatenate([getattr(pool, name) for pool in pools]) for name in ("z", "relevant"))
    noise = generator.logistic(size=len(z))
    near = ~relevant & (generator.random(len(z)) < expit(NEAR_MISS[0] + NEAR_MISS[1] * z))
    wanted = round(setting.positives * len(pools))
    by_miss, by_relevance, by_z = JUDGE if setting.kind == "near" else (0.0, JUDGE[1], 0.0)
    signal, rest = by_miss * near + by_relevance * relevant, by_z * z + noise

    def positives(strength: float) -> NDArray[np.bool_]:
        chosen = np.zeros(len(z), dtype=bool)
        scores = strength * signal + rest
        if setting.precision >= 1:
            scores = np.where(relevant, scores, -np.inf)
        best = np.argsort(-scores, kind="stable")[:wanted]
        chosen[best[np.isfinite(scores[best])]] = True
        return chosen

    def excess(strength: float) -> float:
        return float(relevant[positives(strength)].mean()) - setting.precision

    strength = STRONGEST if setting.precision >= 1 else _bisect(excess)
    chosen, scores = positives(strength), strength * signal + rest
    probability = expit(_calibrated(scores, relevant))
    facts = {
        "strength": strength,
        "precision": float(relevant[chosen].mean()),
        "recall": float(relevant[chosen].sum() / relevant.sum()),
        "auc": auc(scores, relevant),
        "positives": float(chosen.sum() / len(pools)),
    }
    return Drawn(_examples(pools, chosen, scores, probability), facts)


def _bisect(excess: Callable[[float], float]) -> float:
    """Find the strength at which precision is met; the strongest judge where it cannot be."""
    low, high = 0.0, STRONGEST
    if excess(low) >= 0:
        return low
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) >= 0 else (middle, high)
    return high


def _calibrated(scores: Floats, relevant: NDArray[np.bool_]) -> Floats:
    """Log-odds of relevance given the score, by logistic regression."""
    centre, width = scores.mean(), scores.std()
    x = (scores - centre) / width
    signs = np.where(relevant, 1.0, -1.0)

    def loss(weights: Floats) -> float:
        # A little shrinkage: a perfect judge would have infinite log-odds.
        return float(-np.log(expit(signs * (weights[0] + weights[1] * x))).mean() + 1e-4 * weights[1] ** 2)

    fitted = minimize(loss, np.array([logit(relevant.mean()), 1.0]), method="BFGS").x
    log_odds: Floats = fitted[0] + fitted[1] * x
    return log_odds


def _examples(
    pools: Sequence[Pool], chosen: NDArray[np.bool_], scores: Floats, probability: Floats
) -> dict[str, Example]:
    middle = np.median(scores[chosen])
    low = max(SURE_NEGATIVE, float(np.median(probability)))
    log_odds = logit(np.clip(probability, 1e-9, 1 - 1e-9))
    examples, start = {}, 0
    for pool in pools:
        sides: dict[str, list[Label]] = {"positives": [], "negatives": [], "ignored": []}
        for place, passage_id in enumerate(pool.passages, start=start):
            side = "positives" if chosen[place] else "negatives" if probability[place] < low else "ignored"
            grade = {"positives": 3 if scores[place] >= middle else 2, "negatives": 0, "ignored": 1}[side]
            sides[side].append(
                label(passage_id, grade, "llm", probability=float(probability[place]), score=float(log_odds[place]))
            )
        start += len(pool.passages)
        examples[pool.query_id] = example(pool.query_id, **sides)
    return examples


def human_example(pool: Pool) -> Example:
    """The human labels of a pool: everything that is not relevant is a negative."""
    pairs = list(zip(pool.passages, pool.relevant.tolist(), strict=True))
    good = [label(name, 2, "human") for name, relevant in pairs if relevant]
    bad = [label(name, 0, "human") for name, relevant in pairs if not relevant]
    return example(pool.query_id, positives=good, negatives=bad, ignored=[])


def single_example(pool: Pool, seed: int) -> Example:
    """One human positive, drawn at random."""
    good = [name for name, relevant in zip(pool.passages, pool.relevant.tolist(), strict=True) if relevant]
    chosen = np.random.default_rng([seed, len(good), len(pool.passages)]).choice(good)
    return example(pool.query_id, positives=[label(str(chosen), 2, "human")], negatives=[], ignored=[])


def example(query_id: str, *, positives: list[Label], negatives: list[Label], ignored: list[Label]) -> Example:
    """An example whose text is the id of its query: texts are tokenised beforehand. Not checked again, for speed."""
    return Example.model_construct(
        query_id=query_id,
        query=query_id,
        positives=tuple(positives),
        negatives=tuple(negatives),
        ignored=tuple(ignored),
    )


def label(
    passage_id: str, grade: int, source: str, *, probability: float | None = None, score: float | None = None
) -> Label:
    """A label of weight 1."""
    return Label.model_construct(
        passage_id=passage_id,
        grade=grade,
        source=source,
        judge_id=source,
        weight=1.0,
        probability=probability,
        score=score,
    )


def auc(scores: Floats, relevant: NDArray[np.bool_]) -> float:
    """Share of pairs of a relevant and another passage in which the relevant one scores higher."""
    rank = scores.argsort().argsort() + 1
    good = int(relevant.sum())
    return float((rank[relevant].sum() - good * (good + 1) / 2) / (good * (len(scores) - good)))


def fit(human: NDArray[np.int64], graded: Sequence[NDArray[np.int64]], z: Floats) -> tuple[Floats, list[Floats]]:
    """Fit the near misses and each judge: (a, b) of near misses; near miss, relevance, similarity of each judge.

    `human` `[pairs]` are grades of people, `graded` `[pairs]` grades of each judge, `z` `[pairs]` similarities. A judge
    follows a proportional-odds model of four grades.
    """
    near, relevant = (human == 1).astype(float), (human >= 2).astype(float)
    rest = human < 2
    signs = 2 * near[rest] - 1

    def of_misses(weights: Floats) -> float:
        return float(-np.log(expit(signs * (weights[0] + weights[1] * z[rest]))).sum())

    judges = []
    for grades in graded:

        def of_judge(weights: Floats, grades: NDArray[np.int64] = grades) -> float:
            steps = np.cumsum(np.concatenate([weights[3:4], np.exp(weights[4:6])]))
            signal = weights[0] * near + weights[1] * relevant + weights[2] * z
            above = expit(signal[:, None] - steps)
            ends = np.ones((len(z), 1))
            shares = np.hstack([ends, above]) - np.hstack([above, 0 * ends])
            return float(-np.log(np.maximum(shares[np.arange(len(z)), grades], 1e-12)).sum())

        judges.append(minimize(of_judge, np.array([0.5, 1, 0.5, 0, 0, 0]), method="BFGS").x[:3])
    return minimize(of_misses, np.zeros(2), method="BFGS").x, judges
