"""From a dataset to the groups of an epoch, and from groups to what the encoder reads.

What is drawn for a query is a pure function of the seed, the epoch and the query's id: neither the order of
the file, nor the batch, nor the process a query falls into plays a part. An index into `TrainingSet` is the
pair (epoch, row), so the dataset needs no state that says which epoch it is.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from labelkit.dataset import Dataset
from labelkit.errors import DataError
from labelkit.schema import Example, Label
from trainer.batch import Group, Negative, Positive, lay_out, passages_of
from trainer.config import FitConfig
from trainer.objectives import OBJECTIVES

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
    """Every known positive, the best first: human before other sources, then by grade, probability and id."""
    negatives: tuple[Negative, ...]
    excluded: frozenset[str]
    """Ids of all positives and of the ignored passages."""
    judged_negatives: frozenset[str]


class TrainingSet(TorchDataset[Group]):
    """The queries of a dataset that can be trained on. Queries without positives are left out and counted."""

    def __init__(self, dataset: Dataset, config: FitConfig) -> None:
        """Raises `DataError` for a label whose passage is not in the corpus, or that cannot be weighted."""
        self.config = config
        same = _same_text(dataset)
        labelled = [label_query(example, same, config) for example in dataset.examples]
        _check_unique(labelled)
        self.queries = [query for query in labelled if query.positives]
        if not self.queries:
            raise DataError(
                f"none of the dataset's {len(labelled)} queries has a positive; there is nothing to train on"
            )
        used = {name for query in self.queries for name in query.excluded | query.judged_negatives}
        self.passages = {name: dataset.corpus[name].full_text for name in sorted(used)}
        """Text by id, of every passage that may be drawn."""
        self.counts = {
            "queries": len(labelled),
            "queries_without_positives": len(labelled) - len(self.queries),
            "queries_without_negatives": sum(not query.negatives for query in self.queries),
            "passages_with_the_text_of_another": len(same),
        }

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: EpochRow) -> Group:
        epoch, row = index
        group = draw_group(self.queries[row if row >= 0 else -1 - row], epoch, self.config)
        return group if row >= 0 else inert(group)


def label_query(example: Example, same: dict[str, str], config: FitConfig) -> LabelledQuery:
    """Rank and weight the positives, and collect what may not be a negative.

    `same` renames passages that repeat another's text.
    """
    positives: dict[str, Positive] = {}
    for label in sorted(example.positives, key=_rank):
        name = same.get(label.passage_id, label.passage_id)
        positives.setdefault(name, Positive(name, _weight(label, config), label.source, _target(label, 1.0)))
    ignored = {same.get(label.passage_id, label.passage_id) for label in example.ignored}
    excluded = frozenset(positives) | ignored
    negatives: dict[str, Negative] = {}
    for label in sorted(example.negatives, key=lambda one: one.passage_id):
        name = same.get(label.passage_id, label.passage_id)
        if name not in excluded:
            negatives.setdefault(name, Negative(name, _target(label, 0.0)))
    return LabelledQuery(
        query_id=example.query_id,
        query=example.query,
        positives=tuple(positives.values()),
        negatives=tuple(negatives.values()),
        excluded=excluded,
        judged_negatives=frozenset(negatives),
    )


def draw_group(query: LabelledQuery, epoch: int, config: FitConfig) -> Group:
    """The group of a query in an epoch: positives by the objective's rule, judged negatives to fill it up."""
    choose = POSITIVE_CHOICES[OBJECTIVES[config.objective].positives]
    scope = (config.seed, epoch, query.query_id)
    chosen = choose([positive.passage_id for positive in query.positives], config.max_positives, scope)
    positives = tuple(positive for positive in query.positives if positive.passage_id in chosen)
    filling = set(draw(query.judged_negatives, config.group_size - len(positives), scope))
    negatives = tuple(negative for negative in query.negatives if negative.passage_id in filling)
    return Group(query.query_id, query.query, positives, negatives, query.excluded, query.judged_negatives)


def inert(group: Group) -> Group:
    """The same passages for a query that nothing is learnt from."""
    passages = tuple(Negative(positive.passage_id) for positive in group.positives)
    return replace(group, positives=(), negatives=passages + group.negatives)


