"""Chooses the pairs that are most useful to judge by a person or a stronger judge, within a budget.

A random sample, stratified by P(relevant), allows unbiased estimates: each of its pairs is stored with the probability
of being chosen. With several judges, half of the other pairs are those on which the judges differ most. The rest are
the pairs whose P(relevant) is closest to 0.5.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labelkit.corpora.human import human_grades
from labelkit.errors import DataError, UsageError
from labelkit.pooling.pool import Pool, read_pool, write_tables
from labelkit.quality.agreement import Rater, raters_of
from labelkit.quality.agreement_metrics import RELEVANT
from labelkit.quality.calibration.features import both_views, matrix
from labelkit.quality.calibration.figures import own_relevance
from labelkit.quality.calibration.judges import match
from labelkit.quality.calibration.models import Calibration, predict, read_calibration, relevance
from labelkit.quality.options import SelectOptions
from labelkit.records import Origin, PairIds
from labelkit.storage import folders
from labelkit.storage.manifest import POOL, PoolFacts
from labelkit.storage.outputs import refuse_own_input

STRATA = 5
"""Number of strata of the random sample: fifths of the pairs by P(relevant)."""
RANDOM, UNSURE, DISPUTED = "select:random", "select:unsure", "select:disputed"


class Chosen(NamedTuple):
    """A chosen pair, with the reason and a score: in the random sample, its probability of being chosen."""

    pair: PairIds
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
    with folders.writing(Path(output), POOL, command) as draft:
        pool, raters, human = read_pool(options.pool), raters_of(labels, []), options.human
        known = {(row.query_id, row.passage_id) for row in human_grades(human, options.scale)[0]} if human else set()
        pairs = [pair for one in pool.candidates if (pair := (one.query_id, one.passage_id)) not in known]
        judged = [pair for pair in pairs if any(pair in rater.judgements for rater in raters)]
        if not judged:
            raise DataError(f"{options.pool} has no judged pair to choose from; give labels of this pool")
        calibration = read_calibration(options.calibration) if options.calibration else None
        believed = beliefs(judged, raters, calibration, data=options.data)
        quota = Quota(options.budget, options.random_share, options.seed)
        chosen = choose(believed, disagreement(judged, raters), quota)
        part = chosen_pool(pool, chosen)
        write_tables(draft, part.candidates, queries=part.queries, passages=part.passages)
        read = (options.pool, *labels)
        draft.inputs = {str(folder): folders.file_sha256(folder / folders.MANIFEST) for folder in read}
        counts = {reason: sum(one.reason == reason for one in chosen) for reason in (RANDOM, UNSURE, DISPUTED)}
        draft.facts = PoolFacts(chosen=counts, of=len(judged))
    return counts


def beliefs(
    pairs: Sequence[PairIds],
    raters: Sequence[Rater],
    calibration: Calibration | None = None,
    *,
    data: Path | None = None,
) -> dict[PairIds, float]:
    """Compute P(relevant) of each pair: calibrated, or else the mean of the judges; 0.5 if no judge graded the pair.

    Raises `UsageError` for a judge without grades if there is no calibration.
    """
    if calibration:
        judges = match(calibration, raters)
        scores = both_views(matrix(calibration.features, pairs, judges, data=data), [query_id for query_id, _ in pairs])
        probability = relevance(predict(calibration, scores))
        return dict(zip(pairs, map(float, probability), strict=True))
    if scorers := [rater for rater in raters if rater.score_only]:
        raise UsageError(
            f"judge {scorers[0].name!r} gives scores without grades: draw the thresholds with labelkit calibrate, then "
            "add --calibration FILE"
        )
    found = {pair: [belief for rater in raters if (belief := belief_of(rater, pair)) is not None] for pair in pairs}
    return {pair: float(np.mean(given)) if given else 0.5 for pair, given in found.items()}


def belief_of(rater: Rater, pair: PairIds) -> float | None:
    """Return P(relevant) of a pair by one judge: from its label probabilities, or else 0 or 1 by its grade."""
    row = rater.judgements.get(pair)
    if row is None or row.grade is None:
        return None
    own = own_relevance(row, rater.label_grades)
    return float(row.grade >= RELEVANT) if own is None else own


def disagreement(pairs: Sequence[PairIds], raters: Sequence[Rater]) -> dict[PairIds, float]:
    """Compute the standard deviation of the judges' P(relevant), for the pairs for which it is above 0."""
    found = {pair: [belief for rater in raters if (belief := belief_of(rater, pair)) is not None] for pair in pairs}
    spread = {pair: float(np.std(given)) for pair, given in found.items() if len(given) > 1}
    return {pair: value for pair, value in spread.items() if value > 0}


def choose(believed: Mapping[PairIds, float], spread: Mapping[PairIds, float], budget: Quota) -> list[Chosen]:
    """Choose the random sample, then disputed and unsure pairs, up to the budget."""
    chosen = draw(believed, round(budget.pairs * budget.random_share), budget.seed)
    taken = {one.pair for one in chosen}

    def best(reason: str, values: Mapping[PairIds, float], count: int, key: Callable[[float], float]) -> None:
        rest = sorted((pair for pair in values if pair not in taken), key=lambda pair: (key(values[pair]), pair))
        chosen.extend(Chosen(pair, reason, values[pair]) for pair in rest[:count])
        taken.update(rest[:count])

    left = budget.pairs - len(chosen)
    best(DISPUTED, spread, left // 2, key=lambda value: -value)
    best(UNSURE, believed, budget.pairs - len(chosen), key=lambda value: abs(value - 0.5))
    return chosen


def draw(believed: Mapping[PairIds, float], count: int, seed: int) -> list[Chosen]:
    """Draw a random sample, stratified by fifths of P(relevant); each pair gets its probability of being chosen."""
    order = sorted(believed, key=lambda pair: (believed[pair], pair))
    source = random.Random(seed)
    chosen: list[Chosen] = []
    for number, rows in enumerate(np.array_split(np.arange(len(order)), STRATA)):
        size = min(len(rows), count * (number + 1) // STRATA - count * number // STRATA)
        chosen += (Chosen(order[row], RANDOM, size / len(rows)) for row in source.sample(rows.tolist(), size))
    return chosen


def chosen_pool(pool: Pool, chosen: Sequence[Chosen]) -> Pool:
    """Make a pool of the chosen pairs, in the order of `pool`; the reason is added to the sources of each pair."""
    ranks = {one.pair: rank for rank, one in enumerate(chosen, 1)}
    by_pair = {one.pair: one for one in chosen}
    candidates = [
        candidate.model_copy(
            update={"sources": (*candidate.sources, Origin(by_pair[pair].reason, ranks[pair], by_pair[pair].score))}
        )
        for candidate in pool.candidates
        if (pair := (candidate.query_id, candidate.passage_id)) in by_pair
    ]
    asked = {candidate.query_id for candidate in candidates}
    queries = {query_id: query for query_id, query in pool.queries.items() if query_id in asked}
    return Pool(queries, pool.passages, candidates, inputs=pool.inputs)


def chances(folder: Path) -> dict[PairIds, float]:
    """Read the random sample of a selection: pair -> 1 / its probability of being chosen. Raises `DataError`
    for none.
    """
    found = {
        (candidate.query_id, candidate.passage_id): 1 / origin.score
        for candidate in read_pool(folder).candidates
        for origin in candidate.sources
        if origin.name == RANDOM
    }
    if not found:
        raise DataError(f"{folder} has no randomly chosen pair; give a pool written by labelkit select")
    return found
