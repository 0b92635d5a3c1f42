"""From scores to probabilities that mean something: fit on human grades, test on queries that the fit has not seen.

The model is chosen by cross-validation over queries. The figures that are reported come from an outer loop of the same
kind, so that neither the fit nor the choice has seen the query that is scored.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelkit.errors import DataError
from labelkit.quality.agreement import Rater, plain, raters_of
from labelkit.quality.agreement_metrics import FIGURES, GRADES, RELEVANT, Floats, Ints, rated
from labelkit.quality.calibration.features import Feature, both_views, features_of, matrix
from labelkit.quality.calibration.models import (
    MODELS,
    Calibration,
    by_grade,
    fit,
    grades_of,
    predict,
    relevance,
    with_lines,
)
from labelkit.quality.prediction_powered import powered
from labelkit.records import Judgement, PairIds
from labelkit.statistics.intervals import Estimate, estimate, mean

LEAST_PAIRS = 50
LEAST_OF_A_CLASS = 10
LEAST_QUERIES = 3
FOLDS = 10
"""At most; each query stands in one fold."""
BINS = 10
"""Of the reliability diagram, with equally many pairs each."""
FLOOR = 1e-6
"""The least probability in a log loss."""
VIEWS = {False: "absolute", True: "within queries"}
"""Whether scores are taken against the mean of their query -> what a reader calls that."""
SHOWN = ("kappa", "kappa_2", "kappa_quadratic", "alpha_ordinal", "auc", "bias")


class LabelledPairs(NamedTuple):
    """The pairs that people graded, with every score."""

    pairs: list[PairIds]
    scores: Floats
    """`[2, n, F]` both views of them."""
    grades: Ints
    query: Ints
    """Number of each pair's query."""
    queries: int


class Held(NamedTuple):
    """Predictions for pairs by models that did not see their queries."""

    above: Floats
    grades: Ints
    models: list[str]
    """The model and view that each fold chose."""


def calibrate(
    labels: Sequence[Path],
    human: Path,
    *,
    data: Path | None = None,
    bm25: bool = False,
    dense: Sequence[str] = (),
    line: float = 0.5,
    weights: Mapping[PairIds, float] | None = None,
    command: str = "",
) -> Calibration:
    """Fit the judges of some labels folders, and retrievers where asked for, to human grades.

    `line` is the probability from which a pair is taken as positive in the estimate of precision and recall over all
    judged pairs; `weights` says which labelled pairs that estimate may use, each with 1 / its chance of being chosen
    (default: all of them, as a random sample). Raises `DataError` where the labels are too few.
    """
    people, *others = raters_of(labels, [human])
    judges = [rater for rater in others if rater.kind != "human"]
    features = features_of(judges, bm25=bm25, dense=dense)
    by_id = {judge.rater_id: judge for judge in judges}
    judged = sorted({pair for judge in judges for pair in judge.judgements})
    everything = both_views(matrix(features, judged, by_id, data), [query_id for query_id, _ in judged])
    rows = [row for row, pair in enumerate(judged) if pair in people.judgements]
    known = known_of([judged[row] for row in rows], everything[:, rows], people)
    refuse_too_few(known)
    held = held_out(known, tuple(features))
    fitted = best_fit(known, tuple(features))
    report = {
        "command": command,
        "human": str(human),
        "labels": [str(path) for path in labels],
        "pairs": len(known.pairs),
        "queries": known.queries,
        "folds": min(FOLDS, known.queries),
        "models_of_folds": held.models,
        "judges": {judge.rater_id: judge.name for judge in judges},
        "before": {judge.rater_id: raw(judge, known) for judge in judges},
        "after": quality(known, held.grades, by_grade(held.above) @ np.arange(GRADES), relevance(held.above)),
        "estimate": powered(
            known.pairs,
            known.grades,
            relevance(held.above),
            judged,
            relevance(predict(fitted, everything)),
            line,
            weights,
        ),
    }
    return fitted.model_copy(update={"report": plain(report)})


def known_of(pairs: list[PairIds], scores: Floats, people: Rater) -> LabelledPairs:
    """The labelled pairs as arrays; pairs without any score are left out."""
    kept = np.flatnonzero(np.isfinite(scores[0]).any(1))
    pairs = [pairs[row] for row in kept]
    grades = np.array([people.judgements[pair].grade or 0 for pair in pairs], dtype=int)
    names = sorted({query_id for query_id, _ in pairs})
    query = np.array([names.index(query_id) for query_id, _ in pairs], dtype=int)
    return LabelledPairs(pairs, scores[:, kept], grades, query, len(names))


def refuse_too_few(known: LabelledPairs) -> None:
    """Raise `DataError`, with what is missing, where the labels cannot carry a calibration."""
    relevant = int((known.grades >= RELEVANT).sum())
    counts = {
        f"labelled pairs ({LEAST_PAIRS} are needed)": (len(known.pairs), LEAST_PAIRS),
        f"of them of grade 2 or 3 ({LEAST_OF_A_CLASS})": (relevant, LEAST_OF_A_CLASS),
        f"of grade 0 or 1 ({LEAST_OF_A_CLASS})": (len(known.pairs) - relevant, LEAST_OF_A_CLASS),
        f"queries ({LEAST_QUERIES})": (known.queries, LEAST_QUERIES),
    }
    if any(have < need for have, need in counts.values()):
        found = ", ".join(f"{have} {what}" for what, (have, _) in counts.items())
        raise DataError(
            f"too few human labels on judged pairs to calibrate on: {found}; labelkit select says which to add"
        )


