"""Divide texts into tasks: passages that a judge is asked about together, in a given order.

A task is one window of passages of one query (a single passage in a pointwise method), judged once. Each order and each
vote is a task of its own.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from labelkit.engines import Request
from labelkit.engines.tokenizers import Tokens, bound
from labelkit.judging.defences import MARKS
from labelkit.judging.journal import Asked
from labelkit.judging.methods import Judging
from labelkit.judging.methods.steps import Ask
from labelkit.judging.methods.utilsel import ANSWER_TOKENS
from labelkit.judging.reading import Reading, Texts
from labelkit.judging.request_keys import digest, identity_of, request_key
from labelkit.storage.manifest import LabelsFacts

VOTE_TEMPERATURE = 1.0
"""Temperature of votes: they are sampled from the judge's own distribution."""


class Task(NamedTuple):
    """Passages that are shown together, in the order shown."""

    query_id: str
    passage_ids: tuple[str, ...]
    variant: int
    window: int
    seed: int | None
    key: str
    """Key of the first request."""


class Room(NamedTuple):
    """The capacity of a judge for one request."""

    tokens: Tokens | None
    """Tokenizer of the judge; None if there is none, so that tokens are counted as bytes."""
    context: int | None
    """Most tokens of a prompt and its answer together; None if only the server knows."""


class Work:
    """The tasks of one run, query by query, and their requests."""

    def __init__(self, judging: Judging, reading: Reading, texts: Texts, *, room: Room | None = None) -> None:
        """Make the tasks. A list that does not fit the judge's `room` is split into windows of nearly equal size."""
        self.judging = judging
        self._reading = reading
        self._texts = texts
        self._room = room
        self._identity = digest(identity_of(judging.judge))
        self.tasks: list[Task] = []
        self._most_windows = self._in_windows = 0
        for query_id, group in groupby(texts.pairs, key=lambda pair: pair[0]):
            ids = [passage_id for _, passage_id in group]
            self.tasks += self._listed(query_id, ids) if judging.listwise else self._alone(query_id, ids)

    @property
    def tokens(self) -> Tokens | None:
        """Tokenizer of the judge; None if there is none."""
        return self._room.tokens if self._room else None

    @property
    def facts(self) -> LabelsFacts:
        """Facts about texts, orders and windows for the manifest of the run."""
        facts: dict[str, Any] = dict(self._texts.facts)
        if self.judging.listwise:
            facts |= {"permutations": self._reading.permutations}
            facts |= {"queries_in_windows": self._in_windows, "most_windows": self._most_windows}
        elif self._reading.votes > 1:
            facts |= {"votes": self._reading.votes}
        return LabelsFacts(**facts)

    @cached_property
    def pairs(self) -> set[tuple[str, str, str]]:
        """Judge, query and passage of every pair."""
        judge_id = self.judging.judge.judge_id
        return {(judge_id, task.query_id, passage_id) for task in self.tasks for passage_id in task.passage_ids}

    def request(self, task: Task, ask: Ask, key: str) -> Request:
        """Return the request of one step of a task."""
        voted = self._reading.votes > 1
        passages = [self._texts.passages[task.passage_ids[place]] for place in ask.shown]
        if task.variant and "second-look" in self._reading.defences:
            passages = [self._texts.without_query[task.query_id, task.passage_ids[0]]]
        return Request(
            key=key,
            group=task.query_id,
            messages=self.judging.prompt.render(
                ask.step,
                self._texts.queries[task.query_id],
                passages,
                answer=ask.answer,
                marked="nonce" in self._reading.defences,
            ),
            labels=ask.labels,
            pattern=ask.pattern,
            max_tokens=ask.max_tokens,
            temperature=VOTE_TEMPERATURE if voted else 0.0,
            seed=task.seed if voted else None,
        )

    def _alone(self, query_id: str, ids: Iterable[str]) -> Iterator[Task]:
        """Yield the tasks of each pair: one per vote, and another one for a second look."""
        for passage_id in ids:
            votes = self._reading.votes + ((query_id, passage_id) in self._texts.without_query)
            for vote in range(votes):
                seed = self._reading.seed + vote if self._reading.votes > 1 else None
                yield self._keyed(Task(query_id, (passage_id,), vote, window=0, seed=seed, key=""))

    def _listed(self, query_id: str, ids: Sequence[str]) -> Iterator[Task]:
        """Yield the windows of a query in each of its orders."""
        sizes, most = self._sizes(query_id, ids)
        windowed = False
        for variant in range(self._reading.permutations):
            seed = self._reading.seed + variant
            order = [ids[place] for place in shuffled(len(ids), seed, query_id)]
            for number, window in enumerate(windows(order, sizes, most)):
                self._most_windows = max(self._most_windows, number + 1)
                windowed = windowed or number > 0
                yield self._keyed(Task(query_id, tuple(window), variant, window=number, seed=seed, key=""))
        self._in_windows += windowed

    def _sizes(self, query_id: str, ids: Iterable[str]) -> tuple[dict[str, int], int | None]:
        """Return the tokens of each passage in a window, including its identifier in the answer, and the tokens
        available for all; None if the context is not known.
        """
        if self._room is None or not self._room.context:
            return {}, None
        tokens, prompt = self._room.tokens, self.judging.prompt
        marked = "nonce" in self._reading.defences

        def count(text: str) -> int:
            return len(tokens.ends(text)) if tokens else bound(text)

        fixed = 0
        for step in prompt.steps:
            messages = prompt.render(step, self._texts.queries[query_id], ("",), marked=marked)
            alone = tokens.prompt(messages) if tokens else sum(bound(message.content) for message in messages)
            fixed = max(fixed, alone + (ANSWER_TOKENS if len(prompt.steps) > 1 else 0))
        marks = count(MARKS) if marked else 0
        sizes = {pid: count(f"[9999] {self._texts.passages[pid]}\n") + marks + 8 for pid in ids}
        return sizes, self._room.context - fixed - 8

    def _keyed(self, task: Task) -> Task:
        """Return the task with the key of its first request."""
        ask = next(self.judging.method.judge(len(task.passage_ids), self.judging.prompt))
        return task._replace(key=request_key(self._identity, self.request(task, ask, "")))


