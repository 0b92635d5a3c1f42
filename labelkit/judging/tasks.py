"""Pool -> tasks: what a judge is asked together, in which order, cut to which length.

A task is one window of passages under one query (a single passage for the pointwise methods), asked once. Several
orders or several votes are several tasks.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from labelkit.engines import Message, Request
from labelkit.engines.tokenizers import Tokens, bound
from labelkit.judging.defences import announced, fenced, nonce, without_query
from labelkit.judging.journal import Asked
from labelkit.judging.methods import Method
from labelkit.judging.methods.steps import Ask
from labelkit.judging.methods.utilsel import ANSWER_TOKENS
from labelkit.judging.prompts import Prompt
from labelkit.judging.reading import Reading, Texts
from labelkit.judging.request_keys import request_key
from labelkit.pooling.pool import Pool
from labelkit.storage.manifest import LabelsFacts

VOTE_TEMPERATURE = 1.0
"""Votes are drawn from the judge's own distribution."""


class Task(NamedTuple):
    """Passages shown together, in the order shown."""

    query_id: str
    passage_ids: tuple[str, ...]
    variant: int
    window: int
    seed: int | None
    key: str
    """Of its first request."""


class Work(NamedTuple):
    """Everything that one run asks, and what its manifest will say of it."""

    tasks: list[Task]
    facts: LabelsFacts


class Tasks:
    """Makes the tasks of a run and renders their requests."""

    def __init__(self, texts: Texts, prompt: Prompt, method: Method, reading: Reading, identity: str) -> None:
        self._texts = texts
        self._prompt = prompt
        self._method = method
        self._reading = reading
        self._identity = identity

    def make(self, pool: Pool, limit: int | None, tokens: Tokens | None, context: int | None) -> Work:
        """The tasks of a pool, query by query, and the facts of its manifest.

        A pool that does not fit the judge's `context` is shown in windows of nearly equal size.
        """
        wanted = pool.candidates[:limit]
        tasks: list[Task] = []
        most = split = 0
        for query_id, group in groupby(wanted, key=lambda candidate: candidate.query_id):
            ids = [candidate.passage_id for candidate in group]
            if not self._method.listwise:
                tasks += (task for pid in ids for task in self._votes(query_id, pid))
                continue
            made = list(self._orders(query_id, ids, tokens, context))
            most = max(most, *(task.window + 1 for task in made))
            split += any(task.window for task in made)
            tasks += made
        texts = self._texts
        facts: dict[str, Any] = {
            texts.measure: texts.longest,
            "cut_passages": sum(candidate.passage_id in texts.cut for candidate in wanted),
        }
        if texts.stripped:
            facts["stripped_passages"] = sum(candidate.passage_id in texts.stripped for candidate in wanted)
        if self._method.listwise:
            facts |= {"permutations": self._reading.permutations, "queries_in_windows": split, "most_windows": most}
        elif self._reading.votes > 1:
            facts |= {"votes": self._reading.votes}
        return Work(tasks, LabelsFacts(**facts))

    def request(self, task: Task, ask: Ask, key: str) -> Request:
        """The request of one step of a task."""
        voted = self._reading.votes > 1
        query = self._texts.queries[task.query_id]
        passages = [self._texts.passages[task.passage_ids[place]] for place in ask.shown]
        if task.variant and "second-look" in self._reading.defences:
            passages = [without_query(query, passages[0])]
        return Request(
            key=key,
            group=task.query_id,
            messages=self._render(ask.step, query, passages, ask.answer),
            labels=ask.labels,
            pattern=ask.pattern,
            max_tokens=ask.max_tokens,
            temperature=VOTE_TEMPERATURE if voted else 0.0,
            seed=task.seed if voted else None,
        )

    def _render(self, step: str, query: str, passages: Sequence[str], answer: str = "") -> tuple[Message, ...]:
        """The chat turns of a step, the passages between marks where that is a defence."""
        if "nonce" not in self._reading.defences:
            return self._prompt.render(step, query, passages, answer)
        number = nonce(query, passages)
        return announced(self._prompt.render(step, query, [fenced(text, number) for text in passages], answer))

    def _votes(self, query_id: str, passage_id: str) -> Iterator[Task]:
        """The only task of a pair, or one a vote; the second of a second look."""
        votes = self._reading.votes
        if "second-look" in self._reading.defences:
            query, passage = self._texts.queries[query_id], self._texts.passages[passage_id]
            votes += without_query(query, passage) != passage
        for vote in range(votes):
            seed = self._reading.seed + vote if self._reading.votes > 1 else None
            yield self._keyed(Task(query_id, (passage_id,), vote, 0, seed, ""))

    def _orders(self, query_id: str, ids: list[str], tokens: Tokens | None, context: int | None) -> Iterator[Task]:
        """The windows of a query in each of its orders."""
        sizes, room = self._sizes(query_id, ids, tokens, context) if context else ({}, None)
        for variant in range(self._reading.permutations):
            seed = self._reading.seed + variant
            order = [ids[place] for place in shuffled(len(ids), seed, query_id)]
            for number, window in enumerate(windows(order, sizes, room)):
                yield self._keyed(Task(query_id, tuple(window), variant, number, seed, ""))

    def _sizes(
        self, query_id: str, ids: Iterable[str], tokens: Tokens | None, context: int
    ) -> tuple[dict[str, int], int]:
        """Tokens that each passage takes in a window, its place in the answer included, and the room for them."""

        def count(text: str) -> int:
            return len(tokens.ends(text)) if tokens else bound(text)

        query, fixed = self._texts.queries[query_id], 0
        for step in self._prompt.steps:
            messages = self._render(step, query, ("",))
            alone = tokens.prompt(messages) if tokens else sum(bound(message.content) for message in messages)
            fixed = max(fixed, alone + (ANSWER_TOKENS if len(self._prompt.steps) > 1 else 0))
        marks = count(fenced("", nonce("", ()))) if "nonce" in self._reading.defences else 0
        sizes = {pid: count(f"[9999] {self._texts.passages[pid]}\n") + marks + 8 for pid in ids}
        return sizes, context - fixed - 8

    def _keyed(self, task: Task) -> Task:
        """The task with the key of its first request."""
        ask = next(self._method.judge(len(task.passage_ids), self._prompt))
        return task._replace(key=request_key(self._identity, self.request(task, ask, "")))


