"""From scores to probabilities that mean something: fit on human grades, test on queries that the fit has not seen.

With enough queries the model is chosen by cross-validation over queries; with fewer it is fixed, since the choice then
follows chance. The figures that are reported come from an outer loop of the same kind, so that neither the fit, nor the
thresholds between grades, nor the choice has seen the query that is scored.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement import Rater, grade_of, joined, plain, raters_of
from labelkit.quality.agreement_metrics import GRADES, RELEVANT, Floats, Ints
from labelkit.quality.calibration.features import Feature, both_views, features_of, matrix
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

LEAST_PAIRS = 50
LEAST_OF_A_CLASS = 10
LEAST_QUERIES = 3
ENOUGH_QUERIES = 20
"""From so many queries on, the model is chosen; with fewer it is `FIXED`."""
FOLDS = 10
"""Of the outer loop, at most; each query stands in one fold."""
INNER_FOLDS = 5
"""Of the choice of a model, at most."""
VIEWS = {False: "absolute", True: "within queries"}
"""Whether scores are taken against the mean of their query -> what a reader calls that."""
FIXED = ("ordinal", False)
"""Model and view with few queries."""

Choice = tuple[str, bool]
"""A model, and whether scores are taken against the mean of their query."""


class JudgedPairs(NamedTuple):
    """The pairs that a judge judged."""

    pairs: list[PairIds]
    scores: Floats
    """`[2, n, F]` both views of their scores."""


class LabelledPairs(NamedTuple):
    """The pairs that people graded, with every score."""

    pairs: list[PairIds]
    scores: Floats
    """`[2, n, F]` both views of them."""
    grades: Ints
    query: Ints
    """Number of each pair's query."""
    queries: int


class HeldOut(NamedTuple):
    """Predictions for the labelled pairs by models that did not see their queries."""

    above: Floats
    """`[n, 3]` probabilities of at least grade 1, 2 and 3."""
    grades: Ints
    base: Floats
    """`[n]` share of relevant pairs among the training queries of each pair's fold."""
    folds: list[tuple[frozenset[str], Calibration]]
    """The queries of each fold, and the fit to the others."""


def fit_calibration(
    labels: Sequence[Path],
    options: CalibrateOptions,
    *,
    weights: Mapping[PairIds, float] | None = None,
    command: str = "",
) -> Calibration:
    """Fit the judges of some labels folders, and retrievers where asked for, to human grades.

    `weights` says which labelled pairs the estimate of precision and recall over all judged pairs may use, each with
    1 / its chance of being chosen (default: all of them, as a random sample). Raises `UsageError` without human grades,
    and `DataError` where the labels are too few.
    """
    if options.human is None:
        raise UsageError("a calibration is fitted to human grades: give --human QRELS")
    people, *others = raters_of(labels, [options.human])
    judges = joined(rater for rater in others if rater.kind != "human")
    features = tuple(features_of(judges, bm25=options.bm25, dense=options.dense))
    judged = judged_by(judges, features, options.data)
    known = known_of(judged, people)
    refuse_too_few(known)
    among = choices(known.queries)
    held = held_out(known, features, among)
    fitted = best_fit(known, features, among)
    # A pair on which every judge failed gets no label, and so is no positive.
    graded = np.array([any(grade_of(judge, pair) is not None for judge in judges) for pair in judged.pairs], dtype=bool)
    taken = graded & (relevance(predict(fitted, judged.scores)) >= options.line)
    said = cross_fitted(judged, held, fitted)
    report = {
        "command": command,
        "human": str(options.human),
        "labels": [str(path) for path in labels],
        "pairs": len(known.pairs),
        "queries": known.queries,
        "folds": min(FOLDS, known.queries),
        "models_of_folds": [f"{fold.model}, {VIEWS[fold.relative]}" for _, fold in held.folds],
        "judges": {judge.rater_id: judge.name for judge in judges},
        **compared(known, held, judges),
        "estimate": {
            "line": options.line,
            **label_quality(judged.pairs, taken, said, relevant=relevant_pairs(people), weights=weights),
        },
    }
    update = {"judges": known_judges_of(judges), "worse_than_raw": report["verdict"] == WORSE, "report": plain(report)}
    return fitted.model_copy(update=update)


