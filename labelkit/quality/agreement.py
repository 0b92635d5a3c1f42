"""Agreement of raters (people and judges): every two of them are compared on the pairs that both graded."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement_by_query import counts_by_query
from labelkit.quality.agreement_metrics import (
    FIGURES,
    FIGURES_OF_SCORES,
    GRADES,
    UNEQUAL,
    Floats,
    Rated,
    alpha,
    coincidences,
    dense,
    figure_differences,
    figure_intervals,
    kappa,
    rated_columns,
)
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.raters import SCORED, Rater
from labelkit.statistics.intervals import SIGNED, Estimate, error_of_counts, estimate, standard_error
from labelkit.storage import tables

BLOCK = 262_144
"""Number of pairs whose coincidences are in memory at a time."""

NEEDS_TWO = "agreement needs two judges or people: give --human GRADES, or a second labels folder"


class Spread(NamedTuple):
    """Least, median and greatest value of a figure over the queries for which it is defined."""

    least: float
    median: float
    most: float
    queries: int


class Advice(NamedTuple):
    """The numbers of labels and queries that would halve the confidence interval of kappa."""

    labels: int
    """Number of additional pairs with a grade by the reference."""
    queries: int
    """Number of new queries with these pairs."""
    same_queries: int | None
    """Number of additional pairs on the same queries that would suffice instead; None if no number would."""

    def __str__(self) -> str:
        if self.same_queries is None:
            return (
                f"{self.labels:,} more labels on {self.queries:,} new queries would halve the interval of kappa; "
                "more labels on the same queries would not"
            )
        return (
            f"{self.labels:,} more labels on {self.queries:,} new queries, or {self.same_queries:,} more labels on the "
            "same queries, would halve the interval of kappa"
        )


class Comparison(NamedTuple):
    """The figures of a judge compared with a reference, on the pairs that both graded."""

    reference: str
    reference_kind: str
    judge_id: str
    judge: str
    judge_kind: str
    pairs: int
    queries: int
    failures: int
    """Number of pairs with a grade by the reference but none by the judge."""
    figures: dict[str, Estimate]
    """Name in `labelkit.quality.agreement_metrics.FIGURES` -> value with its confidence interval."""
    spread: dict[str, Spread]
    """Name of a figure -> its range over the queries."""
    confusion: list[list[int]]
    """Number of pairs by grade. Rows: grade by the reference, 0 to 3; columns: grade by the judge."""
    advice: Advice | None


class JudgeDifference(NamedTuple):
    """The difference of two judges' figures, each compared with the same person, on pairs graded by all three."""

    reference: str
    judge_id: str
    judge: str
    other_id: str
    other: str
    pairs: int
    queries: int
    figures: dict[str, Estimate]
    """Name in `labelkit.quality.agreement_metrics.FIGURES` -> figure of the judge minus figure of the other, with its
    paired confidence interval.
    """


class Agreement(NamedTuple):
    """Comparisons of every two raters, and the agreement of all raters together."""

    comparisons: list[Comparison]
    raters: int
    alpha: Estimate
    """Krippendorff's ordinal alpha over all raters; pairs that a rater did not grade are missing values."""
    units: int
    """Number of pairs with grades by at least two raters."""
    differences: list[JudgeDifference]
    """Difference of every two judges, compared with every person who shares a pair with both."""


def agreement_of(labels: Sequence[Path], human: Sequence[Path], scale: str | None = None) -> Agreement:
    """Compute the agreement of all raters in labels folders and human qrels.

    Raises `UsageError` for fewer than two raters, and `DataError` if no pair was graded by two raters.
    """
    with tables.temporary() as db:
        return agree_raters(raters_of(db, labels, human, scale=scale))


def agree_raters(raters: Sequence[Rater]) -> Agreement:
    """Compare every two raters that have a pair in common.

    Raises `UsageError` for fewer than two raters, and `DataError` if none have a pair in common.
    """
    if len(raters) < 2:
        raise UsageError(NEEDS_TWO)
    # A reranker has no grades, so that nobody can be compared with it, only it with others.
    pairs = (pair if not pair[0].score_only else pair[::-1] for pair in combinations(raters, 2))
    found = [compare(one, other) for one, other in pairs if not one.score_only and have_common(one, other)]
    if not found:
        names = ", ".join(rater.name for rater in raters)
        raise DataError(f"{names} have no pair in common; are these grades of the same queries?")
    together, units = alpha_of_all(raters)
    return Agreement(found, len(raters), together, units=units, differences=judge_differences(raters))


def have_common(one: Rater, other: Rater) -> bool:
    """Return whether two raters judged at least one common pair."""
    return bool((one.rows(other.pair) >= 0).any())


