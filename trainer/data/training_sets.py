"""Draw the groups of an epoch from a dataset; `trainer.data.collate` converts them to the encoder's inputs.

The passages drawn for a query are a pure function of the seed, the epoch and the query id. They are independent of the
order of files, of the batch and of the process. An index into `TrainingSet` is the pair (epoch, row), so that the
dataset needs no state for the current epoch.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from labelkit.errors import DataError
from labelkit.records import MINED, Example, Label
from trainer.config.fit_config import FitConfig
from trainer.config.label_selection import Selection, parse_labels, sources_of
from trainer.data.batch_order import EpochRow
from trainer.data.draws import DrawScope, draw, draw_weighted, lots, mixed
from trainer.data.store import Store
from trainer.objectives.batch import Group, Negative, Positive
from trainer.objectives.objectives import OBJECTIVES

DOUBT = 0.02
"""Lowest probability of relevance in distillation targets; it keeps log-odds finite. 1 - DOUBT is the highest."""
BETWEEN = 1
"""Grade between negatives and positives."""
Teacher = Literal["probability", "score"]
"""Target of distillation: the log-odds of a label's probability, or its raw score."""
TEACHERS: dict[Teacher, str] = {"probability": "probabilities", "score": "scores"}
"""Kind of target, in order of preference -> suffix of its columns. Scores of a reranker precede probabilities."""


@dataclass(frozen=True)
class LabelledQuery:
    """A query and all its labels in the dataset."""

    query_id: str
    query: str
    positives: tuple[Positive, ...]
    """All positives of the stage, best first: human before other sources, then by probability, score, grade, and rank
    in the pool; the seed decides the order of ties.
    """
    grades: dict[str, float]
    """Id of a positive -> its grade; 1 for a positive without a grade."""
    negatives: tuple[Negative, ...]
    """All negatives of known sources, sorted by id."""
    between: tuple[Negative, ...]
    """Passages of grade 1 that are neither positives nor negatives, sorted by id, for objectives that read grades."""
    excluded: frozenset[str]
    """Ids of all positives of known sources, including other stages, and of the ignored passages."""
    judged_negatives: frozenset[str]
    """Ids of the `negatives` that a judge decided; mined negatives are not among them."""
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
        self.teacher = self._teacher()
        """Target of distillation: probabilities or scores; None if nothing is distilled."""
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
        view = View(known, selected, self.teacher, pool=self.store.pool(int(place)))
        return label_query(examples, view, self.store.same, config=self.config)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: EpochRow) -> Group:
        epoch, row = index
        group = draw_group(self.query(row if row >= 0 else -1 - row), epoch, self.config)
        return group if row >= 0 else inert(group)

    def _teacher(self) -> Teacher | None:
        """Raise `DataError` where labels that should teach have neither probabilities nor scores."""
        alone = OBJECTIVES[self.config.objective].reads == "teacher"
        if not alone and not self.config.distil_weight:
            return None
        # A reranker's own scores say more than probabilities that were fitted to them.
        preferred = reversed(TEACHERS) if self.store.facts.scored_by else TEACHERS
        kinds: tuple[Teacher, ...] = (self.config.teacher,) if self.config.teacher else tuple(preferred)
        labels = {kind: self._labels_with(TEACHERS[kind]) for kind in kinds}
        for kind in kinds:
            having, every = labels[kind]
            if having == every:
                return kind
        best = max(kinds, key=lambda kind: labels[kind][0])
        having, every = labels[best]
        if alone or not having:
            learner = self.config.objective if alone else "distil_weight"
            raise DataError(
                f"{every - having:,} of the {every:,} labels of {self.config.labels!r} have no "
                f"{' and no '.join(kinds)}, from which {learner} learns; "
                "select labels that have one (labels), or choose another objective"
            )
        return best

    def _labels_with(self, column: str) -> tuple[int, int]:
        """Count the positives and negatives of the set's queries that have a value in a column, and all of them."""

        def known(role: str, batch: pa.RecordBatch) -> pa.Array:
            if f"{role}_{column}" in batch.schema.names:
                return pc.is_valid(batch.column(f"{role}_{column}").flatten())
            return pa.array(np.zeros(len(batch.column(f"{role}_sources").flatten()), dtype=bool))

        having, every = 0, 0
        for role, sources in (("positive", self.selected), ("negative", self.known)):
            every += int(self._labels(role, sources, lambda batch: None)[self.rows].sum())
            having += int(self._labels(role, sources, partial(known, role))[self.rows].sum())
        return having, every

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

        def good(batch: pa.RecordBatch) -> pa.Array | None:
            counted = None
            for name, least in (("grades", self.config.min_grade), ("probabilities", self.config.min_probability)):
                if least is not None:
                    values = batch.column(f"positive_{name}").flatten()
                    enough = pc.fill_null(pc.greater_equal(values, least), False)
                    counted = enough if counted is None else pc.and_(counted, enough)
            return counted

        return self._labels("positive", sources, good)

    def _labels(
        self, role: str, sources: Collection[str], good: Callable[[pa.RecordBatch], pa.Array | None]
    ) -> NDArray[np.int64]:
        """Count the labels of some sources for which `good` is True, or all if it is None, `[rows of the store]`."""
        name = self.store.table_of(sources)
        counts = [np.zeros(0, dtype=np.int64)]
        for batch in self.store.labels[name].to_batches():
            each = batch.column(f"{role}_sources")
            counted = pc.is_in(each.flatten(), value_set=pa.array(sorted(sources), pa.string()))
            if (among := good(batch)) is not None:
                counted = pc.and_(counted, among)
            ends = each.offsets.to_numpy()
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


