"""How far raters agree: people and judges, each against each, on the pairs that both graded."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from labelkit.corpora.qrels import read_qrels
from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement_metrics import (
    FIGURES,
    GRADES,
    GradedPair,
    Rated,
    alpha,
    coincidences,
    figure_difference,
    figure_interval,
    rated,
)
from labelkit.records import Judgement, PairIds
from labelkit.statistics.intervals import SIGNED, Estimate, estimate, standard_error
from labelkit.storage.labels import judgements_in


class Rater(NamedTuple):
    """Somebody who graded pairs. Pairs on which a judge failed have a judgement without a grade."""

    rater_id: str
    name: str
    kind: str
    """human, llm or imported."""
    judgements: dict[PairIds, Judgement]
    label_grades: tuple[int, ...] | None = None
    """Grade of each label behind the probabilities of its judgements."""
    imported: bool = False
    """Its grades were made elsewhere and imported."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What two labels folders must share for their judges to be the same: the id, or kind and name if imported.

        The id of an imported judge contains the sha256 of the imported file.
        """
        return (self.kind, self.name) if self.imported else (self.rater_id,)


class Spread(NamedTuple):
    """A figure query by query, over the queries where it is defined."""

    least: float
    median: float
    most: float
    queries: int


class Advice(NamedTuple):
    """What it takes to halve the interval of kappa."""

    labels: int
    """Pairs graded by the reference, so many more."""
    queries: int
    """On so many new queries."""
    same_queries: int | None
    """So many more labels on the same queries would do as well; None where no number would."""

    def __str__(self) -> str:
        if self.same_queries is None:
            return (
                f"{self.labels:,} more labels, on {self.queries:,} new queries, halve the interval of kappa; "
                "more labels on the same queries do not"
            )
        return (
            f"{self.labels:,} more labels on {self.queries:,} new queries, or {self.same_queries:,} more on the same "
            "ones, halve the interval of kappa"
        )


class Comparison(NamedTuple):
    """Two raters on the pairs that both graded; precision, recall and AUC take the reference for the truth."""

    reference: str
    reference_kind: str
    judge_id: str
    judge: str
    judge_kind: str
    pairs: int
    queries: int
    failures: int
    """Pairs with a grade of the reference for which the judge gave none."""
    figures: dict[str, Estimate]
    """Name in `labelkit.quality.agreement_metrics` -> value with its interval."""
    spread: dict[str, Spread]
    """The same figures query by query."""
    confusion: list[list[int]]
    """Rows: grade of the reference, 0 to 3; columns: the judge's."""
    advice: Advice | None


class JudgeDifference(NamedTuple):
    """Two judges against the same person, on the pairs that all three graded."""

    reference: str
    judge_id: str
    judge: str
    other_id: str
    other: str
    pairs: int
    queries: int
    figures: dict[str, Estimate]
    """Name in `labelkit.quality.agreement_metrics` -> figure of the judge minus figure of the other, with its paired
    interval."""


class Agreement(NamedTuple):
    """Every comparison, and the agreement of all raters together."""

    comparisons: list[Comparison]
    raters: int
    alpha: Estimate
    """Krippendorff's ordinal alpha over all raters; pairs that a rater did not grade are missing values."""
    units: int
    """Pairs that at least two raters graded."""
    differences: list[JudgeDifference]
    """Every two judges against every person with whom both have a pair in common."""


def agreement_of(labels: Sequence[Path], human: Sequence[Path]) -> Agreement:
    """Agreement of all raters of some labels folders and human qrels.

    Raises `UsageError` for fewer than two raters, and `DataError` where no two graded the same pair.
    """
    raters = raters_of(labels, human)
    if len(raters) < 2:
        raise UsageError("agreement needs two raters: give --human QRELS, or a second labels folder")
    return agree_raters(raters)


def agree_raters(raters: Sequence[Rater]) -> Agreement:
    """Every two raters that have a pair in common."""
    found = [
        compare(one, other) for one, other in combinations(raters, 2) if set(one.judgements) & set(other.judgements)
    ]
    if not found:
        names = ", ".join(rater.name for rater in raters)
        raise DataError(f"{names} have no pair in common; are these grades of the same queries?")
    together, units = alpha_of_all(raters)
    return Agreement(found, len(raters), together, units=units, differences=judge_differences(raters))


