"""Divide texts into tasks: passages that a judge is asked about together, in a given order.

A task is one window of passages of one query (a single passage in a pointwise method), judged once. Each order and each
vote is a task of its own.
"""

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from labelkit.engines import Message, Request
from labelkit.engines.dialects import JSON_TOKENS, dialect_of
from labelkit.engines.tokenizers import Tokens, bound
from labelkit.judging.defences import MARKS
from labelkit.judging.journal import Asked
from labelkit.judging.methods import Judging
from labelkit.judging.methods.steps import Ask
from labelkit.judging.methods.utilsel import ANSWER_TOKENS
from labelkit.judging.pool_texts import PoolTexts
from labelkit.judging.reading import Reading, Texts
from labelkit.judging.request_keys import MARK, QUERY_MARK, KeysOfPrompt, digest, identity_of, request_key, sent_of
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


class Requests:
    """Makes the tasks of a query and their requests, for one judge."""

    def __init__(self, judging: Judging, reading: Reading, room: Room | None = None) -> None:
        """A list that does not fit the judge's `room` is split into windows of nearly equal size."""
        self.judging = judging
        self.reading = reading
        self.room = room
        self._identity = digest(identity_of(judging.judge))
        in_json = dialect_of(sent_of(judging.judge)).in_json
        self._more_tokens = reading.thinking_tokens + (JSON_TOKENS if in_json else 0)
        """Tokens of an answer besides the answer itself."""
        self._nonce = "nonce" in reading.defences
        self._only_ask: Ask | None = None
        if not judging.listwise:
            self._only_ask = self.first_ask(1)
        self._marked: tuple[Any, Request] | None = None
        """The last request with `MARK` in place of its passage, and the query and the seed that it is for."""
        self._keys_of_seed: dict[int | None, KeysOfPrompt] = {}

    def tasks(self, texts: Texts) -> list[Task]:
        """Return the tasks of a query: its orders and windows, or the votes and looks of each pair."""
        if self.judging.method.writes:
            return [self._written(texts)]
        return list(self._listed(texts) if self.judging.listwise else self._alone(texts))

    def request(self, texts: Texts, task: Task, ask: Ask, *, key: str) -> Request:
        """Return the request of one step of a task."""
        shown = texts.passages
        if task.variant and "second-look" in self.reading.defences:
            shown = texts.without_query
        passages = [shown[task.passage_ids[place]] for place in ask.shown]
        if self._only_ask and not self._nonce and passages[0]:
            return with_passage(self._marked_request(texts, task.seed), passages[0], key)
        return self._request(texts, ask, passages, seed=task.seed)._replace(key=key)

    def first_ask(self, size: int) -> Ask:
        """Return the first step about `size` passages."""
        return self._only_ask or next(self.judging.method.judge(size, self.judging.prompt))

    def first_request(self, texts: Texts, task: Task) -> Request:
        """Return the first request of a task."""
        return self.request(texts, task, self.first_ask(len(task.passage_ids)), key=task.key)

    def _marked_request(self, texts: Texts, seed: int | None) -> Request:
        """Return the request about a query with `MARK` in place of its passage, made once per query."""
        about = texts.query_id, texts.query, seed
        if self._marked is None or self._marked[0] != about:
            self._marked = about, self._request(texts, self._only_ask or Ask("", ()), [MARK], seed=seed)
        return self._marked[1]

    def _request(self, texts: Texts, ask: Ask, passages: Sequence[str], *, seed: int | None) -> Request:
        """Return the request that shows these passages, without its key."""
        temperature = VOTE_TEMPERATURE if self.reading.votes > 1 else float(self.reading.temperature)
        return Request(
            key="",
            group=texts.query_id,
            messages=self.judging.prompt.render(ask.step, texts.query, passages, answer=ask.answer, marked=self._nonce),
            labels=ask.labels,
            pattern=ask.pattern,
            max_tokens=ask.max_tokens + self._more_tokens,
            temperature=temperature,
            seed=seed if temperature else None,
        )

    def _alone(self, texts: Texts) -> Iterator[Task]:
        """Yield the tasks of each pair: one per vote, and another one for a second look."""
        query_id, votes = texts.query_id, self.reading.votes
        seeds = [self.reading.seed + vote if votes > 1 else None for vote in range(votes)]
        keys = [self._keys(texts, seed) for seed in seeds]
        for passage_id, text in texts.passages.items():
            for vote, key in enumerate(keys):
                yield Task(query_id, (passage_id,), vote, window=0, seed=seeds[vote], key=key(text))
            if passage_id in texts.without_query:
                again = keys[0](texts.without_query[passage_id])
                yield Task(query_id, (passage_id,), votes, window=0, seed=None, key=again)

    def _keys(self, texts: Texts, seed: int | None) -> Callable[[str], str]:
        """Return the function from a passage to the key of the request about it alone."""
        ask = self._only_ask or Ask("", ())

        def exact(passage: str) -> str:
            return request_key(self._identity, self._request(texts, ask, [passage], seed=seed))

        # A turn without text is not sent, and marks are made from the passage.
        if self._nonce or not texts.query:
            return exact
        if seed not in self._keys_of_seed:
            marked = self._request(texts._replace(query=QUERY_MARK), ask, [MARK], seed=seed)
            self._keys_of_seed[seed] = KeysOfPrompt(self._identity, marked)
        key = self._keys_of_seed[seed].of_query(texts.query).key
        return lambda passage: key(passage) if passage else exact(passage)

    def _listed(self, texts: Texts) -> Iterator[Task]:
        """Yield the windows of a query in each of its orders."""
        ids = list(texts.passages)
        sizes, most = self._sizes(texts)
        for variant in range(self.reading.permutations):
            seed = self.reading.seed + variant
            order = [ids[place] for place in shuffled(len(ids), seed, texts.query_id)]
            for number, window in enumerate(windows(order, sizes, most)):
                task = Task(texts.query_id, tuple(window), variant, window=number, seed=seed, key="")
                yield task._replace(key=request_key(self._identity, self.first_request(texts, task)))

    def _written(self, texts: Texts) -> Task:
        """Return the task of writing one text from all passages together, with a random seed of its own."""
        seed = zlib.crc32(f"{self.reading.seed} {texts.query_id}".encode()) >> 1  # some servers accept 31 bits
        task = Task(texts.query_id, tuple(texts.passages), 0, window=0, seed=seed, key="")
        return task._replace(key=request_key(self._identity, self.first_request(texts, task)))

    def _sizes(self, texts: Texts) -> tuple[dict[str, int], int | None]:
        """Return the tokens of each passage in a window, including its identifier in the answer, and the tokens
        available for all; None if the context is not known.
        """
        if self.room is None or not self.room.context:
            return {}, None
        tokens, prompt = self.room.tokens, self.judging.prompt

        def count(text: str) -> int:
            return len(tokens.ends(text)) if tokens else bound(text)

        fixed = 0
        for step in prompt.steps:
            messages = prompt.render(step, texts.query, ("",), marked=self._nonce)
            alone = tokens.prompt(messages) if tokens else sum(bound(message.content) for message in messages)
            fixed = max(fixed, alone + (ANSWER_TOKENS if len(prompt.steps) > 1 else 0))
        marks = count(MARKS) if self._nonce else 0
        sizes = {pid: count(f"[9999] {text}\n") + marks + 8 for pid, text in texts.passages.items()}
        return sizes, self.room.context - fixed - self._more_tokens - 8


