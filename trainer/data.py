"""From a dataset to the groups of an epoch, and from groups to what the encoder reads.

What is drawn for a query is a pure function of the seed, the epoch and the query's id: neither the order of
the file, nor the batch, nor the process a query falls into plays a part. An index into `TrainingSet` is the
pair (epoch, row), so the dataset needs no state that says which epoch it is.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from labelkit.dataset import Dataset
from labelkit.errors import DataError
from labelkit.schema import Example, Label
from trainer.batch import Group, Positive, lay_out
from trainer.config import FitConfig

EpochRow = tuple[int, int]
"""Epoch (from 0) and row of the training set."""


@dataclass(frozen=True)
class LabelledQuery:
    """All that the dataset knows of one query that has positives."""

    query_id: str
    query: str
    positives: tuple[Positive, ...]
    """Every known positive, the best first: human before other sources, then by grade, probability and id."""
    negatives: tuple[str, ...]
    excluded: frozenset[str]
    """Ids of all positives and of the ignored passages."""


class TrainingSet(TorchDataset[Group]):
    """The queries of a dataset that can be trained on. Queries without positives are left out and counted."""

    def __init__(self, dataset: Dataset, config: FitConfig) -> None:
        """Raises `DataError` for a label whose passage is not in the corpus, or that cannot be weighted."""
        self.config = config
        same = _same_text(dataset)
        labelled = [label_query(example, same) for example in dataset.examples]
        _check_unique(labelled)
        self.queries = [query for query in labelled if query.positives]
        if not self.queries:
            raise DataError(
                f"none of the dataset's {len(labelled)} queries has a positive; there is nothing to train on"
            )
        used = {name for query in self.queries for name in (*query.excluded, *query.negatives)}
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
        return draw_group(self.queries[row], epoch, self.config)


def label_query(example: Example, same: dict[str, str]) -> LabelledQuery:
    """Rank the positives and collect what may not be a negative.

    `same` renames passages that repeat another's text.
    """
    positives: dict[str, Positive] = {}
    for label in sorted(example.positives, key=_rank):
        name = same.get(label.passage_id, label.passage_id)
        positives.setdefault(name, Positive(name, label.weight, label.source))
    ignored = {same.get(label.passage_id, label.passage_id) for label in example.ignored}
    excluded = frozenset(positives) | ignored
    negatives = {same.get(label.passage_id, label.passage_id) for label in example.negatives} - excluded
    return LabelledQuery(example.query_id, example.query, tuple(positives.values()), tuple(sorted(negatives)), excluded)


def draw_group(query: LabelledQuery, epoch: int, config: FitConfig) -> Group:
    """The group of a query in an epoch: positives by the objective's rule, judged negatives to fill it up."""
    choose = POSITIVE_CHOICES.get(config.objective, draw)
    scope = (config.seed, epoch, query.query_id)
    chosen = choose([positive.passage_id for positive in query.positives], config.max_positives, scope)
    positives = tuple(positive for positive in query.positives if positive.passage_id in chosen)
    negatives = draw(query.negatives, config.group_size - len(positives), scope)
    return Group(query.query_id, query.query, positives, tuple(negatives), query.excluded)


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
    "singlelh": _best,
    "rand1lh": _one,
}
"""Objective -> (ids best first, max_positives, scope) -> ids of its positives. The others draw several."""


class BatchOrder(Sampler[list[EpochRow]]):
    """The batches of an epoch: all queries once, in an order decided by seed and epoch."""

    drop_last = False

    def __init__(self, queries: Sequence[LabelledQuery], batch_size: int, seed: int) -> None:
        self.row_of = {query.query_id: row for row, query in enumerate(queries)}
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.row_of) / self.batch_size)

    def __iter__(self) -> Iterator[list[EpochRow]]:
        order = draw(self.row_of, len(self.row_of), (self.seed, self.epoch, "order"))
        for start in range(0, len(order), self.batch_size):
            yield [(self.epoch, self.row_of[query_id]) for query_id in order[start : start + self.batch_size]]


@dataclass(frozen=True)
class Collator:
    """Groups -> tokens of the queries (`query_*`) and unique passages (`document_*`), layout under `label`.

    The prefixes and `label` are what sentence-transformers' trainer hands on to the loss.
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
        passage_ids, layout = lay_out(groups)
        texts = [self.passages[passage_id] for passage_id in passage_ids]
        queries = [group.query for group in groups]
        return {
            **self._tokens("query", queries, self.query_prompt, self.max_query_length),
            **self._tokens("document", texts, self.passage_prompt, self.max_passage_length),
            "label": vars(layout).copy(),
        }

    def _tokens(self, task: str, texts: list[str], prompt: str | None, max_length: int | None) -> dict[str, Any]:
        limit = {} if max_length is None else {"max_length": max_length}
        tokens = self.preprocess(texts, prompt=prompt, task=task, **limit)
        return {f"{task}_{key}": value for key, value in (tokens | {"task": task}).items()}


def _check_unique(queries: Sequence[LabelledQuery]) -> None:
    seen: set[str] = set()
    for query in queries:
        if query.query_id in seen:
            raise DataError(f"query id {query.query_id!r} stands twice in the dataset's train table")
        seen.add(query.query_id)


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