def share_of(items: Sequence[Any], process: int, processes: int) -> Sequence[Any]:
    """The even slice of a batch that a process gets; none where there are more processes than items."""
    return items[process * len(items) // processes : (process + 1) * len(items) // processes]


def draw(names: Iterable[str], count: int, scope: tuple[Any, ...]) -> list[str]:
    """`count` of the names without replacement, uniformly: those whose hash with the scope is smallest.

    The scope (seed, epoch, query id) is all the randomness there is. The order of the names plays no part.
    """
    keyed = blake2b(repr(scope).encode(), digest_size=16)

    def key(name: str) -> tuple[bytes, str]:
        hasher = keyed.copy()
        hasher.update(name.encode())
        return hasher.digest(), name

    return heapq.nsmallest(count, names, key=key)


def _best(names: Sequence[str], count: int, scope: tuple[Any, ...]) -> Sequence[str]:
    return names[:1]


def _one(names: Sequence[str], count: int, scope: tuple[Any, ...]) -> Sequence[str]:
    return draw(names, 1, scope)


POSITIVE_CHOICES: dict[str, Callable[[Sequence[str], int, tuple[Any, ...]], Sequence[str]]] = {
    "best": _best,
    "random": _one,
    "several": draw,
}
"""`Objective.positives` -> (ids best first, max_positives, scope) -> ids of its positives."""


class BatchOrder(Sampler[list[EpochRow]]):
    """The batches of an epoch: all queries once, in an order decided by seed and epoch.

    Of each batch a process gets its own even slice, so that the batches are the same for any number of processes.
    """

    drop_last = False

    def __init__(
        self, queries: Sequence[LabelledQuery], batch_size: int, seed: int, process: int = 0, processes: int = 1
    ) -> None:
        self.row_of = {query.query_id: row for row, query in enumerate(queries)}
        self.batch_size = batch_size
        self.seed = seed
        self.process = process
        self.processes = processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.row_of) / self.batch_size)

    def __iter__(self) -> Iterator[list[EpochRow]]:
        order = draw(self.row_of, len(self.row_of), (self.seed, self.epoch, "order"))
        for start in range(0, len(order), self.batch_size):
            rows = [self.row_of[query_id] for query_id in order[start : start + self.batch_size]]
            # A process that a small batch leaves without a query takes part all the same: the others wait for it.
            share = share_of(rows, self.process, self.processes) or [-1 - rows[0]]
            yield [(self.epoch, row) for row in share]


@dataclass(frozen=True)
class Collator:
    """Groups -> tokens of the queries (`query_*`) and unique passages (`document_*`), layout under `label`.

    Both are sorted by length, the longest first, so that mini-batches of neighbours hold little padding. The prefixes
    and `label` are what sentence-transformers' trainer hands on to the loss.
    """

    preprocess: Callable[..., dict[str, Any]]
    """`SentenceTransformer.preprocess`."""
    passages: Mapping[str, str]
    """Text by id."""
    query_prompt: str | None
    passage_prompt: str | None
    max_query_length: int | None
    max_passage_length: int | None

    def __call__(self, groups: Sequence[Group]) -> dict[str, Any]:
        passage_ids = passages_of(groups)
        queries, by_query = self._tokens(
            "query", [group.query for group in groups], self.query_prompt, self.max_query_length
        )
        documents, by_passage = self._tokens(
            "document", [self.passages[name] for name in passage_ids], self.passage_prompt, self.max_passage_length
        )
        layout = lay_out([groups[row] for row in by_query], [passage_ids[row] for row in by_passage])
        return {**queries, **documents, "label": vars(layout).copy()}

    def _tokens(
        self, task: str, texts: list[str], prompt: str | None, max_length: int | None
    ) -> tuple[dict[str, Any], Sequence[int]]:
        limit = {} if max_length is None else {"max_length": max_length}
        tokens = self.preprocess(texts, prompt=prompt, task=task, **limit)
        order: Sequence[int] = range(len(texts))
        attention = tokens.get("attention_mask")
        # Word-vector models have no attention mask: their texts are not padded.
        if attention is not None and attention.shape[0] == len(texts):
            by_length = attention.sum(dim=1).argsort(descending=True, stable=True)
            tokens = {
                key: value[by_length] if isinstance(value, Tensor) and len(value) == len(texts) else value
                for key, value in tokens.items()
            }
            order = by_length.tolist()
        return {f"{task}_{key}": value for key, value in (tokens | {"task": task}).items()}, order


def _check_unique(queries: Sequence[LabelledQuery]) -> None:
    seen: set[str] = set()
    for query in queries:
        if query.query_id in seen:
            raise DataError(f"query id {query.query_id!r} stands twice in the dataset's train table")
        seen.add(query.query_id)


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


def _same_text(dataset: Dataset) -> dict[str, str]:
    """Passage id -> the first id with the same text, for labelled passages that repeat another's text.

    Two ids with one text are one passage to the encoder: as positive and negative of a query they would
    cancel out.
    """
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    labelled = {
        label.passage_id: example.query_id
        for example in dataset.examples
        for label in (*example.positives, *example.negatives, *example.ignored)
    }
    for passage_id in sorted(labelled):
        passage = dataset.corpus.get(passage_id)
        if passage is None:
            raise DataError(f"query {labelled[passage_id]!r} labels passage {passage_id!r}, which is not in the corpus")
        original = first.setdefault(passage.full_text, passage_id)
        if original != passage_id:
            same[passage_id] = original
    return same