def compare(reference: Rater, judge: Rater, only: NDArray[Any] | None = None) -> Comparison:
    """Compute every figure of a judge compared with a reference. A judge without grades has only the figures of its
    scores.

    `only`: numbers of the pairs to compare, increasing; None for all.
    """
    judged = judge if only is None else judge.only(only)
    theirs = reference.grades_of(judged.pair)
    both = theirs >= 0
    graded = both & (judged.grade == SCORED if judge.score_only else judged.graded)
    mine = judged.take(graded)
    pairs = rated_columns(mine.query, theirs[graded], np.maximum(mine.grade, 0), score=mine.rank_score)
    names = FIGURES_OF_SCORES if judge.score_only else tuple(FIGURES)
    return Comparison(
        reference=reference.name,
        reference_kind=reference.kind,
        judge_id=judge.rater_id,
        judge=judge.name,
        judge_kind=judge.kind,
        pairs=int(graded.sum()),
        queries=pairs.queries,
        failures=int(both.sum() - graded.sum()),
        figures={name: Estimate(None) for name in FIGURES} | figure_intervals(names, pairs),
        spread={name: found for name, found in spread_of(pairs).items() if name in names},
        confusion=[[0] * GRADES] * GRADES if judge.score_only else pairs.confusion(),
        advice=None if judge.score_only else advise(pairs),
    )


def judge_differences(raters: Sequence[Rater]) -> list[JudgeDifference]:
    """Compute the difference of every two judges, compared with every person, on the pairs that all three graded."""
    people = [rater for rater in raters if rater.kind == "human"]
    judges = [rater for rater in raters if rater.kind != "human"]
    found = [judge_difference(person, one, other) for person in people for one, other in combinations(judges, 2)]
    return [difference for difference in found if difference]


def judge_difference(reference: Rater, judge: Rater, other: Rater) -> JudgeDifference | None:
    """Compute the difference of two judges, compared with a reference; None if no pair was graded by all three."""
    pair = reference.pair[reference.graded]
    for rater in (judge, other):
        pair = pair[rater.grades_of(pair) >= 0]
    if not len(pair):
        return None
    theirs = reference.grades_of(pair)
    one, two = (
        rated_columns(mine.query, theirs, mine.grade, score=mine.rank_score)
        for mine in (judge.only(pair), other.only(pair))
    )
    return JudgeDifference(
        reference=reference.name,
        judge_id=judge.rater_id,
        judge=judge.name,
        other_id=other.rater_id,
        other=other.name,
        pairs=len(pair),
        queries=one.queries,
        figures=figure_differences(FIGURES, one, two),
    )


def spread_of(pairs: Rated) -> dict[str, Spread]:
    """Compute the least, median and greatest value of each figure over the queries for which it is defined."""
    values: dict[str, list[Floats]] = {name: [] for name in FIGURES}
    for counts, names in counts_by_query(pairs):
        for name in names:
            values[name].append(FIGURES[name].of(counts))
    found = {}
    for name, parts in values.items():
        known = np.concatenate([part[np.isfinite(part)] for part in parts] or [np.zeros(0)])
        if len(known):
            least, median, most = float(known.min()), float(np.median(known)), float(known.max())
            found[name] = Spread(least, median, most, queries=len(known))
    return found


def advise(pairs: Rated) -> Advice | None:
    """Compute the number of labels that would halve the confidence interval of kappa; None if it has no interval.

    The variance of a figure is the sum of a part between queries, which decreases with the number of queries, and a
    part within queries, which decreases with the number of labels. The jackknife over pairs estimates the second part,
    the jackknife over queries estimates the sum.
    """
    count = len(pairs.cell)

    def of(cells: Floats) -> float:
        return float(kappa(cells.reshape(GRADES, GRADES), UNEQUAL))

    clustered = standard_error(lambda draws: of(pairs.weighted(draws)), pairs.queries)
    single = error_of_counts(of, pairs.cell, GRADES**2)
    if not clustered or single is None:
        return None
    both, within = clustered**2, single**2
    left = both / 4 - max(0.0, both - within)
    same = round(count * (min(within, both) / left - 1)) if left > 0 else None
    return Advice(3 * count, 3 * pairs.queries, same)


def alpha_of_all(raters: Sequence[Rater]) -> tuple[Estimate, int]:
    """Compute Krippendorff's ordinal alpha over all raters, and the number of pairs that it uses."""
    pairs = raters[0].pairs
    counts = np.zeros((len(pairs.query), GRADES), dtype=np.int16)
    for rater in raters:
        counts[rater.pair[rater.graded], rater.grade[rater.graded]] += 1
    used = np.flatnonzero(counts.sum(1) > 1)
    query, queries = dense(pairs.query[used])
    by_query = np.zeros(queries * GRADES**2)
    for start in range(0, len(used), BLOCK):
        part = slice(start, start + BLOCK)
        cells = query[part, None].astype(np.int64) * GRADES**2 + np.arange(GRADES**2)
        np.add.at(by_query, cells.ravel(), coincidences(counts[used[part]]).ravel())
    matrices = by_query.reshape(queries, GRADES, GRADES)
    found = estimate(lambda draws: float(alpha(np.einsum("q,qab->ab", draws, matrices))), queries, SIGNED)
    return found, len(used)


def plain(value: Any) -> Any:
    """Convert nested named tuples and mappings to plain dicts and lists."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
