"""Fits scores to human grades, so that they become probabilities, and tests the fit on held-out queries.

With enough queries the model is chosen by cross-validation over queries. With fewer it is fixed, since the choice would
be random. The reported figures come from an outer cross-validation, so a scored query affects neither the fit, nor the
thresholds between grades, nor the choice of the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement import Rater, answered, consensus_rater, joined, plain, raters_of
from labelkit.quality.agreement_metrics import GRADES, RELEVANT, Floats, GradedPair, Ints, figure_interval, rated
from labelkit.quality.calibration.features import Feature, both_views, features_of, judge_scores, matrix
from labelkit.quality.calibration.figures import FLOOR, WORSE, Graded, gain, own_relevance, quality, verdict
from labelkit.quality.calibration.judges import known_judges_of
from labelkit.quality.calibration.label_quality import label_quality
from labelkit.quality.calibration.models import (
    MODELS,
    Calibration,
    by_grade,
    fit,
    grades_of,
    predict,
    relevance,
    with_thresholds,
)
from labelkit.quality.options import CalibrateOptions
from labelkit.records import PairIds
from labelkit.statistics.intervals import Estimate

LEAST_PAIRS = 50
LEAST_OF_A_CLASS = 10
LEAST_QUERIES = 3
ENOUGH_QUERIES = 20
"""Smallest number of queries for which the model is chosen; with fewer it is `FIXED`."""
FOLDS = 10
"""Largest number of folds of the outer cross-validation; each query is in one fold."""
INNER_FOLDS = 5
"""Largest number of folds for the choice of a model."""
VIEWS = {False: "absolute", True: "within queries"}
"""Whether the mean of the query is subtracted from scores -> name of this view."""
FIXED = ("ordinal", False)
"""Model and view for few queries."""

Choice = tuple[str, bool]
"""A model, and whether the mean of the query is subtracted from scores."""


class JudgedPairs(NamedTuple):
    """The pairs judged by at least one judge, with their scores."""

    pairs: list[PairIds]
    scores: Floats
    """`[2, n, F]` both views of the scores."""


class LabelledPairs(NamedTuple):
    """The pairs with human grades, with their scores."""

    pairs: list[PairIds]
    scores: Floats
    """`[2, n, F]` both views of the scores."""
    grades: Ints
    query: Ints
    """`[n]` number of each pair's query."""
    queries: int


class HeldOut(NamedTuple):
    """Predictions for the labelled pairs by models fitted to other queries."""

    above: Floats
    """`[n, 3]` probabilities of grade >= 1, 2 and 3."""
    grades: Ints
    base: Floats
    """`[n]` share of relevant pairs among the training queries of each pair's fold."""
    folds: list[tuple[frozenset[str], Calibration]]
    """The queries of each fold, and the fit to all other queries."""


def fit_calibration(
    labels: Sequence[Path],
    options: CalibrateOptions,
    *,
    weights: Mapping[PairIds, float] | None = None,
    command: str = "",
) -> Calibration:
    """Fit the scores of judges in labels folders, and of retrievers if given, to human grades.

    `weights` has the labelled pairs from which precision and recall over all judged pairs are estimated, each with 1 /
    its probability of being chosen (default: all labelled pairs, as a random sample). Raises `UsageError` without human
    grades, and `DataError` if there are too few labels.
    """
    if options.human is None:
        raise UsageError("human grades are needed to fit a calibration: give --human GRADES")
    people, others = consensus_rater(options.human, options.scale), raters_of(labels, [])
    judges = joined(rater for rater in others if rater.kind != "human")
    features = tuple(features_of(judges, bm25=options.bm25, dense=options.dense, language=options.language))
    judged = judged_by(judges, features, options.data)
    known = known_of(judged, people)
    refuse_too_few(known)
    among = choices(known.queries)
    held = held_out(known, features, among)
    fitted = best_fit(known, features, among)
    # A pair on which every judge failed gets no label, so it is not taken as positive.
    graded = np.array([answered(judges, pair) for pair in judged.pairs], dtype=bool)
    taken = graded & (relevance(predict(fitted, judged.scores)) >= options.line)
    said = cross_fitted(judged, held, fitted)
    blind = graded & (said >= options.line)
    report = {
        "command": command,
        "human": str(options.human),
        **({"scale": options.scale} if options.scale else {}),
        "labels": [str(path) for path in labels],
        "pairs": len(known.pairs),
        "queries": known.queries,
        "folds": min(FOLDS, known.queries),
        "models_of_folds": [f"{fold.model}, {VIEWS[fold.relative]}" for _, fold in held.folds],
        "judges": {judge.rater_id: judge.name for judge in judges},
        **compared(known, held, judges),
        "estimate": {
            "line": options.line,
            **label_quality(judged.pairs, taken, said, blind=blind, relevant=relevant_pairs(people), weights=weights),
        },
    }
    worse = report.get("verdict") == WORSE
    update = {"judges": known_judges_of(judges), "worse_than_raw": worse, "report": plain(report)}
    return fitted.model_copy(update=update)


