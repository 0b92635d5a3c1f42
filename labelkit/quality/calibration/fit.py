"""Fits scores to human grades, so that they become probabilities, and tests the fit on held-out queries.

With enough queries the model is chosen by cross-validation over queries. With fewer it is fixed, since the choice would
be random. The reported figures come from an outer cross-validation, so a scored query affects neither the fit, nor the
thresholds between grades, nor the choice of the model.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement import plain
from labelkit.quality.agreement_metrics import BINARY, GRADES, RELEVANT, Floats, Ints, figure_interval, rated_columns
from labelkit.quality.by_hand import grade_first
from labelkit.quality.calibration.features import Feature, Scored, both_views, features_of, judge_scores, matrix
from labelkit.quality.calibration.figures import FLOOR, WORSE, Graded, gain, quality, verdict
from labelkit.quality.calibration.judges import known_judges_of
from labelkit.quality.calibration.label_quality import Judged, label_quality
from labelkit.quality.calibration.models import (
    MODELS,
    Calibration,
    by_grade,
    fit,
    grades_of,
    predict,
    relevance,
    relevances,
    with_thresholds,
)
from labelkit.quality.options import CalibrateOptions
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.raters import Rater, answered, joined, pairs_of
from labelkit.quality.selection import chances
from labelkit.statistics.intervals import Estimate
from labelkit.storage import tables

log = logging.getLogger(__name__)

LEAST_PAIRS = 50
LEAST_OF_A_CLASS = 10
LEAST_QUERIES = 3
ENOUGH_QUERIES = 20
"""Smallest number of queries for which the model is chosen; with fewer it is `FIXED`."""
MANY_ALONE = 5
"""One in this many queries without a grade below relevant is too many."""
FOLDS = 10
"""Largest number of folds of the outer cross-validation; each query is in one fold."""
INNER_FOLDS = 5
"""Largest number of folds for the choice of a model."""
CHOSEN_FROM = 50_000
"""Most labelled pairs from which a model is chosen: more would change the choice little, and are fitted 300 times."""
VIEWS = {False: "absolute", True: "within queries"}
"""Whether the mean of the query is subtracted from scores -> name of this view."""
FIXED = ("ordinal", False)
"""Model and view for few queries."""

Choice = tuple[str, bool]
"""A model, and whether the mean of the query is subtracted from scores."""


class JudgedPairs(NamedTuple):
    """The pairs judged by at least one judge, with their scores."""

    pair: Ints
    """`[n]` numbers of the pairs, increasing."""
    query: Ints
    """`[n]` number of each pair's query."""
    scores: Floats
    """`[2, n, F]` both views of the scores."""


class LabelledPairs(NamedTuple):
    """The pairs with human grades, with their scores."""

    pair: Ints
    """`[n]` numbers of the pairs, increasing."""
    scores: Floats
    """`[2, n, F]` both views of the scores."""
    grades: Ints
    query: Ints
    """`[n]` number of each pair's query, in the order of ids."""

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(np.unique(self.query))


class HeldOut(NamedTuple):
    """Predictions for the labelled pairs by models fitted to other queries."""

    above: Floats
    """`[n, 3]` probabilities of grade >= 1, 2 and 3."""
    grades: Ints
    base: Floats
    """`[n]` share of relevant pairs among the training queries of each pair's fold."""
    folds: list[tuple[Ints, Calibration]]
    """The numbers of the queries of each fold, and the fit to all other queries."""


