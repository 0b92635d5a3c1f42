"""Agreement of raters (people and judges): every two of them are compared on the pairs that both graded."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from labelkit.corpora.answers import tool_of
from labelkit.corpora.human import human_grades, human_qrels
from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement_metrics import (
    FIGURES,
    FIGURES_OF_SCORES,
    GRADES,
    GradedPair,
    Rated,
    alpha,
    coincidences,
    figure_difference,
    figure_interval,
    rated,
)
from labelkit.records import Judge, Judgement, PairIds
from labelkit.statistics.intervals import SIGNED, Estimate, estimate, standard_error
from labelkit.storage.labels import judgements_in


class Rater(NamedTuple):
    """A person or model that graded pairs. A pair on which it failed has a judgement without a grade."""

    rater_id: str
    name: str
    kind: str
    """human, llm or imported."""
    judgements: dict[PairIds, Judgement]
    label_grades: tuple[int, ...] | None = None
    """Grade of each label to which the probabilities of its judgements refer."""
    family: str | None = None
    """Families of the model; None if they are unknown."""
    imported: bool = False
    """Whether its grades were made with another tool and imported."""

    @property
    def score_only(self) -> bool:
        """Whether the rater gives scores without grades, as a reranker does."""
        rows = self.judgements.values()
        return any(row.score_only for row in rows) and all(row.grade is None for row in rows)

    @property
    def identity(self) -> tuple[str, ...]:
        """The key by which judges of two labels folders are the same: the id, or for imported judges kind and name.

        The id of an imported judge contains the sha256 of the imported file.
        """
        return (self.kind, self.name) if self.imported else (self.rater_id,)


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
    raters = raters_of(labels, human, scale)
    if len(raters) < 2:
        raise UsageError("agreement needs two judges or people: give --human GRADES, or a second labels folder")
    return agree_raters(raters)


def agree_raters(raters: Sequence[Rater]) -> Agreement:
    """Compare every two raters that have a pair in common. Raises `DataError` if none have."""
    # A reranker has no grades, so that nobody can be compared with it, only it with others.
    pairs = (pair if not pair[0].score_only else pair[::-1] for pair in combinations(raters, 2))
    found = [
        compare(one, other)
        for one, other in pairs
        if not one.score_only and set(one.judgements) & set(other.judgements)
    ]
    if not found:
        names = ", ".join(rater.name for rater in raters)
        raise DataError(f"{names} have no pair in common; are these grades of the same queries?")
    together, units = alpha_of_all(raters)
    return Agreement(found, len(raters), together, units=units, differences=judge_differences(raters))


def raters_of(labels: Iterable[Path], human: Iterable[Path], scale: str | None = None) -> list[Rater]:
    """Read all raters: people from the human grades, then people from the folders, then the other judges of the
    folders.

    `scale` is the text of the scale of the human grades if they are not 0 to 3.
    """
    raters = [rater for folder in labels for rater in raters_in(*judgements_in(folder))]
    people = [rater for path in human for rater in human_raters(path, scale)]
    return sorted([*people, *raters], key=lambda rater: rater.kind != "human")


def raters_in(judgements: Iterable[Judgement], judges: Iterable[Judge]) -> list[Rater]:
    """Make a rater of each judge, with its judgements."""
    by_judge: dict[str, dict[PairIds, Judgement]] = {}
    for row in judgements:
        by_judge.setdefault(row.judge_id, {})[row.query_id, row.passage_id] = row
    return [
        Rater(
            judge.judge_id,
            judge.name,
            judge.kind,
            judgements=by_judge.get(judge.judge_id, {}),
            label_grades=judge.label_grades,
            family=judge.family,
            imported=judge.engine is None and judge.method is None,
        )
        for judge in judges
    ]


def joined(raters: Iterable[Rater]) -> list[Rater]:
    """Join raters of the same identity to one rater with all their judgements.

    Raises `UsageError` if a rater judged the same pair in two labels folders.
    """
    found: dict[tuple[str, ...], Rater] = {}
    for rater in raters:
        if rater.identity not in found:
            found[rater.identity] = rater
            continue
        earlier = found[rater.identity]
        if twice := sorted(earlier.judgements.keys() & rater.judgements.keys()):
            raise UsageError(
                f"judge {rater.name!r} ({rater.kind}) judged query {twice[0][0]!r}, passage {twice[0][1]!r} in two of "
                "these labels; give one of them, or import the other under another name"
            )
        found[rater.identity] = earlier._replace(judgements=earlier.judgements | rater.judgements)
    return list(found.values())


def human_raters(path: Path, scale: str | None = None) -> list[Rater]:
    """Read human grades as one rater per person; a qrels file is one person with the name of the file."""
    judgements, judges = human_grades(path, scale)
    if path.is_file() and not tool_of(path):
        return [rater._replace(rater_id=str(path), name=path.name) for rater in raters_in(judgements, judges)]
    return raters_in(judgements, judges)


def consensus_rater(path: Path, scale: str | None = None) -> Rater:
    """Read human grades as one rater, with the median grade of each pair."""
    rows = {
        (query_id, passage_id): Judgement(query_id=query_id, passage_id=passage_id, judge_id=str(path), grade=grade)
        for query_id, graded in human_qrels(path, scale).items()
        for passage_id, grade in graded.items()
    }
    return Rater(str(path), path.name, "human", judgements=rows)


def compare(reference: Rater, judge: Rater, only: Iterable[PairIds] | None = None) -> Comparison:
    """Compute every figure of a judge compared with a reference, on all pairs or `only` some.

    A judge without grades has only the figures of its scores.
    """
    some = judge.judgements if only is None else judge.judgements.keys() & set(only)
    both = [
        (reference.judgements[pair], judge.judgements[pair])
        for pair in sorted(some)
        if pair in reference.judgements and reference.judgements[pair].grade is not None
    ]
    names = FIGURES_OF_SCORES if judge.score_only else tuple(FIGURES)
    graded = [(one, other) for one, other in both if other.grade is not None or (judge.score_only and other.score_only)]
    pairs = rated_pairs(graded)
    confusion = pairs.confusion(np.ones(pairs.queries, dtype=np.int64)).astype(int)
    return Comparison(
        reference=reference.name,
        reference_kind=reference.kind,
        judge_id=judge.rater_id,
        judge=judge.name,
        judge_kind=judge.kind,
        pairs=len(graded),
        queries=pairs.queries,
        failures=len(both) - len(graded),
        figures={name: Estimate(None) for name in FIGURES} | (measure(pairs, names) if graded else {}),
        spread={name: found for name, found in spread_of(graded).items() if name in names},
        confusion=(0 * confusion if judge.score_only else confusion).tolist(),
        advice=advise(pairs) if graded and not judge.score_only else None,
    )


def judge_differences(raters: Sequence[Rater]) -> list[JudgeDifference]:
    """Compute the difference of every two judges, compared with every person, on the pairs that all three graded."""
    people = [rater for rater in raters if rater.kind == "human"]
    judges = [rater for rater in raters if rater.kind != "human"]
    found = [judge_difference(person, one, other) for person in people for one, other in combinations(judges, 2)]
    return [difference for difference in found if difference]


def judge_difference(reference: Rater, judge: Rater, other: Rater) -> JudgeDifference | None:
    """Compute the difference of two judges, compared with a reference; None if no pair was graded by all three."""
    common = sorted(reference.judgements.keys() & judge.judgements.keys() & other.judgements.keys())
    all_three = [pair for pair in common if None not in [grade_of(rater, pair) for rater in (reference, judge, other)]]
    if not all_three:
        return None
    one, two = (
        rated_pairs([(reference.judgements[pair], rater.judgements[pair]) for pair in all_three])
        for rater in (judge, other)
    )
    return JudgeDifference(
        reference=reference.name,
        judge_id=judge.rater_id,
        judge=judge.name,
        other_id=other.rater_id,
        other=other.name,
        pairs=len(all_three),
        queries=one.queries,
        figures={name: figure_difference(name, one, two) for name in FIGURES},
    )


def rated_pairs(graded: Sequence[tuple[Judgement, Judgement]]) -> Rated:
    """Convert pairs of judgements to arrays. A judgement without a score has its grade as score."""
    return rated(
        GradedPair(
            query_id=one.query_id,
            reference=one.grade or 0,
            judged=other.grade or 0,
            score=other.rank_score,
        )
        for one, other in graded
    )


def measure(pairs: Rated, names: Iterable[str]) -> dict[str, Estimate]:
    """Compute figures with their confidence intervals."""
    return {name: figure_interval(name, pairs) for name in names}


def spread_of(graded: Sequence[tuple[Judgement, Judgement]]) -> dict[str, Spread]:
    """Compute the least, median and greatest value of each figure over the queries for which it is defined."""
    by_query: dict[str, list[tuple[Judgement, Judgement]]] = {}
    for one, other in graded:
        by_query.setdefault(one.query_id, []).append((one, other))
    once = np.ones(1, dtype=np.int64)
    alone = [rated_pairs(group) for group in by_query.values()]
    found = {}
    for name, figure in FIGURES.items():
        values = [value for value in (figure.of(pairs, once) for pairs in alone) if np.isfinite(value)]
        if values:
            found[name] = Spread(min(values), median(values), max(values), queries=len(values))
    return found


def advise(pairs: Rated) -> Advice | None:
    """Compute the number of labels that would halve the confidence interval of kappa; None if it has no interval.

    The variance of a figure is the sum of a part between queries, which decreases with the number of queries, and a
    part within queries, which decreases with the number of labels. The jackknife over pairs estimates the second part,
    the jackknife over queries estimates the sum.
    """
    figure, count = FIGURES["kappa"].of, len(pairs.query)
    alone = pairs._replace(query=np.arange(count), queries=count)
    clustered = standard_error(lambda draws: figure(pairs, draws), pairs.queries)
    single = standard_error(lambda draws: figure(alone, draws), count)
    if not clustered or single is None:
        return None
    both, within = clustered**2, single**2
    left = both / 4 - max(0.0, both - within)
    same = round(count * (min(within, both) / left - 1)) if left > 0 else None
    return Advice(3 * count, 3 * pairs.queries, same)


def alpha_of_all(raters: Sequence[Rater]) -> tuple[Estimate, int]:
    """Compute Krippendorff's ordinal alpha over all raters, and the number of pairs that it uses."""
    keys = sorted({pair for rater in raters for pair in rater.judgements})
    ratings = np.array(
        [[np.nan if (grade := grade_of(rater, pair)) is None else grade for pair in keys] for rater in raters],
        dtype=float,
    )
    matrices = coincidences(ratings)  # [pairs, 4, 4]
    used = matrices.sum((1, 2)) > 0
    names = [query_id for (query_id, _), kept in zip(keys, used, strict=True) if kept]
    numbers = {query_id: number for number, query_id in enumerate(dict.fromkeys(names))}
    by_query = np.zeros((len(numbers), GRADES, GRADES))
    np.add.at(by_query, [numbers[query_id] for query_id in names], matrices[used])
    found = estimate(lambda draws: alpha(np.einsum("q,qab->ab", draws, by_query)), len(numbers), SIGNED)
    return found, int(used.sum())


def grade_of(rater: Rater, pair: PairIds) -> int | None:
    """Return the grade that a rater gave a pair, or None."""
    row = rater.judgements.get(pair)
    return row.grade if row else None


def answered(raters: Iterable[Rater], pair: PairIds) -> bool:
    """Return whether any rater gave a pair a grade or a score."""
    rows = [rater.judgements.get(pair) for rater in raters]
    return any(row is not None and row.failure is None for row in rows)


def plain(value: Any) -> Any:
    """Convert nested named tuples and mappings to plain dicts and lists."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
