"""Pool -> tasks: what a judge is asked together, in which order, cut to which length.

A task is one window of passages under one query (a single passage for the pointwise methods), asked once. Several
orders or several votes are several tasks.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from labelkit.defences import announced, fenced, nonce, strip, without_query
from labelkit.engines import Message, Request
from labelkit.errors import UsageError
from labelkit.journal import Asked
from labelkit.methods import Method
from labelkit.methods.steps import Ask
from labelkit.methods.utilsel import ANSWER_TOKENS
from labelkit.pool import Pool
from labelkit.prompts import Prompt
from labelkit.schema import SCHEMA_VERSION, Judge
from labelkit.tokens import Tokens, bound

PASSAGE_WORDS = 300
"""Words of a passage that a judge reads where no tokenizer is at hand: as in arXiv 2504.05220."""
PASSAGE_TOKENS = 400
"""Tokens of a passage otherwise: as much English, and no more of a text that has few spaces."""
VOTE_TEMPERATURE = 1.0
"""Votes are drawn from the judge's own distribution."""


class Reading(NamedTuple):
    """How much of a passage is read, in which orders, how often."""

    passage_tokens: int | None = None
    passage_words: int | None = None
    permutations: int = 1
    """Orders of a pool that a listwise method judges."""
    votes: int = 1
    """Answers of a pointwise method that are drawn for a pair; 1 takes the likeliest."""
    seed: int = 0
    """Of the first order or vote; the next ones follow."""
    defences: tuple[str, ...] = ()
    """Names in `labelkit.defences`."""


class Task(NamedTuple):
    """Passages shown together, in the order shown."""

    query_id: str
    passage_ids: tuple[str, ...]
    variant: int
    window: int
    seed: int | None
    key: str
    """Of its first request."""


class Texts(NamedTuple):
    """The texts of a pool as a judge reads them."""

    queries: dict[str, str]
    passages: dict[str, str]
    measure: str
    """What passages were cut by: `passage_tokens` or `passage_words`."""
    longest: int
    cut: frozenset[str]
    """Ids of the passages that were longer."""
    stripped: frozenset[str]
    """Ids of the passages that held reserved tokens or invisible characters."""


class Work(NamedTuple):
    """Everything that one run asks, and what its manifest will say of it."""

    tasks: list[Task]
    facts: dict[str, Any]


def complete(reading: Reading, method: Method, tokens: Tokens | None) -> Reading:
    """The reading with its defaults. Raises `UsageError` where it asks for what this method or judge cannot do."""
    if reading.permutations > 1 and not method.listwise:
        raise UsageError("--permutations is for the listwise methods; a pair that is judged alone has no order")
    if reading.votes > 1 and method.listwise:
        raise UsageError("--votes is for the pointwise methods; use --permutations for a listwise one")
    if "second-look" in reading.defences and (method.listwise or reading.votes > 1):
        raise UsageError("--defence second-look is for the pointwise methods, without --votes")
    if reading.passage_tokens and reading.passage_words:
        raise UsageError("give --passage-tokens or --passage-words, not both")
    if reading.passage_tokens and tokens is None:
        raise UsageError("--passage-tokens needs the server's tokenizer: give --tokenizer, or --passage-words")
    if reading.passage_tokens or reading.passage_words:
        return reading
    return reading._replace(passage_tokens=PASSAGE_TOKENS) if tokens else reading._replace(passage_words=PASSAGE_WORDS)


def read_texts(pool: Pool, limit: int | None, reading: Reading, tokens: Tokens | None) -> Texts:
    """The texts of the first `limit` pairs, each passage cut to what the reading says."""
    wanted = pool.candidates[:limit]
    passages, cut, stripped = {}, set(), set()
    for passage_id in {candidate.passage_id: None for candidate in wanted}:
        text = full = pool.passages[passage_id].full_text
        if "strip" in reading.defences and (text := strip(full)) is not full:
            stripped.add(passage_id)
        passages[passage_id] = short = shortened(text, reading, tokens)
        if short is not text:
            cut.add(passage_id)
    queries = {candidate.query_id: pool.queries[candidate.query_id].text for candidate in wanted}
    measure, longest = (
        ("passage_tokens", reading.passage_tokens)
        if reading.passage_tokens
        else ("passage_words", reading.passage_words)
    )
    return Texts(queries, passages, measure, longest or 0, frozenset(cut), frozenset(stripped))


def shortened(text: str, reading: Reading, tokens: Tokens | None) -> str:
    """A text cut to what the reading says."""
    if reading.passage_tokens and tokens:
        # No tokenizer makes more tokens than characters of plain ASCII: it need not be asked.
        if len(text) < reading.passage_tokens and text.isascii():
            return text
        ends = tokens.ends(text)
        return text[: ends[reading.passage_tokens - 1]] if len(ends) > reading.passage_tokens else text
    words = text.split()
    return " ".join(words[: reading.passage_words]) if len(words) > (reading.passage_words or 0) else text


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
        return Work(tasks, facts)

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


def identity_of(judge: Judge) -> dict[str, Any]:
    """What of a judge may change a reply. Weights that ran here are known by their revision, whatever they were
    called; a model behind a server by the name that it was asked for, too. Engine versions are provenance.
    """
    provenance = ("judge_id", "name", "model_answered", "engine_version", "decoding", "seed", "reading")
    kept = {name: value for name, value in judge.model_dump().items() if name not in provenance}
    served = {name: value for name, value in json.loads(judge.decoding or "{}").items() if name == "base_url"}
    known = judge.dtype and judge.revision
    return kept | {"model": known or judge.name, "served": served}


def request_key(identity: str, request: Request) -> str:
    """sha256 over everything that decides a reply: judge, messages, labels, decoding, schema. Equal keys share one
    reply."""
    return digest([SCHEMA_VERSION, identity, *request[2:]])


def next_key(first: str, ask: Ask) -> str:
    """The key of a later step. The key of the first step stands for all texts, so that the journal alone gives it."""
    return digest([first, *ask])


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


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 over a value as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
