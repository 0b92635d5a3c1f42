"""Biases of a judge: effects of length, shared words, own writing and list position on its scores; and its drift.

An effect is a slope: the rise of the judge's score, in standard deviations of its scores, per unit of a property,
between passages of one query with the same human grade. Without human grades, all passages of a query are compared, and
the effect then includes properties that relevant passages have.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement_metrics import GRADES, Floats, Ints, dense
from labelkit.quality.ballots import (
    BINS,
    Ballots,
    Consistency,
    ballots_of,
    consistency,
    key_of,
    listed,
    open_ballots,
    relative_places,
)
from labelkit.quality.options import BiasOptions
from labelkit.quality.rater_reading import raters_of
from labelkit.quality.raters import FAILED, Pairs, Rater, joined
from labelkit.quality.texts import check_texts, lengths, open_texts, overlaps
from labelkit.statistics.intervals import Estimate, estimate, mean, ratio, share
from labelkit.storage import folders, tables
from labelkit.storage.dataset import KIND as DATASET

AUTHOR_SCHEMA = pa.schema([("line", pa.int64()), ("passage_id", pa.string()), ("author", pa.string())])


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


class BiasInputs:
    """The texts, authors and human grades of some pairs, from which effects are computed.

    Properties of texts are computed once for all judges. `grades`: `[P]` human grade of each pair, `FAILED` for none;
    None without any human grade.
    """

    def __init__(self, db: DuckDBPyConnection, pairs: Pairs, grades: Ints | None) -> None:
        self.db, self.pairs, self.grades = db, pairs, grades

    @cached_property
    def lengths(self) -> Floats:
        """`[P]` logarithm to base 2 of the number of words of each pair's passage; nan for an empty passage."""
        words = lengths(self.db, self.pairs)
        found: Floats = np.log2(np.where(words, words, np.nan))[self.pairs.passage]
        return found

    @cached_property
    def overlaps(self) -> Floats:
        """`[P]` share of the query's words in each pair's passage, in tenths."""
        return 10 * overlaps(self.db, self.pairs)


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
    data = datasets[0] if datasets else options.data
    if data is None:
        raise UsageError("the texts are needed to measure biases: give the BEIR folder with --data")
    with tables.temporary() as db:
        open_texts(db, data)
        human = [options.human] if options.human else []
        every = raters_of(db, [*labels, *options.again], human, scale=options.scale)
        again = [rater for rater in every if rater.source >= len(human) + len(labels)]
        people, raters = people_apart([rater for rater in every if rater.source < len(human) + len(labels)])
        stage_authors(db, options.authors)
        for rater in raters:
            check_texts(db, rater.pairs, rater.pair, where=rater.name)
        open_ballots(db, labels)
        found = biases_of(raters, BiasInputs(db, every[0].pairs, grades_by(people)))
        return found._replace(drift=drift(raters, again)) if options.again else found


def people_apart(raters: Sequence[Rater]) -> tuple[list[Rater], list[Rater]]:
    """Split raters into people and other judges."""
    people = [rater for rater in raters if rater.kind == "human"]
    return people, [rater for rater in raters if rater.kind != "human"]


def grades_by(people: Sequence[Rater]) -> Ints | None:
    """Return the grades of the first person, `[P]` with `FAILED` for none; None without any human grade."""
    if not people or not people[0].graded.any():
        return None
    return people[0].grades_of(np.arange(len(people[0].pairs.query)))


def biases_of(raters: Sequence[Rater], material: BiasInputs) -> Biases:
    """Measure the effects and the consistency of judges, whose ballots and authors are in the session."""
    effects = [effect(rater, name, material) for rater in raters for name in EFFECTS]
    ballots = [ballots_of(material.db, rater.rater_id) for rater in raters]
    effects += [effect_of_place(*each, material.grades) for each in zip(raters, ballots, strict=True)]
    orders = [consistency(*each) for each in zip(raters, ballots, strict=True)]
    return Biases([one for one in effects if one], [one for one in orders if one], [])


def stage_authors(db: DuckDBPyConnection, path: Path | None) -> None:
    """Make the table `authors` of a TSV file of passage ids and authors without header, or an empty table.

    Raises `DataError` for a malformed line.
    """
    tables.stage(db, "authors", AUTHOR_SCHEMA, rows=author_rows(path) if path else ())


