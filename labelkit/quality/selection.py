"""Chooses the pairs that are most useful to judge by a person or a stronger judge, within a budget.

A random sample, stratified by P(relevant), allows unbiased estimates: each of its pairs is stored with the probability
of being chosen. With several judges, half of the other pairs are those on which the judges differ most. The rest are
the pairs whose P(relevant) is closest to 0.5.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.corpora.human import stage_human
from labelkit.errors import DataError, UsageError
from labelkit.quality.agreement_metrics import Floats
from labelkit.quality.calibration.features import Scored, both_views, matrix
from labelkit.quality.calibration.judges import match
from labelkit.quality.calibration.models import Calibration, read_calibration, relevances
from labelkit.quality.options import SelectOptions
from labelkit.quality.rater_reading import numbers_in, raters_of
from labelkit.quality.raters import Numbers, Pairs, Rater
from labelkit.records import CANDIDATE_SCHEMA, PASSAGE_SCHEMA, QUERY_SCHEMA
from labelkit.storage import folders, tables
from labelkit.storage.manifest import POOL, PoolFacts
from labelkit.storage.outputs import refuse_own_input

CHOSEN_SCHEMA = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("rank", pa.int32()), ("score", pa.float64())])
STRATA = 5
"""Number of strata of the random sample: fifths of the pairs by P(relevant)."""
RANDOM, UNSURE, DISPUTED = "select:random", "select:unsure", "select:disputed"


class Chosen(NamedTuple):
    """A chosen pair, with the reason and a score: in the random sample, its probability of being chosen."""

    place: int
    """Number of the pair among those to choose from."""
    reason: str
    score: float


class Quota(NamedTuple):
    """The number of pairs to choose, and the share of them that is drawn at random."""

    pairs: int
    random_share: float
    seed: int


def select(
    labels: Sequence[Path], output: Path | str, options: SelectOptions, *, command: str = "labelkit.select"
) -> dict[str, int]:
    """Choose the most useful pairs for a person or a stronger judge: unsure, disputed, and a random sample.

    Args:
        labels: labels folders with judgements of the pool.
        output: pool folder to write, with the chosen pairs; the sources of a pair include the reason why it was chosen.
        options: the pool, and the number of pairs to choose.
        command: the command that the manifest records as the origin of the folder.

    Returns:
        The number of pairs chosen for each reason.

    Raises:
        DataError: no judged pair is left to choose from.
    """
    refuse_own_input(Path(output), [options.pool])
    with folders.writing(Path(output), POOL, command) as draft, tables.temporary() as db:
        folders.read_manifest(options.pool, POOL)
        raters = raters_of(db, labels)
        pair, rows = judged_candidates(db, raters, options)
        if not len(pair):
            raise DataError(f"{options.pool} has no judged pair to choose from; give labels of this pool")
        calibration = read_calibration(options.calibration) if options.calibration else None
        believed = beliefs(Scored(db, raters[0].pairs, pair, data=options.data), raters, calibration)
        order = np.argsort(pair)
        quota = Quota(options.budget, options.random_share, options.seed)
        chosen = choose(believed[order], disagreement(pair[order], raters), quota)
        save_chosen(db, draft, options.pool, chosen=[one._replace(place=int(rows[order[one.place]])) for one in chosen])
        read = (options.pool, *labels)
        draft.inputs = {str(folder): folders.file_sha256(folder / folders.MANIFEST) for folder in read}
        counts = {reason: sum(one.reason == reason for one in chosen) for reason in (RANDOM, UNSURE, DISPUTED)}
        draft.facts = PoolFacts(chosen=counts, of=len(pair))
    return counts


def judged_candidates(
    db: DuckDBPyConnection, raters: Sequence[Rater], options: SelectOptions
) -> tuple[Numbers, Numbers]:
    """Return the numbers of the pool's pairs that were judged and have no human grade, and their rows in the pool."""
    candidates = tables.parquet(options.pool / "candidates.parquet", numbered=True)
    if options.human:
        _, known = stage_human(db, "known", options.human, scale=options.scale)
        candidates = f"{candidates} ANTI JOIN ({known}) USING (query_id, passage_id)"
    return numbers_in(db, raters[0].pairs, candidates, value="file_row_number")


def save_chosen(db: DuckDBPyConnection, draft: folders.Draft, pool: Path, chosen: Sequence[Chosen]) -> None:
    """Write the tables of a pool of some candidates, whose `place` is their row in another pool, in its order.

    The reason is added to the sources of each pair.
    """
    ranked = [(one.place, one.reason, rank, one.score) for rank, one in enumerate(chosen, 1)]
    tables.stage(db, "chosen", CHOSEN_SCHEMA, rows=ranked)
    files = {name: tables.parquet(pool / f"{name}.parquet", numbered=True) for name in ("queries", "passages")}
    candidates = tables.parquet(pool / "candidates.parquet", numbered=True)
    db.execute(
        f"""
        CREATE TABLE picked AS
        SELECT row, query_id, passage_id, list_append(sources, {{name: reason, rank: rank, score: score}}) AS sources
        FROM {candidates} JOIN chosen ON row = file_row_number
        """
    )
    names = ", ".join(CANDIDATE_SCHEMA.names)
    queries = f"SELECT query_id, text FROM {files['queries']} WHERE query_id IN (SELECT query_id FROM picked)"
    passages = (
        f"SELECT passage_id, title, text FROM {files['passages']} WHERE passage_id IN (SELECT passage_id FROM picked)"
    )
    tables.save(db, draft, "candidates", statement=f"SELECT {names} FROM picked ORDER BY row", schema=CANDIDATE_SCHEMA)
    tables.save(db, draft, "queries", statement=f"{queries} ORDER BY file_row_number", schema=QUERY_SCHEMA)
    tables.save(db, draft, "passages", statement=f"{passages} ORDER BY passage_id", schema=PASSAGE_SCHEMA)