def held_out(known: LabelledPairs, features: tuple[Feature, ...]) -> Held:
    """Predictions for every pair from models fitted, and chosen, on other queries."""
    above = np.zeros((len(known.pairs), GRADES - 1))
    grades = np.zeros(len(known.pairs), dtype=int)
    models = []
    for test in folds(known):
        fitted = best_fit(part(known, ~test), features)
        models.append(f"{fitted.model}, {VIEWS[fitted.relative]}")
        above[test] = predict(fitted, known.scores[:, test])
        grades[test] = grades_of(fitted, above[test])
    return Held(above, grades, models)


def best_fit(known: LabelledPairs, features: tuple[Feature, ...]) -> Calibration:
    """The model and view with the least log loss of the human grades on held-out queries, fitted to all of them."""
    losses = dict.fromkeys(product(MODELS, VIEWS), 0.0)
    for test in folds(known):
        train = part(known, ~test)
        for model, relative in losses:
            fitted = fit(features, train.scores, train.grades, model, relative=relative)
            probs = by_grade(predict(fitted, known.scores[:, test]))
            taken = probs[np.arange(test.sum()), known.grades[test]]
            losses[model, relative] -= float(np.log(np.maximum(taken, FLOOR)).sum())
    model, relative = min(losses, key=lambda choice: losses[choice])
    fitted = fit(features, known.scores, known.grades, model, relative=relative)
    return with_lines(fitted, known.scores, known.grades)


def folds(known: LabelledPairs) -> Iterator[NDArray[np.bool_]]:
    """Which pairs are held out, fold by fold: whole queries."""
    from sklearn.model_selection import GroupKFold

    splits = GroupKFold(min(FOLDS, known.queries)).split(known.query, groups=known.query)
    for _, rows in splits:
        test = np.zeros(len(known.pairs), dtype=bool)
        test[rows] = True
        yield test


def part(known: LabelledPairs, rows: NDArray[np.bool_]) -> LabelledPairs:
    """Some of the pairs; their queries numbered anew."""
    names, query = np.unique(known.query[rows], return_inverse=True)
    pairs = [pair for pair, keep in zip(known.pairs, rows, strict=True) if keep]
    return LabelledPairs(pairs, known.scores[:, rows], known.grades[rows], query, len(names))


def raw(judge: Rater, known: LabelledPairs) -> dict[str, Any]:
    """The same figures for a judge's own grades and probabilities, on the pairs where it gave them."""
    rows = [judge.judgements.get(pair) for pair in known.pairs]
    given = np.array([row is not None and row.grade is not None for row in rows])
    mine = [row for row in rows if row is not None and row.grade is not None]
    probs = [own_relevance(row, judge.label_grades) for row in mine]
    certain = None if any(p is None for p in probs) else np.array(probs, dtype=float)
    scores = np.array([row.score if row.score is not None else float(row.grade or 0) for row in mine])
    return quality(part(known, given), np.array([row.grade or 0 for row in mine], dtype=int), scores, certain)


def own_relevance(row: Judgement, label_grades: tuple[int, ...] | None) -> float | None:
    """P(grade >= 2) by the judge's own label probabilities; None where it gave none."""
    if row.probs is None or label_grades is None:
        return None
    return sum(p for p, grade in zip(row.probs, label_grades, strict=True) if grade >= RELEVANT)


def quality(known: LabelledPairs, grades: Ints, scores: Floats, probability: Floats | None) -> dict[str, Any]:
    """Agreement of grades and scores with people, and how true the probabilities are."""
    names = [query_id for query_id, _ in known.pairs]
    pairs = rated(names, known.grades.tolist(), grades.tolist(), scores.tolist())
    found: dict[str, Any] = {
        name: estimate(lambda draws, of=FIGURES[name].of: of(pairs, draws), pairs.queries)  # type: ignore[misc]
        for name in SHOWN
    }
    found["confusion"] = pairs.confusion(np.ones(pairs.queries, dtype=np.int64)).astype(int).tolist()
    if probability is None:
        return found
    truth = (known.grades >= RELEVANT).astype(float)
    return found | {
        "log_loss": mean(names, log_loss(truth, probability)),
        "brier": mean(names, (truth - probability) ** 2),
        "ece": Estimate(expected_calibration_error(truth, probability)),
        "reliability": reliability(truth, probability),
    }


def log_loss(truth: Floats, probability: Floats) -> Floats:
    """Natural logarithm; probabilities are kept within a millionth of 0 and 1."""
    inside = np.clip(probability, FLOOR, 1 - FLOOR)
    loss: Floats = -(truth * np.log(inside) + (1 - truth) * np.log(1 - inside))
    return loss


def reliability(truth: Floats, probability: Floats) -> list[dict[str, float]]:
    """Bins of equally many pairs by probability: what was said on average, and how often it was so."""
    order = np.argsort(probability, kind="stable")
    return [
        {"said": float(probability[rows].mean()), "was": float(truth[rows].mean()), "pairs": len(rows)}
        for rows in np.array_split(order, min(BINS, len(order)))
    ]


def expected_calibration_error(truth: Floats, probability: Floats) -> float:
    """Mean distance of said and was over the bins, by their size (Naeini et al. 2015, with bins of equal count)."""
    bins = reliability(truth, probability)
    return sum(abs(one["said"] - one["was"]) * one["pairs"] for one in bins) / max(1, len(truth))
