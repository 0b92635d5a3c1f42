"""Biases of a judge: effects of length, shared words, own writing and list position on its scores; and its drift.

An effect is a slope: the rise of the judge's score, in standard deviations of its scores, per unit of a property,
between passages of one query with the same human grade. Without human grades, all passages of a query are compared, and
the effect then includes properties that relevant passages have.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labelkit.corpora.beir import Data, check_ids, read_data
from labelkit.corpora.words import overlap
from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement import Rater, joined, raters_of
from labelkit.quality.agreement_metrics import RELEVANT
from labelkit.quality.options import BiasOptions
from labelkit.records import Judgement, PairIds, Passage, Query
from labelkit.statistics.intervals import Estimate, estimate, mean, ratio, share
from labelkit.storage import folders
from labelkit.storage.dataset import KIND as DATASET
from labelkit.storage.labels import read_records

BINS = 5
"""Number of points of a curve: fifths of the pairs by the property."""


class Effect(NamedTuple):
    """The rise of a judge's score with a property, between otherwise comparable passages."""

    judge_id: str
    judge: str
    name: str
    """Key in `EFFECTS`."""
    unit: str
    """The change of the property to which the slope refers, such as twice as many words."""
    slope: Estimate
    """Rise of the score per unit, in standard deviations of the score."""
    pairs: int
    curve: list[dict[str, float]]
    """For each fifth of the pairs: mean `property`, and mean `score` minus the mean for the query and human grade."""


class Consistency(NamedTuple):
    """Agreement of a judge with itself over several orders of the same list."""

    judge_id: str
    judge: str
    orders: int
    pairs: int
    same: Estimate
    """Share of pairs of orders that agree on the relevance of a passage."""
    by_place: list[dict[str, float]]
    """For each fifth of the list: mean `place`, from 0 (first) to 1 (last), and the share of relevant judgements."""


class JudgedAgain(NamedTuple):
    """The change between two judgements of the same pairs by the same judge."""

    judge: str
    pairs: int
    same: Estimate
    """Share of pairs with the same grade."""
    shift: Estimate
    """Second score minus first, in standard deviations of the first."""


class Biases(NamedTuple):
    effects: list[Effect]
    consistency: list[Consistency]
    drift: list[JudgedAgain]


class BiasInputs(NamedTuple):
    """The texts, authors and human grades from which effects are computed."""

    data: Data
    authors: Mapping[str, str]
    """Passage id -> author."""
    grades: Mapping[PairIds, int]
    """Pair -> human grade."""


def biases(
    labels: Sequence[Path],
    options: BiasOptions = BiasOptions(),  # noqa: B008 (a frozen record)
) -> Biases:
    """Measure the effects of length, shared words, list position and own writing on a judge's scores, and its drift.

    Args:
        labels: labels folders, or a dataset, whose judges are measured.
        options: texts, human grades, authors, and labels folders in which pairs were judged again.

    Returns:
        Effects in standard deviations of the score per unit of the property, agreement between orders of a list, and
        drift, with 95% confidence intervals clustered by query.

    Raises:
        UsageError: the texts are missing, or `again` has no pair that the same judge judged before.
    """
    datasets = [folder for folder in labels if folders.manifest_kind(folder) == DATASET]
    texts = texts_of(datasets[0] if datasets else None, options.data)
    if texts is None:
        raise UsageError("the texts are needed to measure biases: give the BEIR folder with --data")
    people, raters = people_apart(raters_of(labels, [options.human] if options.human else [], options.scale))
    authors = read_authors(options.authors) if options.authors else {}
    material = BiasInputs(texts, authors, grades_by(people))
    for rater in raters:
        check_texts(rater, texts)
    ballots = [row for folder in labels for row in ballots_of(folder)]
    found = biases_of(raters, ballots, material)
    return found._replace(drift=drift(raters, raters_of(options.again, []))) if options.again else found


def people_apart(raters: Sequence[Rater]) -> tuple[list[Rater], list[Rater]]:
    """Split raters into people and other judges."""
    people = [rater for rater in raters if rater.kind == "human"]
    return people, [rater for rater in raters if rater.kind != "human"]


def grades_by(people: Sequence[Rater]) -> dict[PairIds, int]:
    """Return the grades of the first person; empty without people."""
    rows = people[0].judgements if people else {}
    return {pair: row.grade for pair, row in rows.items() if row.grade is not None}


