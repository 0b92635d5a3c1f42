"""From a dataset to the groups of an epoch; `trainer.data.collate` makes of them what the encoder reads.

What is drawn for a query is a pure function of the seed, the epoch and the query's id: neither the order of
the file, nor the batch, nor the process a query falls into plays a part. An index into `TrainingSet` is the
pair (epoch, row), so the dataset needs no state that says which epoch it is.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from labelkit.errors import DataError
from labelkit.records import Example, Label
from trainer.config.fit_config import FitConfig
from trainer.config.label_selection import Selection, parse_labels, sources_of
from trainer.data.draws import DrawScope, draw, draw_weighted, mixed
from trainer.data.store import Store
from trainer.objectives.batch import Group, Negative, Positive
from trainer.objectives.objectives import OBJECTIVES

EpochRow = tuple[int, int]
"""Epoch (from 0) and row of the training set. Row -1 - r stands for row r with passages and no positives, so that
nothing is learnt from it.
"""
DOUBT = 0.02
"""The lowest probability of relevance that distillation is taught, and that of human negatives: log-odds end
somewhere. 1 - DOUBT is the highest, and that of human positives.
"""


@dataclass(frozen=True)
class LabelledQuery:
    """All that the dataset knows of one query that has positives."""

    query_id: str
    query: str
    positives: tuple[Positive, ...]
    """Every positive of the stage, the best first: human before other sources, then by grade, probability and id."""
    grades: dict[str, float]
    """Grade by id of a positive; 1 where it has none."""
    negatives: tuple[Negative, ...]
    excluded: frozenset[str]
    """Ids of all known positives, of this stage or not, and of the ignored passages."""
    judged_negatives: frozenset[str]
    unjudged: frozenset[str]
    """Ids of the query's passages, of the dataset or the pool, that no known source judged."""


class TrainingSet(TorchDataset[Group]):
    """The queries of a dataset that a stage can be trained on. The others are left out and counted."""

    def __init__(self, store: Store, config: FitConfig, known: Selection | None = None) -> None:
        """`known` are the labels that any stage of the run uses, by default those of this one. Raises `DataError` where
        no query has a positive, `UsageError` where the dataset has lost labels that are asked for.
        """
        self.store = store
        self.config = config
        self.selected = parse_labels(config.labels)
        self.known = self.selected if known is None else known
        self.places = mixed(store.query_keys, (config.seed, "share")) / 2.0**64
        """[rows of the store]: where each query stands between 0 and 1."""
        counts = self._positives()
        if config.held_out is not None:
            counts[fold_of(store.query_keys, config.held_out[1]) == config.held_out[0]] = 0
        self.rows = np.flatnonzero(counts)
        """[queries]: their rows in the store."""
        if not len(self.rows):
            raise DataError(
                f"none of the dataset's {len(store)} queries has a positive of {config.labels!r}; "
                "there is nothing to train on"
            )
        self.passages: Mapping[str, str] = store.passages
        self.counts = {
            "queries": len(store),
            "queries_left_out": len(store) - len(self.rows),
            "passages_with_the_text_of_another": len(store.same),
        }

    @property
    def keys(self) -> NDArray[np.int64]:
        """[queries]: `key_of` each query id."""
        return self.store.query_keys[self.rows]

    def query(self, row: int) -> LabelledQuery:
        """All that is known of one of the queries."""
        place = self.rows[row]
        known, selected = (sources_of(each, self.places[place]) for each in (self.known, self.selected))
        examples = self.store.examples(int(place), known, selected)
        pool = self.store.pool(int(place))
        return label_query(examples, pool, self.store.same, config=self.config, known=known, selected=selected)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: EpochRow) -> Group:
        epoch, row = index
        group = draw_group(self.query(row if row >= 0 else -1 - row), epoch, self.config)
        return group if row >= 0 else inert(group)

    def _positives(self) -> NDArray[np.int64]:
        """[rows of the store]: how many positives of the selected labels each query has."""
        counts = np.zeros(len(self.store), dtype=np.int64)
        start = 0.0
        for end in sorted(set(self.selected.values())):
            inside = (start <= self.places) & (self.places < end)
            counts[inside] = self._positives_of(sources_of(self.selected, start))[inside]
            start = end
        return counts

    def _positives_of(self, sources: Collection[str]) -> NDArray[np.int64]:
        """[rows of the store]: how many positives of these sources each query has."""
        name = self.store.table_of(sources)
        counts = [np.zeros(0, dtype=np.int64)]
        columns = [f"positive_{name}" for name in ("sources", "grades", "probabilities")]
        for batch in self.store.labels[name].select(columns).to_batches():
            each, grades, probabilities = (column.flatten() for column in batch.columns)
            counted = pc.is_in(each, value_set=pa.array(sorted(sources), pa.string()))
            for values, least in ((grades, self.config.min_grade), (probabilities, self.config.min_probability)):
                if least is not None:
                    counted = pc.and_(counted, pc.fill_null(pc.greater_equal(values, least), False))
            ends = batch.column(0).offsets.to_numpy()
            total = np.concatenate([[0], np.cumsum(counted.to_numpy(zero_copy_only=False))])
            counts.append(np.diff(total[ends - ends[0]]))
        # A query that the table lacks has row -1, and so finds the 0 that is appended.
        found: NDArray[np.int64] = np.append(np.concatenate(counts), 0)[self.store.indices.rows_in[name]]
        return found