def beliefs(scored: Scored, raters: Sequence[Rater], calibration: Calibration | None = None) -> Floats:
    """Compute P(relevant) of `[n]` pairs: calibrated, or else the mean of the judges; 0.5 if no judge graded the pair.

    Raises `UsageError` for a judge without grades if there is no calibration.
    """
    if calibration:
        scores = matrix(calibration.features, scored, match(calibration, raters))
        return relevances(calibration, both_views(scores, scored.query))
    if scorers := [rater for rater in raters if rater.score_only]:
        raise UsageError(
            f"judge {scorers[0].name!r} gives scores without grades: draw the thresholds with labelkit calibrate, then "
            "add --calibration FILE"
        )
    total, count = np.zeros(len(scored.pair)), np.zeros(len(scored.pair))
    for own in said(scored.pair, raters):
        known = ~np.isnan(own)
        total[known] += own[known]
        count += known
    return np.where(count > 0, total / np.maximum(count, 1), 0.5)


def said(pair: Numbers, raters: Iterable[Rater]) -> Iterator[Floats]:
    """Yield P(relevant) of `[n]` pairs by each judge, nan for a pair that it did not grade."""
    for rater in raters:
        rows = rater.rows(pair)
        yield np.where(rows >= 0, rater.belief[rows], np.nan) if len(rater.pair) else np.full(len(pair), np.nan)


def disagreement(pair: Numbers, raters: Sequence[Rater]) -> Floats:
    """Compute the standard deviation of the judges' P(relevant), `[n]`; 0 for a pair that fewer than two graded."""
    total, count, squares = np.zeros(len(pair)), np.zeros(len(pair)), np.zeros(len(pair))
    for own in said(pair, raters):
        total += np.nan_to_num(own)
        count += ~np.isnan(own)
    mean = total / np.maximum(count, 1)
    for own in said(pair, raters):
        squares += np.nan_to_num(own - mean) ** 2
    return np.where(count > 1, np.sqrt(squares / np.maximum(count, 1)), 0.0)


def choose(believed: Floats, spread: Floats, budget: Quota) -> list[Chosen]:
    """Choose the random sample, then disputed and unsure pairs, up to the budget.

    `believed`, `spread`: P(relevant) and disagreement of `[n]` pairs, in the order of their ids.
    """
    chosen = draw(believed, round(budget.pairs * budget.random_share), budget.seed)
    taken = np.zeros(len(believed), dtype=bool)
    taken[[one.place for one in chosen]] = True

    def best(reason: str, values: Floats, count: int, key: Floats, among: NDArray[np.bool_]) -> None:
        rest = np.flatnonzero(among & ~taken)
        first = rest[np.argsort(key[rest], kind="stable")[:count]].tolist()
        chosen.extend(Chosen(place, reason, float(values[place])) for place in first)
        taken[first] = True

    left = budget.pairs - len(chosen)
    best(DISPUTED, spread, left // 2, key=-spread, among=spread > 0)
    best(UNSURE, believed, budget.pairs - len(chosen), key=np.abs(believed - 0.5), among=~taken)
    return chosen


def draw(believed: Floats, count: int, seed: int) -> list[Chosen]:
    """Draw a random sample, stratified by fifths of P(relevant); each pair gets its probability of being chosen."""
    order = np.argsort(believed, kind="stable")
    source = random.Random(seed)
    chosen: list[Chosen] = []
    for number, rows in enumerate(np.array_split(order, STRATA)):
        size = min(len(rows), count * (number + 1) // STRATA - count * number // STRATA)
        places = source.sample(range(len(rows)), size)
        chosen += (Chosen(int(rows[place]), RANDOM, size / len(rows)) for place in places)
    return chosen


def chances(db: DuckDBPyConnection, pairs: Pairs, folder: Path | None) -> Floats:
    """Read the random sample of a selection: `[P]` 1 / the probability of each pair of being chosen, nan for a pair
    that was not drawn. Without a selection, every pair has 1.

    Raises `DataError` for a selection without a random sample.
    """
    if folder is None:
        return np.broadcast_to(np.float64(1.0), len(pairs.query))
    folders.read_manifest(folder, POOL)
    origins = (
        f"SELECT query_id, passage_id, unnest(sources) AS origin FROM {tables.parquet(folder / 'candidates.parquet')}"
    )
    drawn = f"({origins}) WHERE origin.name = {tables.text(RANDOM)}"
    if not tables.row(db, f"FROM {drawn}"):
        raise DataError(f"{folder} has no randomly chosen pair; give a pool written by labelkit select")
    found = np.full(len(pairs.query), np.nan)
    pair, chance = numbers_in(db, pairs, drawn, value="origin.score")
    found[pair] = 1 / chance
    return found
