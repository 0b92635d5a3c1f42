"""Replies -> verdicts -> judgements, as far as the replies go. Nothing is asked here and no text is needed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

from labelkit.engines import Reply
from labelkit.engines.completions import read_again
from labelkit.judging.methods import Judging
from labelkit.judging.methods.steps import Ask, Verdict
from labelkit.judging.request_keys import next_key
from labelkit.judging.tasks import Task
from labelkit.records import Judgement

Cost = Callable[[str], float | None]
"""Key of a reply -> US dollars that it cost, None where that is not known."""


class Replies(Protocol):
    """Where replies are looked up: a dict, or a journal."""

    def get(self, key: str, /) -> Reply | None:
        """The reply to a request; None where it is not there."""


class Waiting(NamedTuple):
    """A task whose next reply is not there."""

    key: str
    ask: Ask


class Finished(NamedTuple):
    """A task whose last reply is there."""

    verdicts: list[Verdict]
    replies: list[Reply]
    """That it took."""

    @property
    def keys(self) -> list[str]:
        return [reply.key for reply in self.replies]

    @property
    def failures(self) -> int:
        return sum(verdict.failure is not None for verdict in self.verdicts)


def advance(task: Task, judging: Judging, replies: Replies) -> Waiting | Finished:
    """Run the steps of a task over the replies that are there."""
    steps = judging.method.judge(len(task.passage_ids), judging.prompt)
    ask, key = next(steps), task.key
    taken: list[Reply] = []
    while reply := replies.get(key):
        reply = read_again(reply, ask.labels)
        taken.append(reply)
        try:
            ask = steps.send(reply)
        except StopIteration as stop:
            return Finished(stop.value, taken)
        key = next_key(task.key, ask)
    return Waiting(key, ask)


def judgements_of(
    judging: Judging, tasks: Iterable[Task], replies: Replies, *, cost: Cost
) -> Iterator[tuple[Judgement, list[Judgement]]]:
    """The judgements of a judge in the order of its tasks, each with the ballots behind it where it has several orders
    or votes. Tasks that are settled together stand together: those of a pair, or of a query with a listwise method.

    `cost` gives the dollars of a reply whose price is known.
    Pairs without a reply are pending and stay out; with a listwise method so do all pairs of their query.
    """
    for group in together(tasks, listwise=judging.listwise):
        found: dict[str, list[Judgement]] = {}
        pending = False
        for task in group:
            done = advance(task, judging, replies)
            pending = pending or isinstance(done, Waiting)
            if isinstance(done, Finished):
                for row in _rows(judging, task, done, cost=cost):
                    found.setdefault(row.passage_id, []).append(row)
        if pending:
            continue
        ids = sorted(found)
        settled = judging.method.settle([[_verdict(row) for row in found[pid]] for pid in ids], judging.grades)
        for pid, verdict in zip(ids, settled, strict=True):
            yield _joined(found[pid], verdict), found[pid] if len(found[pid]) > 1 else []


def together(tasks: Iterable[Task], *, listwise: bool) -> Iterator[list[Task]]:
    """Tasks that are settled together: those of a pair, or of a query with a listwise method."""
    for _, group in groupby(tasks, key=lambda task: (task.query_id, *(() if listwise else task.passage_ids))):
        yield list(group)


def _rows(judging: Judging, task: Task, done: Finished, *, cost: Cost) -> Iterator[Judgement]:
    """One row a passage of a task. Tokens and dollars of a window are shared out evenly."""
    costs = [cost(key) for key in done.keys]
    usd = None if None in costs else sum(filter(None, costs))
    counted = [reply for reply in done.replies if reply.prompt_tokens is not None]
    tokens = sum((reply.prompt_tokens or 0) + (reply.completion_tokens or 0) for reply in counted)
    for place, (passage_id, verdict) in enumerate(zip(task.passage_ids, done.verdicts, strict=True), 1):
        yield Judgement(
            query_id=task.query_id,
            passage_id=passage_id,
            judge_id=judging.judge.judge_id,
            **verdict._asdict(),
            position=place if judging.listwise else None,
            permutation_seed=task.seed,
            reply_ref=task.key,
            tokens=round(tokens / len(task.passage_ids)) if counted else None,
            cost=None if usd is None else usd / len(task.passage_ids),
        )


def _verdict(row: Judgement) -> Verdict:
    return Verdict(*(getattr(row, name) for name in Verdict._fields))


def _joined(rows: Sequence[Judgement], verdict: Verdict) -> Judgement:
    """The judgement of a pair: that of its only row, or what several were settled to."""
    if len(rows) == 1 and verdict == _verdict(rows[0]):
        return rows[0]
    tokens = [row.tokens for row in rows if row.tokens is not None]
    costs = [row.cost for row in rows if row.cost is not None]
    changed = {**verdict._asdict(), "tokens": sum(tokens) if tokens else None}
    changed["cost"] = sum(costs) if len(costs) == len(rows) else None
    if len(rows) > 1:
        changed |= {"position": None, "permutation_seed": None, "reply_ref": None}
    return Judgement(**{**rows[0].model_dump(), **changed})