def judged_by(judges: Sequence[Rater], features: Sequence[Feature], data: Path | None) -> JudgedPairs:
    """Collect every pair judged by a judge, sorted, with its scores. Raises `UsageError` as `matrix` does."""
    pairs = sorted({pair for judge in judges for pair in judge.judgements})
    scores = matrix(features, pairs, {judge.rater_id: judge for judge in judges}, data=data)
    return JudgedPairs(pairs, both_views(scores, [query_id for query_id, _ in pairs]))


def compared(known: LabelledPairs, held: HeldOut, judges: Sequence[Rater]) -> dict[str, Any]:
    """Measure each judge and the calibration on held-out queries, and the gain of the calibration over the best judge.

    A judge without grades has only the AUC of its scores. If no judge has grades, there is no gain and no verdict.
    """
    after = Graded(
        [query_id for query_id, _ in known.pairs],
        known.grades,
        held.grades,
        scores=by_grade(held.above) @ np.arange(GRADES),
        probability=relevance(held.above),
        base=held.base,
    )
    raw = {judge.rater_id: raw_grades(judge, known, held.base) for judge in judges if not judge.score_only}
    graded = {judge_id: quality(found) for judge_id, (_, found) in raw.items()}
    scored = {judge.rater_id: {"auc": auc_of_scores(judge, known)} for judge in judges if judge.score_only}
    report = {"before": graded | scored, "after": quality(after)}
    if not raw:
        return report
    best = max(graded, key=lambda judge_id: undefined_last(graded[judge_id]["kappa"].value))
    rows, found = raw[best]
    change = gain(some(after, rows), found)
    return report | {"gain": {"over": best, **change}, "verdict": verdict(change["kappa"])}


def auc_of_scores(judge: Rater, known: LabelledPairs) -> Estimate:
    """Estimate the AUC of a judge's scores on the labelled pairs."""
    rows = zip(known.pairs, known.grades.tolist(), judge_scores(judge, known.pairs), strict=True)
    found = [GradedPair(query_id, grade, 0, score=score) for (query_id, _), grade, score in rows if np.isfinite(score)]
    return figure_interval("auc", rated(found))


def undefined_last(value: float | None) -> float:
    return -np.inf if value is None else value


def some(found: Graded, rows: NDArray[np.bool_]) -> Graded:
    """Select the pairs marked in `rows`, `[n]`."""
    return Graded(
        [query_id for query_id, keep in zip(found.query_ids, rows, strict=True) if keep],
        found.human[rows],
        found.grades[rows],
        scores=found.scores[rows],
        probability=None if found.probability is None else found.probability[rows],
        base=found.base[rows],
    )


def relevant_pairs(people: Rater) -> dict[PairIds, bool]:
    return {pair: row.grade >= RELEVANT for pair, row in people.judgements.items() if row.grade is not None}


def known_of(judged: JudgedPairs, people: Rater) -> LabelledPairs:
    """Collect the pairs with a human grade and at least one score, as arrays."""
    scored = np.isfinite(judged.scores[0]).any(1)
    kept = [row for row, pair in enumerate(judged.pairs) if scored[row] and pair in people.judgements]
    pairs = [judged.pairs[row] for row in kept]
    grades = np.array([people.judgements[pair].grade or 0 for pair in pairs], dtype=int)
    names = sorted({query_id for query_id, _ in pairs})
    query = np.array([names.index(query_id) for query_id, _ in pairs], dtype=int)
    return LabelledPairs(pairs, judged.scores[:, kept], grades, query=query, queries=len(names))


def refuse_too_few(known: LabelledPairs) -> None:
    """Raise `DataError`, with the missing numbers, if there are too few labels for a calibration."""
    relevant = int((known.grades >= RELEVANT).sum())
    counts = {
        f"labelled pairs (at least {LEAST_PAIRS} needed)": (len(known.pairs), LEAST_PAIRS),
        f"of them with grade 2 or 3 (at least {LEAST_OF_A_CLASS} needed)": (relevant, LEAST_OF_A_CLASS),
        f"with grade 0 or 1 (at least {LEAST_OF_A_CLASS} needed)": (len(known.pairs) - relevant, LEAST_OF_A_CLASS),
        f"queries (at least {LEAST_QUERIES} needed)": (known.queries, LEAST_QUERIES),
    }
    if any(have < need for have, need in counts.values()):
        found = ", ".join(f"{have} {what}" for what, (have, _) in counts.items())
        raise DataError(
            f"too few judged pairs with human grades for a calibration: {found}; labelkit select chooses pairs to grade"
        )


