"""Raters: people and models with their judgements as columns, so that millions of pairs fit in memory.

All raters that are read together share the numbers of their pairs, which are in the order of query id and passage id.
A pair takes 8 bytes of memory, and its judgement by one rater at most 33.
"""

from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from labelkit.errors import UsageError
from labelkit.quality.agreement_metrics import RELEVANT, Floats
from labelkit.records import PairIds

FAILED, SCORED = -1, -2
"""In a column of grades: a failure, and a reranker's score without a grade."""
MISSING: dict[str, Any] = {
    "grade": np.int8(FAILED),
    "score": np.float64(np.nan),
    "relevance": np.float64(np.nan),
    "position": np.int32(0),
    "seed": np.int64(-1),
}
"""Column of a judgement -> its value if it is missing, which also gives its type."""

Numbers = NDArray[np.int32]


class Pairs(NamedTuple):
    """All pairs of some raters, numbered in the order of query id and passage id."""

    query: Numbers
    """`[P]` number of each pair's query, in the order of ids."""
    passage: Numbers
    """`[P]` number of each pair's passage, in the order of ids."""
    query_ids: pa.Array
    passage_ids: pa.Array

    @property
    def key(self) -> NDArray[np.int64]:
        """`[P]` a number of each pair that increases with it and follows from the numbers of query and passage."""
        found: NDArray[np.int64] = self.query.astype(np.int64) * max(1, len(self.passage_ids)) + self.passage
        return found

    def query_ids_of(self, pair: NDArray[Any]) -> pa.Array:
        """Return the query ids of some pairs, given by their numbers."""
        return self.query_ids.take(pa.array(self.query[pair]))

    def passage_ids_of(self, pair: NDArray[Any]) -> pa.Array:
        """Return the passage ids of some pairs, given by their numbers."""
        return self.passage_ids.take(pa.array(self.passage[pair]))

    def ids(self, pair: NDArray[Any]) -> list[PairIds]:
        """Return query id and passage id of some pairs, given by their numbers."""
        return list(zip(self.query_ids_of(pair).to_pylist(), self.passage_ids_of(pair).to_pylist(), strict=True))


