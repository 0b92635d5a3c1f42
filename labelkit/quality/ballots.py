"""Single orders and votes from which judgements were joined, as columns; and a judge's agreement with itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection

from labelkit.quality.agreement_metrics import RELEVANT, Floats, Ints, dense
from labelkit.quality.rater_reading import literal
from labelkit.quality.raters import MISSING, Numbers, Pairs, Rater
from labelkit.statistics.intervals import Estimate, rate
from labelkit.storage.labels import judgements_sql

BINS = 5
"""Number of points of a curve: fifths of the pairs by the property."""


class Ballots(NamedTuple):
    """`[n]` graded ballots of one judge, in the order of the files."""

    query: Numbers
    passage: Numbers
    grade: Ints
    score: Floats
    """Scores for ranking: the judge's score, else its grade."""
    position: Numbers
    """Places in the judge's lists, from 1; 0 if there was no list."""
    seed: Ints
    """Seeds of the orders of these lists; -1 if there is none."""


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


def open_ballots(db: DuckDBPyConnection, labels: Sequence[Path]) -> None:
    """Make the view `ballots` of the ballots in labels folders or a dataset; those without ballots add none.

    Call `raters_of` first, which numbers queries and passages.
    """
    parts = [
        f"SELECT {place} AS folder, * FROM {judgements_sql(db, folder, 'ballots')}"
        for place, folder in enumerate(labels)
        if (folder / "ballots.parquet").is_file()
    ]
    nothing = "SELECT 0 AS folder, 0::BIGINT AS row, * FROM no_judgements"
    db.execute(f"CREATE OR REPLACE TEMP VIEW ballots AS {' UNION ALL BY NAME '.join([nothing, *parts])}")


def ballots_of(db: DuckDBPyConnection, judge_id: str) -> Ballots:
    """Read the graded ballots of a judge. Call `open_ballots` first."""
    position, seed = literal(MISSING["position"]), literal(MISSING["seed"])
    found = db.execute(
        f"""
        SELECT query, passage, grade, coalesce(score, grade::DOUBLE) AS score,
               coalesce(position, {position})::INT AS position, coalesce(permutation_seed, {seed}) AS seed
        FROM ballots JOIN rated_queries USING (query_id) JOIN rated_passages USING (passage_id)
        WHERE judge_id = $judge_id AND grade IS NOT NULL ORDER BY folder, row
        """,
        {"judge_id": judge_id},
    ).fetchnumpy()
    return Ballots._make(np.asarray(found[name]) for name in Ballots._fields)


def listed(rater: Rater) -> Ballots:
    """Return the graded judgements of a rater that have a position in a list."""
    mine = rater.take(rater.graded & (rater.position > 0))
    return Ballots(
        mine.query, rater.pairs.passage[mine.pair], mine.grade, score=mine.rank_score, position=mine.position,
        seed=mine.seed,
    )  # fmt: skip


def relative_places(ballots: Ballots) -> Floats:
    """Compute the place of each ballot in its list (or window of a list), `[n]`, from 0 (first) to 1 (last)."""
    seeds, seed = np.unique(ballots.seed, return_inverse=True)
    orders, order = np.unique(ballots.query.astype(np.int64) * len(seeds) + seed, return_inverse=True)
    longest = np.zeros(len(orders), dtype=np.int64)
    np.maximum.at(longest, order, ballots.position)
    found: Floats = (np.maximum(ballots.position, 1) - 1) / np.maximum(1, longest[order] - 1)
    return found


def consistency(rater: Rater, ballots: Ballots) -> Consistency | None:
    """Measure the agreement between orders of a list; None for a judge with only one order, or with votes."""
    mine = Ballots._make(np.asarray(column)[ballots.position > 0] for column in ballots)
    pairs, pair, count = np.unique(key_of(mine, rater.pairs), return_inverse=True, return_counts=True)
    if not (count > 1).any():
        return None
    relevant = mine.grade >= RELEVANT
    hits = np.bincount(pair, weights=relevant).astype(np.int64)
    query, queries = dense((pairs // max(1, len(rater.pairs.passage_ids)))[count > 1])
    alike, tries = (
        np.bincount(query, weights=each[count > 1], minlength=queries).astype(np.int64)
        for each in (twos(hits) + twos(count - hits), twos(count))
    )
    places = relative_places(mine)
    by_place = [
        {"place": float(places[part].mean()), "relevant": float(relevant[part].mean())}
        for part in np.array_split(np.argsort(places, kind="stable"), min(BINS, len(places)))
    ]
    return Consistency(
        rater.rater_id,
        rater.name,
        orders=int(count.max()),
        pairs=int((count > 1).sum()),
        same=rate(alike, tries),
        by_place=by_place,
    )


def key_of(ballots: Ballots, pairs: Pairs) -> Ints:
    """Return `[n]` numbers of the ballots' pairs, equal for equal pairs only."""
    return ballots.query.astype(np.int64) * max(1, len(pairs.passage_ids)) + ballots.passage


def twos(count: Ints) -> Ints:
    """Count the ways to choose two."""
    return count * (count - 1) // 2
