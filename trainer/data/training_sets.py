"""Draws the groups of an epoch from a dataset; `trainer.data.collate` converts them to the encoder's inputs.

The passages drawn for a query are a pure function of the seed, the epoch and the query id. They are independent of the
order of files, of the batch and of the process. An index into `TrainingSet` is the pair (epoch, row), so that the
dataset needs no state for the current epoch.
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
"""Epoch (from 0) and row of the training set. Row -1 - r means row r with its passages and without positives, which
contributes nothing to the loss.
"""
DOUBT = 0.02
"""Lowest probability of relevance in distillation targets, and the probability of human negatives; it keeps log-odds
finite. 1 - DOUBT is the highest probability, and the probability of human positives.
"""


@dataclass(frozen=True)
class LabelledQuery:
    """A query and all its labels in the dataset."""

    query_id: str
    query: str
    positives: tuple[Positive, ...]
    """All positives of the stage, best first: human before other sources, then by grade, probability and id."""
    grades: dict[str, float]
    """Id of a positive -> its grade; 1 for a positive without a grade."""
    negatives: tuple[Negative, ...]
    """All negatives of known sources, sorted by id."""
    excluded: frozenset[str]
    """Ids of all positives of known sources, including other stages, and of the ignored passages."""
    judged_negatives: frozenset[str]
    """Ids of `negatives`."""
    unjudged: frozenset[str]
    """Ids of the query's passages in the dataset or the pool that no known source judged."""