class Rater(NamedTuple):
    """A person or model that graded pairs, with one row per judgement, in the order of pairs."""

    rater_id: str
    name: str
    kind: str
    """human, llm or imported."""
    family: str | None
    """Families of the model; None if they are unknown."""
    imported: bool
    """Whether its grades were made with another tool and imported."""
    source: int
    """Number of the file or folder with its judgements: the qrels, then the folders, in the given order."""
    pairs: Pairs
    pair: Numbers
    """`[n]` numbers of the judged pairs, increasing."""
    grade: NDArray[np.int8]
    """`[n]` grades from 0 to 3, `FAILED` or `SCORED`."""
    score: Floats
    """`[n]` the judge's scores; nan if it gave none."""
    relevance: Floats
    """`[n]` P(grade >= 2) by the judge's own label probabilities; nan if it gave none."""
    position: Numbers
    """`[n]` places in the judge's lists, from 1; 0 if there was no list."""
    seed: NDArray[np.int64]
    """`[n]` seeds of the orders of these lists; -1 if there is none."""

    @property
    def identity(self) -> tuple[str, ...]:
        """The key by which judges of two labels folders are the same: the id, or for imported judges kind and name.

        The id of an imported judge contains the sha256 of the imported file.
        """
        return (self.kind, self.name) if self.imported else (self.rater_id,)

    @property
    def graded(self) -> NDArray[np.bool_]:
        """`[n]` whether the rater graded the pair."""
        given: NDArray[np.bool_] = self.grade >= 0
        return given

    @property
    def answered(self) -> NDArray[np.bool_]:
        """`[n]` whether the rater gave the pair a grade or a score."""
        given: NDArray[np.bool_] = self.grade != FAILED
        return given

    @property
    def score_only(self) -> bool:
        """Whether the rater gives scores without grades, as a reranker does."""
        return bool((self.grade == SCORED).any()) and not self.graded.any()

    @property
    def query(self) -> Numbers:
        """`[n]` numbers of the pairs' queries."""
        return self.pairs.query[self.pair]

    @property
    def rank_score(self) -> Floats:
        """`[n]` scores for ranking: the judge's score, else its grade; 0 for a failure."""
        found: Floats = np.where(np.isnan(self.score), np.maximum(self.grade, 0), self.score)
        return found

    @property
    def belief(self) -> Floats:
        """`[n]` P(grade >= 2): by label probabilities, else 0 or 1 by the grade; nan for a failure."""
        own = np.where(np.isnan(self.relevance), self.grade >= RELEVANT, self.relevance)
        found: Floats = np.where(self.graded, own, np.nan)
        return found

    def rows(self, pair: NDArray[Any]) -> Numbers:
        """Return the row of each of `[m]` pairs; -1 for a pair that was not judged."""
        place = np.full(len(self.pairs.query), -1, dtype=np.int32)
        place[self.pair] = np.arange(len(self.pair), dtype=np.int32)
        found: Numbers = place[pair]
        return found

    def grades_of(self, pair: NDArray[Any]) -> NDArray[np.int8]:
        """Return the grade of each of `[m]` pairs; `FAILED` also for a pair that was not judged."""
        grade = np.full(len(self.pairs.query), FAILED, dtype=np.int8)
        grade[self.pair] = self.grade
        found: NDArray[np.int8] = grade[pair]
        return found

    def take(self, rows: NDArray[Any]) -> "Rater":
        """Return the rater with only some of its rows: increasing numbers, or a mask `[n]`."""
        if rows.dtype == bool and rows.all():
            return self
        size = int(rows.sum()) if rows.dtype == bool else len(rows)
        columns: dict[str, Any] = {name: getattr(self, name) for name in ("pair", *MISSING)}
        for name, values in columns.items():
            # A missing column repeats one value, and is not copied.
            repeats = len(values) and not any(values.strides)
            columns[name] = np.broadcast_to(values[0], size) if repeats else values[rows]
        return self._replace(**columns)

    def only(self, pair: NDArray[Any]) -> "Rater":
        """Return the rater with only its judgements of some pairs, given by their numbers, increasing."""
        rows = self.rows(pair)
        return self.take(rows[rows >= 0])


def joined(raters: Iterable[Rater]) -> list[Rater]:
    """Join raters of the same identity to one rater with all their judgements.

    Raises `UsageError` if a rater judged the same pair in two labels folders.
    """
    found: dict[tuple[str, ...], Rater] = {}
    for rater in raters:
        earlier = found.get(rater.identity)
        found[rater.identity] = rater if earlier is None else _join(earlier, rater)
    return list(found.values())


def _join(one: Rater, other: Rater) -> Rater:
    if len(twice := np.intersect1d(one.pair, other.pair)):
        ((query_id, passage_id),) = one.pairs.ids(twice[:1])
        raise UsageError(
            f"judge {one.name!r} ({one.kind}) judged query {query_id!r}, passage {passage_id!r} in two of these "
            "labels; give one of them, or import the other under another name"
        )
    columns = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("pair", *MISSING)}
    return one._replace(**columns).take(np.argsort(columns["pair"]))


def pairs_of(raters: Iterable[Rater]) -> Numbers:
    """Return the numbers, increasing, of the pairs that any of some raters judged."""
    numbers: Numbers = reduce(union, (rater.pair for rater in raters))
    return numbers


def answered(raters: Iterable[Rater]) -> NDArray[np.bool_]:
    """Return which pairs any of some raters gave a grade or a score, `[P]`."""
    found: NDArray[np.bool_] = np.zeros(0, dtype=bool)
    for rater in raters:
        found = found if len(found) else np.zeros(len(rater.pairs.query), dtype=bool)
        found[rater.pair[rater.answered]] = True
    return found


def union(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers that are in one of two increasing arrays, increasing."""
    return one if np.array_equal(one, other) else np.union1d(one, other)