class View(NamedTuple):
    """Which labels of a query a stage uses, and the pool of the query."""

    known: Collection[str]
    """Sources whose labels count. Labels of other sources are treated as missing: their passages are unjudged."""
    selected: Collection[str]
    """Sources whose positives are trained on."""
    teacher: Teacher | None
    pool: Mapping[str, int]
    """Passage id in the pool, judged or not -> best rank."""


def label_query(examples: Sequence[Example], view: View, same: Mapping[str, str], config: FitConfig) -> LabelledQuery:
    """Rank and weight the positives of the selected sources, and collect the passages that may not be negatives.

    `examples` are the query and its labels in each relevant table. `same` maps the id of each duplicated text to the
    first id with that text.
    """
    positives: dict[str, Positive] = {}
    between: dict[str, Negative] = {}
    excluded: set[str] = set()
    unjudged = {same.get(name, name) for name in view.pool}
    by_rank = sorted(
        (label for one in examples for label in one.positives),
        key=_rank(view, (config.seed, "tie", examples[0].query_id)),
    )
    for label in by_rank:
        name = same.get(label.passage_id, label.passage_id)
        if label.source not in view.known:
            unjudged.add(name)
            continue
        excluded.add(name)
        if label.source in view.selected and _reaches(label, config):
            positives.setdefault(name, _positive(name, label, view, config=config))
        elif label.grade == BETWEEN:
            between.setdefault(name, _negative(name, label, view))
    for label in (label for one in examples for label in one.ignored):
        name = same.get(label.passage_id, label.passage_id)
        (excluded if label.source in view.known else unjudged).add(name)
        if label.source in view.known and label.grade == BETWEEN:
            between.setdefault(name, _negative(name, label, view))
    negatives: dict[str, Negative] = {}
    judged: set[str] = set()
    for label in sorted((label for one in examples for label in one.negatives), key=lambda one: one.passage_id):
        name = same.get(label.passage_id, label.passage_id)
        if label.source not in view.known:
            unjudged.add(name)
        elif name not in excluded:
            negatives.setdefault(name, _negative(name, label, view, grade=0.0))
            judged.update(() if label.source == MINED else (name,))
    return LabelledQuery(
        query_id=examples[0].query_id,
        query=examples[0].query,
        positives=tuple(positives.values()),
        grades={name: positive.grade for name, positive in positives.items()},
        negatives=tuple(negatives.values()),
        between=tuple(one for name, one in sorted(between.items()) if name not in positives),
        excluded=frozenset(excluded),
        judged_negatives=frozenset(judged),
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
    judged = (*query.negatives, *(query.between if objective.reads == "grades" else ()))
    filling = set(draw((one.passage_id for one in judged), space, scope))
    negatives = [negative for negative in judged if negative.passage_id in filling]
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
    passages = tuple(Negative(member.passage_id) for member in group.members)
    return replace(group, positives=(), negatives=passages)


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


def _reaches(label: Label, config: FitConfig) -> bool:
    """Check that a positive reaches the stage's minimum grade and probability."""
    for value, least in ((label.grade, config.min_grade), (label.probability, config.min_probability)):
        if least is not None and (value is None or value < least):
            return False
    return True


def _weight(label: Label, config: FitConfig) -> float:
    weight = label.weight * (1.0 if label.source == MINED else config.source_weights.get(label.source, 1.0))
    sure = config.weight_by_probability and label.probability is not None
    return weight * max(label.probability or 0.0, DOUBT) if sure else weight


def _positive(name: str, label: Label, view: View, config: FitConfig) -> Positive:
    return Positive(
        name,
        _weight(label, config),
        label.source,
        target=_target(label, view.teacher),
        grade=float(max(label.grade or 1, 1)),
        probability=1.0 if label.probability is None else label.probability,
    )


def _negative(name: str, label: Label, view: View, grade: float = float(BETWEEN)) -> Negative:
    return Negative(name, _target(label, view.teacher), grade=grade, probability=label.probability or 0.0)


def _target(label: Label, teacher: Teacher | None) -> float | None:
    """Compute the target of a label: its raw score or its log-odds of relevance; None if it has none."""
    if teacher is None or teacher == "score" or label.probability is None:
        return label.score if teacher == "score" else None
    probability = min(max(label.probability, DOUBT), 1 - DOUBT)
    return math.log(probability / (1 - probability))


def _rank(view: View, scope: DrawScope) -> Callable[[Label], tuple[Any, ...]]:
    """Make the key that sorts positives, best first."""
    lot = lots(scope)

    def lower(value: float | None) -> float:
        return math.inf if value is None else -value

    def key(label: Label) -> tuple[Any, ...]:
        said = (lower(label.probability), lower(label.score), lower(label.grade))
        place = view.pool.get(label.passage_id, math.inf)
        return (label.source != "human", *said, place, lot(label.passage_id), label.passage_id)

    return key