def fit_calibration(labels: Sequence[Path], options: CalibrateOptions, *, command: str = "") -> Calibration:
    """Fit the scores of judges in labels folders, and of retrievers if given, to human grades.

    Precision and recall over all judged pairs are estimated from all labelled pairs, as a random sample, or from the
    pairs of the selection in the options. Raises `UsageError` without human grades, and `DataError` with too few
    labels.
    """
    if options.human is None:
        raise UsageError(f"human grades are needed to fit a calibration: give --human GRADES; {grade_first(labels)}")
    with tables.temporary() as db:
        people, *others = raters_of(db, labels, [options.human], scale=options.scale, consensus=True)
        judges = joined(rater for rater in others if rater.kind != "human")
        features = tuple(features_of(judges, bm25=options.bm25, dense=options.dense, language=options.language))
        judged = judged_by(judges, features, db, data=options.data)
        weights = chances(db, people.pairs, options.selection)
    known = known_of(judged, people)
    refuse_too_few(known)
    warn_of_positives_alone(known)
    among = choices(known.queries)
    held = held_out(known, features, among)
    fitted = best_fit(known, features, among)
    # A pair on which every judge failed gets no label, so it is not taken as positive.
    graded = answered(judges)[judged.pair]
    taken = graded & (relevances(fitted, judged.scores) >= options.line)
    said = cross_fitted(judged, held, fitted)
    blind = graded & (said >= options.line)
    theirs = people.grades_of(judged.pair)
    relevant = np.where(theirs >= 0, (theirs >= RELEVANT).astype(float), np.nan)
    sample = Judged(judged.query, taken, said, blind=blind, relevant=relevant, weight=weights[judged.pair])
    report = {
        "command": command,
        "human": str(options.human),
        **({"scale": options.scale} if options.scale else {}),
        "labels": [str(path) for path in labels],
        "pairs": len(known.pair),
        "queries": known.queries,
        "folds": min(FOLDS, known.queries),
        "models_of_folds": [f"{fold.model}, {VIEWS[fold.relative]}" for _, fold in held.folds],
        "judges": {judge.rater_id: judge.name for judge in judges},
        **compared(known, held, judges),
        "estimate": {"line": options.line, **label_quality(sample)},
    }
    worse = report.get("verdict") == WORSE
    update = {"judges": known_judges_of(judges), "worse_than_raw": worse, "report": plain(report)}
    return fitted.model_copy(update=update)


def judged_by(
    judges: Sequence[Rater], features: Sequence[Feature], db: DuckDBPyConnection, data: Path | None
) -> JudgedPairs:
    """Collect every pair judged by a judge, with its scores. Raises `UsageError` as `matrix` does."""
    pairs = judges[0].pairs
    pair = pairs_of(judges)
    scores = matrix(features, Scored(db, pairs, pair, data=data), {judge.rater_id: judge for judge in judges})
    return JudgedPairs(pair, pairs.query[pair], both_views(scores, pairs.query[pair]))