def choices(queries: int) -> Sequence[Choice]:
    """List the models and views to choose from, for a number of labelled queries."""
    return list(product(MODELS, VIEWS)) if queries >= ENOUGH_QUERIES else [FIXED]


def held_out(known: LabelledPairs, features: tuple[Feature, ...], among: Sequence[Choice]) -> HeldOut:
    """Predict every labelled pair by a model that was chosen and fitted on other queries."""
    above = np.zeros((len(known.pairs), GRADES - 1))
    grades, base = np.zeros(len(known.pairs), dtype=int), np.zeros(len(known.pairs))
    fits = []
    for test in folds(known, FOLDS):
        train = part(known, ~test)
        fitted = best_fit(train, features, among)
        fits.append((frozenset(known.pairs[row][0] for row in np.flatnonzero(test)), fitted))
        above[test] = predict(fitted, known.scores[:, test])
        grades[test] = grades_of(fitted, above[test])
        base[test] = np.mean(train.grades >= RELEVANT)
    return HeldOut(above, grades, base, folds=fits)


def cross_fitted(judged: JudgedPairs, held: HeldOut, fitted: Calibration) -> Floats:
    """Compute `[n]` P(grade >= 2) of all judged pairs; a labelled query is predicted by the fit from which it is held
    out.

    `fitted`: the fit to all labels, which predicts queries without labels.
    """
    said = relevance(predict(fitted, judged.scores)).copy()
    for names, fold in held.folds:
        rows = np.array([query_id in names for query_id, _ in judged.pairs], dtype=bool)
        said[rows] = relevance(predict(fold, judged.scores[:, rows]))
    return said


def best_fit(known: LabelledPairs, features: tuple[Feature, ...], among: Sequence[Choice]) -> Calibration:
    """Choose the model and view with the lowest log loss of human grades on held-out queries, and fit it to all
    queries.
    """
    losses = dict.fromkeys(among, 0.0)
    for test in folds(known, INNER_FOLDS) if len(losses) > 1 else ():
        train = part(known, ~test)
        for model, relative in losses:
            fitted = fit(features, train.scores, train.grades, model=model, relative=relative)
            probs = by_grade(predict(fitted, known.scores[:, test]))
            taken = probs[np.arange(test.sum()), known.grades[test]]
            losses[model, relative] -= float(np.log(np.maximum(taken, FLOOR)).sum())
    model, relative = min(losses, key=lambda choice: losses[choice])
    fitted = fit(features, known.scores, known.grades, model=model, relative=relative)
    return with_thresholds(fitted, known.scores, known.grades)


def folds(known: LabelledPairs, count: int) -> Iterator[NDArray[np.bool_]]:
    """Yield for each of at most `count` folds which pairs are held out, `[n]`; a query is never split."""
    from sklearn.model_selection import GroupKFold

    splits = GroupKFold(min(count, known.queries)).split(known.query, groups=known.query)
    for _, rows in splits:
        test = np.zeros(len(known.pairs), dtype=bool)
        test[rows] = True
        yield test


def part(known: LabelledPairs, rows: NDArray[np.bool_]) -> LabelledPairs:
    """Select the pairs marked in `rows`, `[n]`, and number their queries again."""
    names, query = np.unique(known.query[rows], return_inverse=True)
    pairs = [pair for pair, keep in zip(known.pairs, rows, strict=True) if keep]
    return LabelledPairs(pairs, known.scores[:, rows], known.grades[rows], query=query, queries=len(names))


def raw_grades(judge: Rater, known: LabelledPairs, base: Floats) -> tuple[NDArray[np.bool_], Graded]:
    """Return the mask `[n]` of labelled pairs that a judge graded, and its own grades, scores and probabilities."""
    rows = [judge.judgements.get(pair) for pair in known.pairs]
    given = np.array([row is not None and row.grade is not None for row in rows])
    mine = [row for row in rows if row is not None and row.grade is not None]
    probs = [own_relevance(row, judge.label_grades) for row in mine]
    return given, Graded(
        [row.query_id for row in mine],
        known.grades[given],
        np.array([row.grade or 0 for row in mine], dtype=int),
        scores=np.array([row.rank_score for row in mine]),
        probability=None if any(p is None for p in probs) else np.array(probs, dtype=float),
        base=base[given],
    )