def make_training_sets(store: Store, config: FitConfig) -> list[TrainingSet]:
    """One for each stage, each with what the others know. Raises what `TrainingSet` raises."""
    known = config.known_labels()
    return [TrainingSet(store, stage, known) for stage in config.stage_configs()]


def fold_of(query_keys: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """[n]: the fold of each query."""
    return (mixed(query_keys, ("fold",)) % np.uint64(folds)).astype(np.int64)


def label_query(
    examples: Sequence[Example],
    pool: Iterable[str],
    same: Mapping[str, str],
    config: FitConfig,
    known: Collection[str],
    selected: Collection[str],
) -> LabelledQuery:
    """Rank and weight the positives of the `selected` sources, and collect what may not be a negative.

    `examples` are the query as it stands in each table of labels that counts. Labels of sources that are not `known`
    are as if they had never been given: their passages are unjudged, as those of the `pool` are that nobody judged.
    `same` renames passages that repeat another's text.
    """
    positives: dict[str, Positive] = {}
    grades: dict[str, float] = {}
    excluded: set[str] = set()
    unjudged = {same.get(name, name) for name in pool}
    for label in sorted((label for one in examples for label in one.positives), key=_rank):
        name = same.get(label.passage_id, label.passage_id)
        if label.source not in known:
            unjudged.add(name)
            continue
        excluded.add(name)
        if label.source in selected and _reaches(label, config):
            positives.setdefault(name, Positive(name, _weight(label, config), label.source, target=_target(label, 1.0)))
            grades.setdefault(name, float(max(label.grade or 1, 1)))
    for label in (label for one in examples for label in one.ignored):
        name = same.get(label.passage_id, label.passage_id)
        (excluded if label.source in known else unjudged).add(name)
    negatives: dict[str, Negative] = {}
    for label in sorted((label for one in examples for label in one.negatives), key=lambda one: one.passage_id):
        name = same.get(label.passage_id, label.passage_id)
        if label.source not in known:
            unjudged.add(name)
        elif name not in excluded:
            negatives.setdefault(name, Negative(name, _target(label, 0.0)))
    return LabelledQuery(
        query_id=examples[0].query_id,
        query=examples[0].query,
        positives=tuple(positives.values()),
        grades=grades,
        negatives=tuple(negatives.values()),
        excluded=frozenset(excluded),
        judged_negatives=frozenset(negatives),
        unjudged=frozenset(unjudged - excluded - set(negatives)),
    )


def draw_group(query: LabelledQuery, epoch: int, config: FitConfig) -> Group:
    """The group of a query in an epoch: positives by the objective's rule, judged negatives to fill it up, then
    passages of the query that nobody judged.
    """
    objective = OBJECTIVES[config.objective]
    choose = POSITIVE_CHOICES[config.positives or objective.positives]
    scope = (config.seed, epoch, query.query_id)
    chosen = choose(query, config.max_positives, scope)
    positives = tuple(positive for positive in query.positives if positive.passage_id in chosen)
    space = config.group_size - len(positives)
    filling = set(draw(query.judged_negatives, space, scope))
    negatives = [negative for negative in query.negatives if negative.passage_id in filling]
    if objective.against != "group" and config.in_batch_negatives:  # nothing is known of them that could be distilled
        negatives += map(Negative, sorted(draw(query.unjudged, space - len(negatives), scope)))
    return Group(
        query.query_id,
        query.query,
        positives,
        negatives=tuple(negatives),
        excluded=query.excluded,
        judged_negatives=query.judged_negatives,
    )


def inert(group: Group) -> Group:
    """The same passages for a query that nothing is learnt from."""
    passages = tuple(Negative(positive.passage_id) for positive in group.positives)
    return replace(group, positives=(), negatives=passages + group.negatives)


def share_of(items: Sequence[Any], process: int, processes: int) -> Sequence[Any]:
    """The even slice of a batch that a process gets; none where there are more processes than items."""
    return items[process * len(items) // processes : (process + 1) * len(items) // processes]


def _best(query: LabelledQuery, count: int, scope: DrawScope) -> Collection[str]:
    return [positive.passage_id for positive in query.positives[:count]]


def _new(query: LabelledQuery, count: int, scope: DrawScope) -> Collection[str]:
    return draw(query.grades, count, scope)


def _by_grade(query: LabelledQuery, count: int, scope: DrawScope) -> Collection[str]:
    return draw_weighted(query.grades, count, scope)


POSITIVE_CHOICES: dict[str, Callable[[LabelledQuery, int, DrawScope], Collection[str]]] = {
    "first": lambda query, count, scope: _best(query, 1, scope),
    "random": lambda query, count, scope: _new(query, 1, scope),
    "several": _new,
    "new": _new,
    "best": _best,
    "grade": _by_grade,
}
"""`FitConfig.positives`, or `Objective.positives` where that is not set -> (query, max_positives, scope) -> ids."""


class BatchOrder(Sampler[list[EpochRow]]):
    """The batches of an epoch: all queries once, in an order decided by seed and epoch.

    Of each batch a process gets its own even slice, so that the batches are the same for any number of processes.
    """

    drop_last = False

    def __init__(
        self,
        keys: NDArray[np.int64],
        batch_size: int,
        seed: int,
        first_epoch: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        """`keys` `[queries]` are those of the training set, `first_epoch` what its first epoch is counted as."""
        self.keys = keys
        self.batch_size = batch_size
        self.seed = seed
        self.process = process
        self.processes = processes
        self.first_epoch = first_epoch
        self.epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return math.ceil(len(self.keys) / self.batch_size)

    def __iter__(self) -> Iterator[list[EpochRow]]:
        # By key before by number: the order of the file plays no part even where two numbers are equal.
        order = np.lexsort((self.keys, mixed(self.keys, (self.seed, self.epoch, "order"))))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size].tolist()
            # A process that a small batch leaves without a query takes part all the same: the others wait for it.
            share = share_of(rows, self.process, self.processes) or [-1 - rows[0]]
            yield [(self.epoch, row) for row in share]


def _reaches(label: Label, config: FitConfig) -> bool:
    """Whether a positive is good enough for the stage."""
    for value, least in ((label.grade, config.min_grade), (label.probability, config.min_probability)):
        if least is not None and (value is None or value < least):
            return False
    return True


def _weight(label: Label, config: FitConfig) -> float:
    weight = label.weight * config.source_weights.get(label.source, 1.0)
    sure = config.weight_by_probability and label.probability is not None
    return weight * max(label.probability or 0.0, DOUBT) if sure else weight


def _target(label: Label, known: float) -> float:
    """Log-odds of relevance; `known` is the probability where the label carries none."""
    probability = known if label.probability is None else label.probability
    probability = min(max(probability, DOUBT), 1 - DOUBT)
    return math.log(probability / (1 - probability))


def _rank(label: Label) -> tuple[bool, float, float, str]:
    grade = -math.inf if label.grade is None else label.grade
    probability = -math.inf if label.probability is None else label.probability
    return label.source != "human", -grade, -probability, label.passage_id