def shuffled(count: int, seed: int, query_id: str) -> list[int]:
    """Return a random order of a pool, as indices from 0.

    The query is part of the random seed, so that one seed does not give all pools the same order.
    """
    return random.Random(f"{seed} {query_id}").sample(range(count), count)


def windows(order: Sequence[str], sizes: Mapping[str, int], room: int | None) -> list[Sequence[str]]:
    """Split an order into the fewest windows of nearly equal length that fit the room, or into single passages."""
    for parts in range(1, len(order)):
        cuts = [len(order) * part // parts for part in range(parts + 1)]
        cut = [order[start:end] for start, end in pairwise(cuts)]
        if room is None or all(sum(sizes[pid] for pid in part) <= room for part in cut):
            return cut
    return [[pid] for pid in order]


def asked_of(judge_id: str, tasks: Iterable[Task], *, listwise: bool) -> Iterator[Asked]:
    """Yield the records of tasks for the journal, one per pair."""
    for task in tasks:
        for place, pid in enumerate(task.passage_ids, 1):
            position = place if listwise else 0
            yield Asked(
                judge_id=judge_id,
                query_id=task.query_id,
                passage_id=pid,
                variant=task.variant,
                window=task.window,
                position=position,
                seed=task.seed,
                key=task.key,
            )


def tasks_of(asked: Iterable[Asked], *, listwise: bool) -> Iterator[Task]:
    """Yield the tasks of a journal's pairs, query by query."""
    for query_id, group in groupby(asked, key=lambda pair: pair.query_id):
        if not listwise:
            yield from (task_of(query_id, [row]) for row in group)
            continue
        rows = sorted(group, key=lambda row: (row.variant, row.window, row.position))
        for _, shown in groupby(rows, key=lambda row: (row.variant, row.window)):
            yield task_of(query_id, list(shown))


def task_of(query_id: str, shown: Sequence[Asked]) -> Task:
    """Return the task of pairs that were shown together, in the order shown."""
    first = shown[0]
    ids = tuple(row.passage_id for row in shown)
    return Task(query_id, ids, first.variant, window=first.window, seed=first.seed, key=first.key)