class TrainingSet(TorchDataset[Group]):
    """The queries of a dataset with a positive of the stage's labels. Other queries are left out and counted."""

    def __init__(self, store: Store, config: FitConfig, known: Selection | None = None) -> None:
        """Select the queries of a stage. `known` are the labels that any stage uses, by default the labels of `config`.

        Raises `DataError` if no query has a positive, `UsageError` if the dataset lacks labels that the stage selects.
        """
        self.store = store
        self.config = config
        self.selected = parse_labels(config.labels)
        self.known = self.selected if known is None else known
        self.places = mixed(store.query_keys, (config.seed, "share")) / 2.0**64
        """[rows of the store]: pseudo-random number of each query in 0 to 1, which decides shares of labels."""
        counts = self._positives()
        if config.held_out is not None:
            counts[fold_of(store.query_keys, config.held_out[1]) == config.held_out[0]] = 0
        self.rows = np.flatnonzero(counts)
        """[queries]: row of each selected query in the store."""
        if not len(self.rows):
            raise DataError(
                f"none of the dataset's {len(store)} queries has a positive from {config.labels!r}; "
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
        """`key_of` the id of each selected query, `[queries]`."""
        return self.store.query_keys[self.rows]

    def query(self, row: int) -> LabelledQuery:
        """Return a query of the training set with all its labels."""
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
        """Count the positives of the selected labels per query, `[rows of the store]`."""
        counts = np.zeros(len(self.store), dtype=np.int64)
        start = 0.0
        for end in sorted(set(self.selected.values())):
            inside = (start <= self.places) & (self.places < end)
            counts[inside] = self._positives_of(sources_of(self.selected, start))[inside]
            start = end
        return counts

    def _positives_of(self, sources: Collection[str]) -> NDArray[np.int64]:
        """Count the positives of some sources per query, `[rows of the store]`."""
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
        # A query that the table lacks has row -1 and therefore reads the appended 0.
        found: NDArray[np.int64] = np.append(np.concatenate(counts), 0)[self.store.indices.rows_in[name]]
        return found


def make_training_sets(store: Store, config: FitConfig) -> list[TrainingSet]:
    """Build the training set of each stage. The labels of all stages are known to each. Raises as `TrainingSet`."""
    known = config.known_labels()
    return [TrainingSet(store, stage, known) for stage in config.stage_configs()]


def fold_of(query_keys: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Assign each query to one of `folds` folds, `[n]`."""
    return (mixed(query_keys, ("fold",)) % np.uint64(folds)).astype(np.int64)


def label_query(
    examples: Sequence[Example],
    pool: Iterable[str],
    same: Mapping[str, str],
    config: FitConfig,
    known: Collection[str],
    selected: Collection[str],
) -> LabelledQuery:
    """Rank and weight the positives of the `selected` sources, and collect the passages that may not be negatives.

    `examples` are the query and its labels in each relevant table. Labels of sources outside `known` are treated as
    missing: their passages are unjudged, as are passages of the `pool` without a label. `same` maps the id of each
    duplicated text to the first id with that text.
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
    """Draw the group of a query in an epoch: positives by the objective's rule, then judged negatives, then unjudged
    passages of the query, up to the group size.
    """
    objective = OBJECTIVES[config.objective]
    choose = POSITIVE_CHOICES[config.positives or objective.positives]
    scope = (config.seed, epoch, query.query_id)
    chosen = choose(query, config.max_positives, scope)
    positives = tuple(positive for positive in query.positives if positive.passage_id in chosen)
    space = config.group_size - len(positives)
    filling = set(draw(query.judged_negatives, space, scope))
    negatives = [negative for negative in query.negatives if negative.passage_id in filling]
    if objective.against != "group" and config.in_batch_negatives:  # unjudged passages have no target to distil
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
    """Turn the positives of a group into negatives, so that its query contributes nothing to the loss."""
    passages = tuple(Negative(positive.passage_id) for positive in group.positives)
    return replace(group, positives=(), negatives=passages + group.negatives)


def share_of(items: Sequence[Any], process: int, processes: int) -> Sequence[Any]:
    """Return the slice of a batch for one process; slices have equal size up to one item, and may be empty."""
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
"""`FitConfig.positives`, or `Objective.positives` if unset -> function (query, max_positives, scope) -> ids."""


class BatchOrder(Sampler[list[EpochRow]]):
    """The batches of an epoch: every query once, in an order determined by the seed and the epoch.

    Each process gets its own slice of every batch, so that batches are the same for any number of processes.
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
        """Prepare the order of `TrainingSet.keys` `[queries]`; `first_epoch` is the number of the first epoch."""
        self.keys = keys
        self.batch_size = batch_size
        self.seed = seed
        self.process = process
        self.processes = processes
        self.first_epoch = first_epoch
        self.epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0 within the stage; the trainer calls this before each epoch."""
        self.epoch = self.first_epoch + epoch

    def __len__(self) -> int:
        return math.ceil(len(self.keys) / self.batch_size)

    def __iter__(self) -> Iterator[list[EpochRow]]:
        # Ties of the random number are broken by key, so that the order of the file has no effect.
        order = np.lexsort((self.keys, mixed(self.keys, (self.seed, self.epoch, "order"))))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size].tolist()
            # A process without a query in a small batch must take part too, because the others wait for it.
            share = share_of(rows, self.process, self.processes) or [-1 - rows[0]]
            yield [(self.epoch, row) for row in share]


def _reaches(label: Label, config: FitConfig) -> bool:
    """Check that a positive reaches the stage's minimum grade and probability."""
    for value, least in ((label.grade, config.min_grade), (label.probability, config.min_probability)):
        if least is not None and (value is None or value < least):
            return False
    return True


def _weight(label: Label, config: FitConfig) -> float:
    weight = label.weight * config.source_weights.get(label.source, 1.0)
    sure = config.weight_by_probability and label.probability is not None
    return weight * max(label.probability or 0.0, DOUBT) if sure else weight


def _target(label: Label, known: float) -> float:
    """Compute the log-odds of relevance; `known` is the probability of a label without one."""
    probability = known if label.probability is None else label.probability
    probability = min(max(probability, DOUBT), 1 - DOUBT)
    return math.log(probability / (1 - probability))


def _rank(label: Label) -> tuple[bool, float, float, str]:
    grade = -math.inf if label.grade is None else label.grade
    probability = -math.inf if label.probability is None else label.probability
    return label.source != "human", -grade, -probability, label.passage_id