def shuffled(count: int, seed: int, query_id: str) -> list[int]:
    """The order in which a pool is shown, as places in it. The query is part of the shuffle: one seed must not give all
    pools the same order.
    """
    return random.Random(f"{seed} {query_id}").sample(range(count), count)


def windows(order: Sequence[str], sizes: Mapping[str, int], room: int | None) -> list[Sequence[str]]:
    """The order in as few parts of nearly equal length as fit the room; single passages where nothing fits."""
    for parts in range(1, len(order)):
        cuts = [len(order) * part // parts for part in range(parts + 1)]
        cut = [order[start:end] for start, end in pairwise(cuts)]
        if room is None or all(sum(sizes[pid] for pid in part) <= room for part in cut):
            return cut
    return [[pid] for pid in order]


def asked_of(judge_id: str, tasks: Iterable[Task], *, listwise: bool) -> Iterator[Asked]:
    """Tasks as the journal keeps them: a record a pair."""
    for task in tasks:
        for place, pid in enumerate(task.passage_ids, 1):
            position = place if listwise else 0
            yield Asked(judge_id, task.query_id, pid, task.variant, task.window, position, task.seed, task.key)


def tasks_of(asked: Iterable[Asked], *, listwise: bool) -> Iterator[Task]:
    """The tasks behind the pairs of a journal, query by query."""
    for query_id, group in groupby(asked, key=lambda pair: pair.query_id):
        if not listwise:
            yield from (Task(query_id, (row.passage_id,), row.variant, row.window, row.seed, row.key) for row in group)
            continue
        rows = sorted(group, key=lambda row: (row.variant, row.window, row.position))
        for (variant, window), shown in groupby(rows, key=lambda row: (row.variant, row.window)):
            part = list(shown)
            yield Task(query_id, tuple(row.passage_id for row in part), variant, window, part[0].seed, part[0].key)
