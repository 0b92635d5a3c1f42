"""Which pairs are worth a person's or a stronger judge's time, under a budget.

A random share, stratified by belief, keeps estimates unbiased: each of its pairs carries the chance at which it was
chosen. The rest goes where the judges know least: half of it to pairs on which judges differ most, where there are
several, and the other half to pairs between relevant and not.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labelkit.corpora.qrels import read_qrels
from labelkit.errors import DataError
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

STRATA = 5
"""Of the random share: fifths by belief."""
RANDOM, UNSURE, DISPUTED = "select:random", "select:unsure", "select:disputed"


class Chosen(NamedTuple):
    """Why a pair was chosen; for the random share, the chance at which it was."""

    pair: PairIds
    reason: str
    score: float


class Quota(NamedTuple):
    """How many pairs, and which share of them is drawn at random."""

    pairs: int
    random_share: float
    seed: int


def select(
    labels: Sequence[Path], output: Path | str, options: SelectOptions, *, command: str = "labelkit.select"
) -> dict[str, int]:
    """Choose the pairs worth a person's or a stronger judge's time: unsure, disputed, and a random share.

    Args:
        labels: labels folders of the pool.
        output: the pool folder of the chosen pairs; the reason of each is among its sources.
        options: the pool, and how many pairs are chosen.
        command: the words that the manifest names as the origin of the folder.

    Returns:
        The number of pairs chosen for each reason.

    Raises:
        DataError: no judged pair is left to choose from.
    """
    with folders.writing(Path(output), POOL, command) as draft:
        pool, raters, human = read_pool(options.pool), raters_of(labels, []), options.human
        known = {(qid, pid) for qid, graded in read_qrels(human).items() for pid in graded} if human else set()
        pairs = [pair for one in pool.candidates if (pair := (one.query_id, one.passage_id)) not in known]
        judged = [pair for pair in pairs if any(pair in rater.judgements for rater in raters)]
        if not judged:
            raise DataError(
                f"no judged pair of {options.pool} is left to choose from; are these the labels of that pool?"
            )
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
    """P(relevant) of each pair: calibrated, or else the mean over the judges; 0.5 where nobody knows."""
    if calibration:
        judges = match(calibration, raters)
        scores = both_views(matrix(calibration.features, pairs, judges, data=data), [query_id for query_id, _ in pairs])
        probability = relevance(predict(calibration, scores))
        return dict(zip(pairs, map(float, probability), strict=True))
    found = {pair: [belief for rater in raters if (belief := belief_of(rater, pair)) is not None] for pair in pairs}
    return {pair: float(np.mean(given)) if given else 0.5 for pair, given in found.items()}


def belief_of(rater: Rater, pair: PairIds) -> float | None:
    """P(relevant) by one judge: its probabilities, or else its grade as 0 or 1."""
    row = rater.judgements.get(pair)
    if row is None or row.grade is None:
        return None
    own = own_relevance(row, rater.label_grades)
    return float(row.grade >= RELEVANT) if own is None else own


def disagreement(pairs: Sequence[PairIds], raters: Sequence[Rater]) -> dict[PairIds, float]:
    """Standard deviation of the judges' beliefs, of the pairs where it is above 0."""
    found = {pair: [belief for rater in raters if (belief := belief_of(rater, pair)) is not None] for pair in pairs}
    spread = {pair: float(np.std(given)) for pair, given in found.items() if len(given) > 1}
    return {pair: value for pair, value in spread.items() if value > 0}


def choose(believed: Mapping[PairIds, float], spread: Mapping[PairIds, float], budget: Quota) -> list[Chosen]:
    """The random share, then the disputed and the unsure pairs; at most the budget."""
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
    """A random sample, each fifth by belief in proportion; its chance goes with each pair."""
    order = sorted(believed, key=lambda pair: (believed[pair], pair))
    source = random.Random(seed)
    chosen: list[Chosen] = []
    for number, rows in enumerate(np.array_split(np.arange(len(order)), STRATA)):
        size = min(len(rows), count * (number + 1) // STRATA - count * number // STRATA)
        chosen += (Chosen(order[row], RANDOM, size / len(rows)) for row in source.sample(rows.tolist(), size))
    return chosen


def chosen_pool(pool: Pool, chosen: Sequence[Chosen]) -> Pool:
    """The chosen pairs as a pool, in its order; why each was chosen stands with its other sources."""
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
    """The random share of a selection: pair -> 1 / the chance at which it was chosen. Raises `DataError` for none."""
    found = {
        (candidate.query_id, candidate.passage_id): 1 / origin.score
        for candidate in read_pool(folder).candidates
        for origin in candidate.sources
        if origin.name == RANDOM
    }
    if not found:
        raise DataError(f"{folder} holds no pair that labelkit select drew at random")
    return found