def raters_of(labels: Iterable[Path], human: Iterable[Path]) -> list[Rater]:
    """People first, those of the qrels before others, then the judges of the folders."""
    raters = []
    for folder in labels:
        judgements, judges = judgements_in(folder)
        for judge in judges:
            mine = {(row.query_id, row.passage_id): row for row in judgements if row.judge_id == judge.judge_id}
            imported = judge.engine is None and judge.method is None
            raters.append(
                Rater(
                    judge.judge_id,
                    judge.name,
                    judge.kind,
                    judgements=mine,
                    label_grades=judge.label_grades,
                    imported=imported,
                )
            )
    return sorted([*map(human_rater, human), *raters], key=lambda rater: rater.kind != "human")


def joined(raters: Iterable[Rater]) -> list[Rater]:
    """One rater for each identity, with its judgements in all labels.

    Raises `UsageError` where it judged a pair in two labels folders.
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


def human_rater(path: Path) -> Rater:
    """The grades of a qrels file as those of one person."""
    rows = {
        (query_id, pid): Judgement(query_id=query_id, passage_id=pid, judge_id=str(path), grade=grade)
        for query_id, graded in read_qrels(path).items()
        for pid, grade in graded.items()
    }
    return Rater(str(path), path.name, "human", judgements=rows)


def compare(reference: Rater, judge: Rater, only: Iterable[PairIds] | None = None) -> Comparison:
    """Every figure for one rater against another, on all pairs or `only` some."""
    some = judge.judgements if only is None else judge.judgements.keys() & set(only)
    both = [
        (reference.judgements[pair], judge.judgements[pair])
        for pair in sorted(some)
        if pair in reference.judgements and reference.judgements[pair].grade is not None
    ]
    graded = [(one, other) for one, other in both if other.grade is not None]
    pairs = rated_pairs(graded)
    return Comparison(
        reference=reference.name,
        reference_kind=reference.kind,
        judge_id=judge.rater_id,
        judge=judge.name,
        judge_kind=judge.kind,
        pairs=len(graded),
        queries=pairs.queries,
        failures=len(both) - len(graded),
        figures=measure(pairs) if graded else {name: Estimate(None) for name in FIGURES},
        spread=spread_of(graded),
        confusion=pairs.confusion(np.ones(pairs.queries, dtype=np.int64)).astype(int).tolist(),
        advice=advise(pairs) if graded else None,
    )


def judge_differences(raters: Sequence[Rater]) -> list[JudgeDifference]:
    """Compare every two judges against every person, on the pairs that all three graded."""
    people = [rater for rater in raters if rater.kind == "human"]
    judges = [rater for rater in raters if rater.kind != "human"]
    found = [judge_difference(person, one, other) for person in people for one, other in combinations(judges, 2)]
    return [difference for difference in found if difference]


def judge_difference(reference: Rater, judge: Rater, other: Rater) -> JudgeDifference | None:
    """Compare two judges against one reference; None where no pair was graded by all three."""
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
    """Pairs of judgements as arrays; where the judge gave no score, its grade is the score."""
    return rated(
        GradedPair(
            query_id=one.query_id,
            reference=one.grade or 0,
            judged=other.grade or 0,
            score=other.rank_score,
        )
        for one, other in graded
    )


def measure(pairs: Rated) -> dict[str, Estimate]:
    """Every figure with its interval."""
    return {name: figure_interval(name, pairs) for name in FIGURES}


def spread_of(graded: Sequence[tuple[Judgement, Judgement]]) -> dict[str, Spread]:
    """Least, median and greatest value of each figure over the queries that define it."""
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
    """How many more labels halve the interval of kappa; None where it has none.

    The variance of a figure is a part between queries, which falls with their number alone, and a part within them,
    which falls with the number of labels. Leaving out pairs shows the second, leaving out queries shows both.
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
    """Ordinal alpha over all raters, and the number of pairs that it rests on."""
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
    """The grade that a rater gave a pair, if any."""
    row = rater.judgements.get(pair)
    return row.grade if row else None


def plain(value: Any) -> Any:
    """Named tuples as dicts, all the way down."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