def judged_by(judges: Sequence[Rater], features: Sequence[Feature], data: Path | None) -> JudgedPairs:
    """Every pair that a judge judged, sorted, with its scores. Raises `UsageError` as `matrix` does."""
    pairs = sorted({pair for judge in judges for pair in judge.judgements})
    scores = matrix(features, pairs, {judge.rater_id: judge for judge in judges}, data=data)
    return JudgedPairs(pairs, both_views(scores, [query_id for query_id, _ in pairs]))


def compared(known: LabelledPairs, held: HeldOut, judges: Sequence[Rater]) -> dict[str, Any]:
    """Figures of each judge and of the calibration on held-out queries, and their difference from the best judge."""
    after = Graded(
        [query_id for query_id, _ in known.pairs],
        known.grades,
        held.grades,
        scores=by_grade(held.above) @ np.arange(GRADES),
        probability=relevance(held.above),
        base=held.base,
    )
    raw = {judge.rater_id: raw_grades(judge, known, held.base) for judge in judges}
    before = {judge_id: quality(found) for judge_id, (_, found) in raw.items()}
    best = max(before, key=lambda judge_id: undefined_last(before[judge_id]["kappa"].value))
    rows, found = raw[best]
    change = gain(some(after, rows), found)
    return {
        "before": before,
        "after": quality(after),
        "gain": {"over": best, **change},
        "verdict": verdict(change["kappa"]),
    }


def undefined_last(value: float | None) -> float:
    return -np.inf if value is None else value


def some(found: Graded, rows: NDArray[np.bool_]) -> Graded:
    """The marked pairs, `[n]`."""
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
    """The pairs that people graded as arrays; pairs without any score are left out."""
    scored = np.isfinite(judged.scores[0]).any(1)
    kept = [row for row, pair in enumerate(judged.pairs) if scored[row] and pair in people.judgements]
    pairs = [judged.pairs[row] for row in kept]
    grades = np.array([people.judgements[pair].grade or 0 for pair in pairs], dtype=int)
    names = sorted({query_id for query_id, _ in pairs})
    query = np.array([names.index(query_id) for query_id, _ in pairs], dtype=int)
    return LabelledPairs(pairs, judged.scores[:, kept], grades, query=query, queries=len(names))


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


def choices(queries: int) -> Sequence[Choice]:
    """The models and views to choose from, for so many labelled queries."""
    return list(product(MODELS, VIEWS)) if queries >= ENOUGH_QUERIES else [FIXED]


def held_out(known: LabelledPairs, features: tuple[Feature, ...], among: Sequence[Choice]) -> HeldOut:
    """Predictions for every pair from models fitted, and chosen, on other queries."""
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
    """`[n]` P(grade >= 2) of all judged pairs, each labelled query by the fit of the fold that it is held out of.

    `fitted`: the fit to all labels, for queries without labels.
    """
    said = relevance(predict(fitted, judged.scores)).copy()
    for names, fold in held.folds:
        rows = np.array([query_id in names for query_id, _ in judged.pairs], dtype=bool)
        said[rows] = relevance(predict(fold, judged.scores[:, rows]))
    return said


def best_fit(known: LabelledPairs, features: tuple[Feature, ...], among: Sequence[Choice]) -> Calibration:
    """The model and view with the least log loss of the human grades on held-out queries, fitted to all of them."""
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
    """Which pairs are held out, fold by fold, in at most `count` folds: whole queries."""
    from sklearn.model_selection import GroupKFold

    splits = GroupKFold(min(count, known.queries)).split(known.query, groups=known.query)
    for _, rows in splits:
        test = np.zeros(len(known.pairs), dtype=bool)
        test[rows] = True
        yield test


def part(known: LabelledPairs, rows: NDArray[np.bool_]) -> LabelledPairs:
    """Some of the pairs; their queries numbered anew."""
    names, query = np.unique(known.query[rows], return_inverse=True)
    pairs = [pair for pair, keep in zip(known.pairs, rows, strict=True) if keep]
    return LabelledPairs(pairs, known.scores[:, rows], known.grades[rows], query=query, queries=len(names))


def raw_grades(judge: Rater, known: LabelledPairs, base: Floats) -> tuple[NDArray[np.bool_], Graded]:
    """The labelled pairs to which a judge gave a grade, `[n]`, and its own grades, scores and probabilities of them."""
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