def biases_of(raters: Sequence[Rater], ballots: Sequence[Judgement], material: BiasInputs) -> Biases:
    """Measure the effects and the consistency of judges."""
    effects = [effect(rater, name, material) for rater in raters for name in EFFECTS]
    effects += [effect_of_place(rater, ballots, material.grades) for rater in raters]
    orders = [consistency(rater, ballots) for rater in raters]
    return Biases([one for one in effects if one], [one for one in orders if one], [])


def texts_of(dataset: Path | None, data: Path | None) -> Data | None:
    """Read the texts of a dataset, or else of a BEIR folder; None if neither is given."""
    if dataset is None:
        return read_data(data) if data else None
    passages = {row["passage_id"]: Passage(**row) for row in folders.read_table(dataset, "corpus").to_pylist()}
    queries = {row["query_id"]: Query(**row) for row in folders.read_table(dataset, "queries").to_pylist()}
    return Data(passages, queries, {})


def check_texts(rater: Rater, data: Data) -> None:
    """Raise `DataError` if a rater judged a query or passage without a text."""
    for query_id, passage_id in rater.judgements:
        check_ids({query_id: [passage_id]}, data.queries, data.corpus, where=rater.name)


def read_authors(path: Path) -> dict[str, str]:
    """Read passage id -> author from a TSV file without header. Raises `DataError` for a malformed line."""
    authors = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            fields = line.removesuffix("\r").split("\t")
            if len(fields) != 2:
                raise DataError(f"{path}:{number}: expected 2 columns (passage id, author), found {len(fields)}")
            authors[fields[0]] = fields[1]
    return authors


def ballots_of(folder: Path) -> list[Judgement]:
    """Read the single orders or votes from which judgements were joined; empty if a folder has none."""
    if not (folder / "ballots.parquet").is_file():
        return []
    return read_records(folder, "ballots", Judgement)


def length(rater: Rater, pair: PairIds, material: BiasInputs) -> float | None:
    """Compute the logarithm of the number of words to base 2; None for an empty passage."""
    words = len(material.data.corpus[pair[1]].full_text.split())
    return float(np.log2(words)) if words else None


def shared_words(rater: Rater, pair: PairIds, material: BiasInputs) -> float | None:
    """Compute the share of the query's words in the passage, in tenths."""
    return 10 * overlap(material.data.queries[pair[0]].text, material.data.corpus[pair[1]].full_text)


def own_writing(rater: Rater, pair: PairIds, material: BiasInputs) -> float | None:
    """Return 1 for a passage written by the judge, 0 for another author, None for an unknown author."""
    author = material.authors.get(pair[1])
    return None if author is None else float(author in (rater.name, Path(rater.name).name))


EFFECTS = {
    "length": (length, "for twice as many words"),
    "overlap": (shared_words, "for 10% more of the query's words"),
    "own": (own_writing, "for a passage written by the judge"),
}
"""Name of an effect -> function that computes the property of a pair, and the unit of the property in words."""
PLACE = "position"


def effect(rater: Rater, name: str, material: BiasInputs) -> Effect | None:
    """Estimate the effect of a property on scores; None if it is constant among comparable pairs."""
    function, unit = EFFECTS[name]
    rows = [
        (pair[0], (pair[0], material.grades.get(pair)), value, row.rank_score)
        for pair, row in sorted(rater.judgements.items())
        if row.failure is None
        and (not material.grades or pair in material.grades)
        and (value := function(rater, pair, material)) is not None
    ]
    return slope_of(rater, name, unit, rows=rows)


def effect_of_place(rater: Rater, ballots: Sequence[Judgement], grades: Mapping[PairIds, int]) -> Effect | None:
    """Estimate the effect of the position in a list on scores, from the first to the last place.

    A passage that was shown in several orders is compared with itself, any other with passages of the same query and
    human grade.
    """
    mine = [row for row in ballots if row.judge_id == rater.rater_id and row.grade is not None]
    several = bool(mine)
    mine = mine or [row for row in rater.judgements.values() if row.position is not None and row.grade is not None]
    rows = []
    for row, place in zip(mine, relative_places(mine), strict=True):
        like = row.passage_id if several else grades.get((row.query_id, row.passage_id))
        rows.append((row.query_id, (row.query_id, like), place, row.rank_score))
    return slope_of(rater, PLACE, "from first to last place", rows=rows)