def with_passage(marked: Request, passage: str, key: str) -> Request:
    """Return a request with a passage in place of `MARK`, and with its key."""
    shown = [
        Message(turn.role, turn.content.replace(MARK, passage)) if MARK in turn.content else turn
        for turn in marked.messages
    ]
    return Request(
        key,
        marked.group,
        tuple(shown),
        labels=marked.labels,
        pattern=marked.pattern,
        max_tokens=marked.max_tokens,
        temperature=marked.temperature,
        seed=marked.seed,
    )


class QueryWork(NamedTuple):
    """The texts of a query and the tasks about them."""

    texts: Texts
    tasks: list[Task]


class Work:
    """The tasks of a run, query by query: texts and tasks are made when a query is read."""

    def __init__(self, requests: Requests, texts: PoolTexts) -> None:
        self.requests = requests
        self.judging = requests.judging
        self.texts = texts
        self.pairs = 0
        """Number of pairs of the queries that `queries` has yielded."""
        self._most_windows = self._in_windows = 0

    @property
    def tokens(self) -> Tokens | None:
        """Tokenizer of the judge; None if there is none."""
        return self.requests.room.tokens if self.requests.room else None

    def __getitem__(self, number: int) -> QueryWork:
        """Return the work of a query by its number."""
        texts = self.texts[number]
        return QueryWork(texts, self.requests.tasks(texts))

    def queries(self) -> Iterator[QueryWork]:
        """Yield the work of every query, and count pairs and windows for `facts`."""
        self.pairs = self._most_windows = self._in_windows = 0
        for number in range(len(self.texts)):
            work = self[number]
            count = 1 + max(task.window for task in work.tasks)
            self.pairs += len(work.texts.passages)
            self._most_windows = max(self._most_windows, count)
            self._in_windows += count > 1
            yield work

    @property
    def facts(self) -> LabelsFacts:
        """Facts about texts, orders and windows for the manifest of the run, after `queries` has ended."""
        facts: dict[str, Any] = dict(self.texts.facts)
        reading = self.requests.reading
        if self.judging.listwise:
            facts |= {"permutations": reading.permutations}
            facts |= {"queries_in_windows": self._in_windows, "most_windows": self._most_windows}
        elif reading.votes > 1:
            facts |= {"votes": reading.votes}
        if reading.thinking_tokens:
            facts |= {"thinking_tokens": reading.thinking_tokens}
        return LabelsFacts(**facts)


def one_step(judging: Judging) -> bool:
    """Return whether a task of this judge needs only one reply."""
    return len(judging.prompt.steps) == 1


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


def pairs_of(tasks: Iterable[Task], *, listwise: bool) -> Iterator[tuple[Any, ...]]:
    """Yield the pairs of tasks as the journal stores them: the fields of `Asked` from the passage id on."""
    for _, passage_ids, *rest in tasks:
        variant, window, seed, key = rest
        for place, pid in enumerate(passage_ids, 1):
            yield pid, variant, window, place if listwise else 0, seed, key


def tasks_of(asked: Iterable[Asked], *, listwise: bool) -> Iterator[Task]:
    """Yield the tasks of a journal's pairs, query by query."""
    for query_id, group in groupby(asked, key=lambda pair: pair.query_id):
        if not listwise:
            for _, _, pid, variant, window, _, seed, key in group:
                yield Task(query_id, (pid,), variant, window=window, seed=seed, key=key)
            continue
        rows = sorted(group, key=lambda row: (row.variant, row.window, row.position))
        for _, shown in groupby(rows, key=lambda row: (row.variant, row.window)):
            yield task_of(query_id, list(shown))


def task_of(query_id: str, shown: Sequence[Asked]) -> Task:
    """Return the task of pairs that were shown together, in the order shown."""
    first = shown[0]
    ids = tuple(row.passage_id for row in shown)
    return Task(query_id, ids, first.variant, window=first.window, seed=first.seed, key=first.key)
