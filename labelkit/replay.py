"""Replies -> verdicts -> judgements, as far as the replies go. Nothing is asked here and no text is needed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from labelkit.engines import Reply
from labelkit.methods import Method
from labelkit.methods.steps import Ask, Verdict
from labelkit.prompts import Prompt
from labelkit.schema import Judgement
from labelkit.tasks import Task, next_key


class Waiting(NamedTuple):
    """A task whose next reply is not there."""

    key: str
    ask: Ask


class Finished(NamedTuple):
    """A task whose last reply is there."""

    verdicts: list[Verdict]
    keys: list[str]
    """Of the replies that it took."""

    @property
    def failures(self) -> int:
        return sum(verdict.failure is not None for verdict in self.verdicts)


def advance(task: Task, method: Method, prompt: Prompt, replies: Mapping[str, Reply]) -> Waiting | Finished:
    """Run the steps of a task over the replies that are there."""
    steps = method.judge(len(task.passage_ids), prompt)
    ask, keys = next(steps), [task.key]
    while reply := replies.get(keys[-1]):
        try:
            ask = steps.send(reply)
        except StopIteration as stop:
            return Finished(stop.value, keys)
        keys.append(next_key(task.key, ask))
    return Waiting(keys[-1], ask)


def judgements_of(
    judge_id: str,
    tasks: Iterable[Task],
    replies: Mapping[str, Reply],
    costs: Mapping[str, float],
    prompt: Prompt,
    method: Method,
) -> tuple[list[Judgement], list[Judgement]]:
    """The judgements of a judge, and the ballots that stand behind those with several orders or votes.

    `costs` are the dollars of the replies whose price is known.
    Pairs without a reply are pending and stay out; with a listwise method so do all pairs of their query.
    """
    grades = method.grades or tuple(label.grade for label in prompt.labels)
    judgements, ballots = [], []
    for group in _together(tasks, method):
        finished = [advance(task, method, prompt, replies) for task in group]
        found: dict[str, list[Judgement]] = {}
        for task, done in zip(group, finished, strict=True):
            if isinstance(done, Finished):
                for row in _rows(judge_id, task, done, replies, costs, method):
                    found.setdefault(row.passage_id, []).append(row)
        if any(isinstance(done, Waiting) for done in finished):
            continue
        ids = sorted(found)
        settled = method.settle([[_verdict(row) for row in found[pid]] for pid in ids], grades)
        for pid, verdict in zip(ids, settled, strict=True):
            judgements.append(_joined(found[pid], verdict))
            if len(found[pid]) > 1:
                ballots += found[pid]
    return judgements, ballots


def _together(tasks: Iterable[Task], method: Method) -> Iterator[list[Task]]:
    """Tasks that are settled together: those of a pair, or of a query with a listwise method."""

    def unit(task: Task) -> tuple[str, ...]:
        return (task.query_id,) if method.listwise else (task.query_id, *task.passage_ids)

    for _, group in groupby(sorted(tasks, key=lambda task: (unit(task), task.variant, task.window)), key=unit):
        yield list(group)


def _rows(
    judge_id: str,
    task: Task,
    done: Finished,
    replies: Mapping[str, Reply],
    costs: Mapping[str, float],
    method: Method,
) -> Iterator[Judgement]:
    """One row a passage of a task. Tokens and dollars of a window are shared out evenly."""
    usd = sum(costs[key] for key in done.keys) if all(key in costs for key in done.keys) else None
    taken = [replies[key] for key in done.keys]
    counted = [reply for reply in taken if reply.prompt_tokens is not None]
    tokens = sum((reply.prompt_tokens or 0) + (reply.completion_tokens or 0) for reply in counted)
    for place, (passage_id, verdict) in enumerate(zip(task.passage_ids, done.verdicts, strict=True), 1):
        yield Judgement(
            query_id=task.query_id,
            passage_id=passage_id,
            judge_id=judge_id,
            **verdict._asdict(),
            position=place if method.listwise else None,
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