def relative_places(rows: Sequence[Judgement]) -> list[float]:
    """Compute the place of each judgement in its list (or window of a list), from 0 (first) to 1 (last)."""
    longest: dict[tuple[str, int | None], int] = {}
    for row in rows:
        key = (row.query_id, row.permutation_seed)
        longest[key] = max(longest.get(key, 0), row.position or 0)
    return [((row.position or 1) - 1) / max(1, longest[row.query_id, row.permutation_seed] - 1) for row in rows]


def slope_of(rater: Rater, name: str, unit: str, rows: Sequence[tuple[str, Any, float, float]]) -> Effect | None:
    """Fit a slope by least squares within cells; `rows` are (query, cell, property, score). None if it is undefined."""
    if not rows:
        return None
    queries = sorted({query for query, _, _, _ in rows})
    query = np.array([queries.index(one) for one, _, _, _ in rows])
    numbers = {cell: number for number, cell in enumerate(dict.fromkeys(cell for _, cell, _, _ in rows))}
    cell = np.array([numbers[one] for _, one, _, _ in rows])
    prop, score = (np.array(values, dtype=float) for values in zip(*(row[2:] for row in rows), strict=True))
    deviation = score.std()
    if deviation == 0:
        return None
    counts = np.bincount(cell)

    def within(values: Any) -> Any:
        return values - (np.bincount(cell, weights=values) / counts)[cell]

    x, y = within(prop), within(score) / deviation
    if not np.any(np.abs(x) > 1e-12):
        return None
    xy, xx = (np.bincount(query, weights=values, minlength=len(queries)) for values in (x * y, x * x))
    slope = estimate(lambda draws: ratio(float(draws @ xy), float(draws @ xx)), len(queries))
    order = np.argsort(prop, kind="stable")
    curve = [
        {"property": float(prop[part].mean()), "score": float(y[part].mean())}
        for part in np.array_split(order, min(BINS, len(order)))
    ]
    return Effect(rater.rater_id, rater.name, name, unit=unit, slope=slope, pairs=len(rows), curve=curve)


def consistency(rater: Rater, ballots: Sequence[Judgement]) -> Consistency | None:
    """Measure the agreement between orders of a list; None for a judge with only one order, or with votes."""
    graded = [row for row in ballots if row.judge_id == rater.rater_id and row.grade is not None]
    mine = [row for row in graded if row.position is not None]
    by_pair: dict[PairIds, list[bool]] = {}
    for row in mine:
        by_pair.setdefault((row.query_id, row.passage_id), []).append((row.grade or 0) >= RELEVANT)
    several = {pair: given for pair, given in by_pair.items() if len(given) > 1}
    if not several:
        return None
    alike = [(pair[0], one == other) for pair, given in several.items() for one, other in combinations(given, 2)]
    places = np.array(relative_places(mine))
    chosen = np.array([(row.grade or 0) >= RELEVANT for row in mine])
    by_place = [
        {"place": float(places[part].mean()), "relevant": float(chosen[part].mean())}
        for part in np.array_split(np.argsort(places, kind="stable"), min(BINS, len(mine)))
    ]
    same = share([query_id for query_id, _ in alike], [value for _, value in alike])
    return Consistency(
        rater.rater_id, rater.name, max(map(len, several.values())), pairs=len(several), same=same, by_place=by_place
    )


def drift(first: Sequence[Rater], second: Sequence[Rater]) -> list[JudgedAgain]:
    """Measure how far each judge gave the same grades when it judged the same pairs again. Raises `UsageError` if no
    judge is in both.
    """
    later = {rater.identity: rater for rater in joined(second)}
    found = []
    for rater in first:
        if rater.identity not in later:
            continue
        both = sorted(
            pair
            for pair, row in later[rater.identity].judgements.items()
            if row.grade is not None and pair in rater.judgements and rater.judgements[pair].grade is not None
        )
        if not both:
            continue
        then, now = ([one.judgements[pair] for pair in both] for one in (rater, later[rater.identity]))
        deviation = float(np.std([row.rank_score for row in then])) or 1.0
        names = [query_id for query_id, _ in both]
        same = [one.grade == other.grade for one, other in zip(then, now, strict=True)]
        moved = [(other.rank_score - one.rank_score) / deviation for one, other in zip(then, now, strict=True)]
        found.append(JudgedAgain(rater.name, len(both), share(names, same), shift=mean(names, moved)))
    if not found:
        raise UsageError(
            "--again has no pair that the same judge judged before: use the same model, prompt and options"
        )
    return found
