"""Keep the state of every task of a run in 35 bytes, so that a run of millions of tasks fits in memory."""

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from labelkit.judging.key_set import KEYS, KeySet, short
from labelkit.judging.tasks import Task

Array = Any
"""A numpy array, whose docstring gives its shape and type."""


class TaskStates:
    """The unfinished tasks of a run. A task is known by its number, from 0 in judging order.

    Tasks with equal keys need the same replies. Only the first of them waits for replies, on behalf of all.
    """

    def __init__(self, *, listwise: bool) -> None:
        self._listwise = listwise
        self._keys = bytearray()
        self._pairs = array("i")
        """Pairs of each task that are counted with it: each pair is counted at its first look, vote or order."""
        self._starts = array("q", [0])
        """Number of the first task of each query, and at the end the number of tasks."""
        self.waiting: Array = np.zeros(0, dtype=bool)
        """Tasks that wait for a reply: [tasks], bool."""
        self.pairs_for: Array = np.zeros(0, dtype=np.int32)
        """Pairs that are judged when a task has its last reply: [tasks], int32."""

    def add(self, tasks: Sequence[Task]) -> None:
        """Add the tasks of the next query."""
        self._keys += b"".join(short(task.key) for task in tasks)
        self._pairs.extend(0 if task.variant else len(task.passage_ids) for task in tasks)
        self._starts.append(len(self._pairs))

    @property
    def pairs(self) -> int:
        """Number of pairs in all tasks."""
        return int(np.frombuffer(self._pairs, dtype=np.int32).sum(dtype=np.int64)) if self._pairs else 0

    def start(self, query: int) -> int:
        """Return the number of the first task of a query."""
        return self._starts[query]

    def group(self, answered: KeySet, new: Sequence[str] = ()) -> None:
        """Find tasks with equal keys, after the last query was added. The first ones without an answer wait.

        `new`: keys that were answered in this run, so that their pairs do not count as known.
        """
        keys = np.frombuffer(self._keys, dtype=KEYS)
        pairs = np.frombuffer(self._pairs, dtype=np.int32)
        self._order = np.argsort(keys, kind="stable")
        ordered = keys[self._order]
        self._firsts = np.flatnonzero(np.concatenate([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]]))
        leaders = self._order[self._firsts]
        self._new = (
            np.isin(keys, np.array(list(map(short, new)), dtype=KEYS)) if new else np.zeros(len(keys), dtype=bool)
        )
        self.waiting = np.zeros(len(keys), dtype=bool)
        self.waiting[leaders] = ~answered.has(ordered[self._firsts])
        self.pairs_for = np.zeros(len(keys), dtype=np.int32)
        if len(leaders):
            self.pairs_for[leaders] = np.add.reduceat(pairs[self._order], self._firsts)
        self._keys = bytearray()

    def any_answered(self) -> bool:
        """Return whether any task has its first reply, after `group`."""
        return int(self.waiting.sum()) < len(self._firsts)

    def answered(self) -> Iterator[tuple[int, Array]]:
        """Yield the queries with tasks that have their first reply, each with these tasks: [tasks of the query], bool.

        Of tasks with equal keys, only the first one is meant.
        """
        leaders = np.zeros(len(self.waiting), dtype=bool)
        leaders[self._order[self._firsts]] = True
        yield from self._by_query(leaders & ~self.waiting)

    def unfinished(self) -> Iterator[tuple[int, Array]]:
        """Yield the queries with tasks that wait for a reply, each with these tasks: [tasks of the query], bool.

        Tasks that change while their query is read are yielded as they were before.
        """
        yield from self._by_query(self.waiting)

    def _by_query(self, wanted: Array) -> Iterator[tuple[int, Array]]:
        if not len(wanted):
            return
        starts = np.frombuffer(self._starts, dtype=np.int64)
        for query in np.flatnonzero(np.logical_or.reduceat(wanted, starts[:-1])).tolist():
            yield query, wanted[starts[query] : starts[query + 1]].copy()

    def counts(self) -> tuple[int, int, int]:
        """Return the number of pairs that need no more replies at their first look, vote or order, the number of those
        that this run answered, and of those that need no reply at all and were answered earlier. Call it once, after
        tasks with replies were looked at.
        """
        if not len(self.waiting):
            return 0, 0, 0
        pairs = np.frombuffer(self._pairs, dtype=np.int32)
        sizes = np.diff(np.append(self._firsts, len(self._order)))
        done = np.zeros(len(self.waiting), dtype=bool)
        done[self._order] = np.repeat(~self.waiting[self._order[self._firsts]], sizes)
        del self._order, self._firsts
        units = np.frombuffer(self._starts, dtype=np.int64)[:-1] if self._listwise else np.flatnonzero(pairs)
        known = np.add.reduceat(pairs, units)[np.logical_and.reduceat(done & ~self._new, units)]
        new = pairs[done & self._new]
        del self._new
        return int(pairs[done].sum(dtype=np.int64)), int(new.sum(dtype=np.int64)), int(known.sum(dtype=np.int64))