def author_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line number, passage id and author. Raises `DataError`."""
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            fields = line.removesuffix("\r").split("\t")
            if len(fields) != 2:
                raise DataError(f"{path}:{number}: expected 2 columns (passage id, author), found {len(fields)}")
            yield number, fields[0], fields[1]


def own_writing(rater: Rater, material: BiasInputs) -> Floats:
    """Return 1 for a passage written by the judge, 0 for another author, nan for an unknown author: `[n]`."""
    names = [rater.name, Path(rater.name).name]
    rows = material.db.execute(
        """
        SELECT passage, arg_max(author, line) IN (SELECT unnest($names)) AS own
        FROM authors JOIN rated_passages USING (passage_id) GROUP BY passage
        """,
        {"names": names},
    ).fetchnumpy()
    own = np.full(len(material.pairs.passage_ids), np.nan)
    own[rows["passage"]] = rows["own"]
    found: Floats = own[material.pairs.passage[rater.pair]]
    return found


EFFECTS: dict[str, tuple[Callable[[Rater, BiasInputs], Floats], str]] = {
    "length": (lambda rater, material: material.lengths[rater.pair], "for twice as many words"),
    "overlap": (lambda rater, material: material.overlaps[rater.pair], "for 10% more of the query's words"),
    "own": (own_writing, "for a passage written by the judge"),
}
"""Name of an effect -> function that computes the property of a rater's pairs, nan if it is undefined, and the unit of
the property in words.
"""
PLACE = "position"


def effect(rater: Rater, name: str, material: BiasInputs) -> Effect | None:
    """Estimate the effect of a property on scores; None if it is constant among comparable pairs."""
    function, unit = EFFECTS[name]
    values = function(rater, material)
    grades = None if material.grades is None else material.grades[rater.pair]
    used = rater.answered & ~np.isnan(values) & (True if grades is None else grades != FAILED)
    query = rater.query[used]
    cell = query.astype(np.int64) * GRADES + (0 if grades is None else grades[used])
    return slope_of(rater, name, unit, rows=Comparable(query, cell, values[used], score=rater.rank_score[used]))


def effect_of_place(rater: Rater, ballots: Ballots, grades: Ints | None) -> Effect | None:
    """Estimate the effect of the position in a list on scores, from the first to the last place.

    A passage that was shown in several orders is compared with itself, any other with passages of the same query and
    human grade.
    """
    mine = ballots if len(ballots.query) else listed(rater)
    if len(ballots.query):
        cell = key_of(ballots, rater.pairs)
    else:
        pair = rater.pair[rater.graded & (rater.position > 0)]
        cell = mine.query.astype(np.int64) * (GRADES + 1) + (0 if grades is None else grades[pair] + 1)
    return slope_of(
        rater,
        PLACE,
        "from first to last place",
        rows=Comparable(mine.query, cell, relative_places(mine), score=mine.score),
    )


class Comparable(NamedTuple):
    """`[n]` scores and properties of pairs, which are compared within cells."""

    query: Ints
    cell: Ints
    """Numbers that are equal for comparable pairs."""
    prop: Floats
    score: Floats


def slope_of(rater: Rater, name: str, unit: str, rows: Comparable) -> Effect | None:
    """Fit a slope by least squares within cells; None if it is undefined."""
    if not len(rows.query):
        return None
    query, queries = dense(rows.query)
    _, cell = np.unique(rows.cell, return_inverse=True)
    prop, score = rows.prop, rows.score
    deviation = score.std()
    if deviation == 0:
        return None
    counts = np.bincount(cell)

    def within(values: Any) -> Any:
        return values - (np.bincount(cell, weights=values) / counts)[cell]

    x, y = within(prop), within(score) / deviation
    if not np.any(np.abs(x) > 1e-12):
        return None
    xy, xx = (np.bincount(query, weights=values, minlength=queries) for values in (x * y, x * x))
    slope = estimate(lambda draws: ratio(float(draws @ xy), float(draws @ xx)), queries)
    order = np.argsort(prop, kind="stable")
    curve = [
        {"property": float(prop[part].mean()), "score": float(y[part].mean())}
        for part in np.array_split(order, min(BINS, len(order)))
    ]
    return Effect(rater.rater_id, rater.name, name, unit=unit, slope=slope, pairs=len(prop), curve=curve)


def drift(first: Sequence[Rater], second: Sequence[Rater]) -> list[JudgedAgain]:
    """Measure how far each judge gave the same grades when it judged the same pairs again. Raises `UsageError` if no
    judge is in both.
    """
    later = {rater.identity: rater for rater in joined(second)}
    found = []
    for rater in first:
        if rater.identity not in later:
            continue
        now = later[rater.identity]
        now = now.take(now.graded & (rater.grades_of(now.pair) >= 0))
        if not len(now.pair):
            continue
        then = rater.only(now.pair)
        deviation = float(np.std(then.rank_score)) or 1.0
        moved = (now.rank_score - then.rank_score) / deviation
        same = share(now.query, now.grade == then.grade)
        found.append(JudgedAgain(rater.name, len(now.pair), same, shift=mean(now.query, moved)))
    if not found:
        raise UsageError(
            "--again has no pair that the same judge judged before: use the same model, prompt and options"
        )
    return found