def compared(known: LabelledPairs, held: HeldOut, judges: Sequence[Rater]) -> dict[str, Any]:
    """Measure each judge and the calibration on held-out queries, and the gain of the calibration over the best judge.

    A judge without grades has only the AUC of its scores. If no judge has grades, there is no gain and no verdict.
    """
    after = Graded(
        known.query,
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
    scores = judge_scores(judge, known.pair)
    rows = np.isfinite(scores)
    return figure_interval(
        "auc", rated_columns(known.query[rows], known.grades[rows], 0 * known.grades[rows], score=scores[rows])
    )


def undefined_last(value: float | None) -> float:
    return -np.inf if value is None else value


def some(found: Graded, rows: NDArray[np.bool_]) -> Graded:
    """Select the pairs marked in `rows`, `[n]`."""
    return Graded(
        found.query[rows],
        found.human[rows],
        found.grades[rows],
        scores=found.scores[rows],
        probability=None if found.probability is None else found.probability[rows],
        base=found.base[rows],
    )


def known_of(judged: JudgedPairs, people: Rater) -> LabelledPairs:
    """Collect the pairs with a human grade and at least one score."""
    grades = people.grades_of(judged.pair)
    kept = np.isfinite(judged.scores[0]).any(1) & (grades >= 0)
    return LabelledPairs(
        judged.pair[kept], judged.scores[:, kept], grades[kept].astype(np.int64), query=judged.query[kept]
    )


def refuse_too_few(known: LabelledPairs) -> None:
    """Raise `DataError`, with the missing numbers, if there are too few labels for a calibration."""
    relevant = int((known.grades >= RELEVANT).sum())
    counts = {
        f"labelled pairs (at least {LEAST_PAIRS} needed)": (len(known.pair), LEAST_PAIRS),
        f"of them with grade 2 or 3 (at least {LEAST_OF_A_CLASS} needed)": (relevant, LEAST_OF_A_CLASS),
        f"with grade 0 or 1 (at least {LEAST_OF_A_CLASS} needed)": (len(known.pair) - relevant, LEAST_OF_A_CLASS),
        f"queries (at least {LEAST_QUERIES} needed)": (known.queries, LEAST_QUERIES),
    }
    if any(have < need for have, need in counts.values()):
        found = ", ".join(f"{have} {what}" for what, (have, _) in counts.items())
        raise DataError(
            f"too few judged pairs with human grades for a calibration: {found}; labelkit select chooses pairs to grade"
            f"{'' if relevant else BINARY}"
        )


def warn_of_positives_alone(known: LabelledPairs) -> None:
    """Warn if people graded only relevant passages of many queries, as qrels with one positive per query do."""
    _, place = np.unique(known.query, return_inverse=True)
    alone = int((np.bincount(place, known.grades < RELEVANT) == 0).sum())
    if alone * MANY_ALONE >= known.queries:
        log.warning(
            f"of {alone} of {known.queries} queries only relevant passages have human grades, so the calibration takes "
            "relevant passages for more frequent than they are: give it the grades of queries whose judged passages "
            "were all graded, or drawn at random (labelkit review)"
        )


def choices(queries: int) -> Sequence[Choice]:
    """List the models and views to choose from, for a number of labelled queries."""
    return list(product(MODELS, VIEWS)) if queries >= ENOUGH_QUERIES else [FIXED]


def held_out(known: LabelledPairs, features: tuple[Feature, ...], among: Sequence[Choice]) -> HeldOut:
    """Predict every labelled pair by a model that was chosen and fitted on other queries."""
    above = np.zeros((len(known.pair), GRADES - 1))
    grades, base = np.zeros(len(known.pair), dtype=int), np.zeros(len(known.pair))
    fits = []
    for test in folds(known, FOLDS):
        train = part(known, ~test)
        fitted = best_fit(train, features, among)
        fits.append((np.unique(known.query[test]), fitted))
        above[test] = predict(fitted, known.scores[:, test])
        grades[test] = grades_of(fitted, above[test])
        base[test] = np.mean(train.grades >= RELEVANT)
    return HeldOut(above, grades, base, folds=fits)


def cross_fitted(judged: JudgedPairs, held: HeldOut, fitted: Calibration) -> Floats:
    """Compute `[n]` P(grade >= 2) of all judged pairs; a labelled query is predicted by the fit from which it is held
    out.

    `fitted`: the fit to all labels, which predicts queries without labels.
    """
    said = relevances(fitted, judged.scores)
    for queries, fold in held.folds:
        rows = np.flatnonzero(np.isin(judged.query, queries))
        said[rows] = relevances(fold, judged.scores[:, rows])
    return said


def best_fit(known: LabelledPairs, features: tuple[Feature, ...], among: Sequence[Choice]) -> Calibration:
    """Choose the model and view with the lowest log loss of human grades on held-out queries, and fit it to all
    queries.
    """
    losses = dict.fromkeys(among, 0.0)
    tried = some_queries(known, CHOSEN_FROM) if len(losses) > 1 else known
    for test in folds(tried, INNER_FOLDS) if len(losses) > 1 else ():
        train = part(tried, ~test)
        for model, relative in losses:
            fitted = fit(features, train.scores, train.grades, model=model, relative=relative)
            probs = by_grade(predict(fitted, tried.scores[:, test]))
            taken = probs[np.arange(test.sum()), tried.grades[test]]
            losses[model, relative] -= float(np.log(np.maximum(taken, FLOOR)).sum())
    model, relative = min(losses, key=lambda choice: losses[choice])
    fitted = fit(features, known.scores, known.grades, model=model, relative=relative)
    return with_thresholds(fitted, known.scores, known.grades)


def folds(known: LabelledPairs, count: int) -> Iterator[NDArray[np.bool_]]:
    """Yield for each of at most `count` folds which pairs are held out, `[n]`; a query is never split."""
    from sklearn.model_selection import GroupKFold

    splits = GroupKFold(min(count, known.queries)).split(known.query, groups=known.query)
    for _, rows in splits:
        test = np.zeros(len(known.pair), dtype=bool)
        test[rows] = True
        yield test


def part(known: LabelledPairs, rows: NDArray[np.bool_]) -> LabelledPairs:
    """Select the pairs marked in `rows`, `[n]`."""
    return LabelledPairs(known.pair[rows], known.scores[:, rows], known.grades[rows], query=known.query[rows])


def some_queries(known: LabelledPairs, most: int) -> LabelledPairs:
    """Draw random queries with at most `most` labelled pairs together, but at least as many queries as folds."""
    if len(known.pair) <= most:
        return known
    _, query, sizes = np.unique(known.query, return_inverse=True, return_counts=True)
    order = np.random.default_rng(0).permutation(len(sizes))
    count = max(INNER_FOLDS, int(np.searchsorted(np.cumsum(sizes[order]), most, side="right")))
    return part(known, np.isin(query, order[:count]))


def raw_grades(judge: Rater, known: LabelledPairs, base: Floats) -> tuple[NDArray[np.bool_], Graded]:
    """Return the mask `[n]` of labelled pairs that a judge graded, and its own grades, scores and probabilities."""
    given = judge.grades_of(known.pair) >= 0
    mine = judge.only(known.pair[given])
    return given, Graded(
        known.query[given],
        known.grades[given],
        mine.grade.astype(np.int64),
        scores=mine.rank_score,
        probability=None if np.isnan(mine.relevance).any() else mine.relevance,
        base=base[given],
    )
