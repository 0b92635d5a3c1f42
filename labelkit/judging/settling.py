"""Compute judgements from the replies that are available, without requests and without texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from labelkit.engines import Reply
from labelkit.engines.completions import read_again
from labelkit.judging.methods import Judging
from labelkit.judging.methods.steps import Ask, Verdict
from labelkit.judging.request_keys import next_key
from labelkit.judging.tasks import Task
from labelkit.records import JudgementRow

Cost = Callable[[str], float | None]
"""Function from the key of a reply to its cost in US dollars; None if that is not known."""


class Replies(Protocol):
    """Interface for looking up replies: a dict or a journal."""

    def get(self, key: str, /) -> Reply | None:
        """Return the reply to a request; None if there is none."""


class Waiting(NamedTuple):
    """A task whose next reply is missing."""

    key: str
    ask: Ask


class Finished(NamedTuple):
    """A task whose replies are all available."""

    verdicts: list[Verdict]
    replies: list[Reply]
    """Replies of all steps."""

    @property
    def keys(self) -> list[str]:
        return [reply.key for reply in self.replies]

    @property
    def failures(self) -> int:
        return sum(verdict.failure is not None for verdict in self.verdicts)


def advance(task: Task, judging: Judging, replies: Replies) -> Waiting | Finished:
    """Run the steps of a task as far as its replies are available."""
    if verdict := judging.method.verdict:
        if (reply := replies.get(task.key)) is None:
            return Waiting(task.key, next(judging.method.judge(1, judging.prompt)))
        reply = _read(judging, reply, judging.prompt.label_texts)
        return Finished([verdict(reply, judging.prompt)], [reply])
    steps = judging.method.judge(len(task.passage_ids), judging.prompt)
    ask, key = next(steps), task.key
    taken: list[Reply] = []
    while reply := replies.get(key):
        reply = _read(judging, reply, ask.labels)
        taken.append(reply)
        try:
            ask = steps.send(reply)
        except StopIteration as stop:
            return Finished(stop.value, taken)
        key = next_key(task.key, ask)
    return Waiting(key, ask)


def _read(judging: Judging, reply: Reply, labels: tuple[str, ...]) -> Reply:
    """Read the body that is kept with a reply again, unless it is a list of scores, which is not the pair's alone."""
    kept = reply.raw is None or (judging.method.score_only and not labels)
    return reply if kept else read_again(reply, labels)


def judgements_of(
    judging: Judging, tasks: Iterable[Task], replies: Replies, *, cost: Cost
) -> Iterator[tuple[JudgementRow, list[JudgementRow]]]:
    """Yield the judgements of a judge in the order of its tasks, each with its ballots if there are several.

    Ballots are the judgements of single orders or votes. Tasks that are settled together must follow each other: the
    tasks of a pair, or with a listwise method the tasks of a query. `cost` gives the US dollars of a reply. Pairs
    without a reply are omitted; with a listwise method, all pairs of their query are omitted.
    """
    grades, prompt, verdict_of = judging.grades, judging.prompt, judging.method.verdict
    for group in together(tasks, listwise=judging.listwise):
        if verdict_of and len(group) == 1:  # most pairs have one ballot, from one reply
            task = group[0]
            if (reply := replies.get(task.key)) is not None:
                reply = _read(judging, reply, prompt.label_texts)
                verdict, tokens = verdict_of(reply, prompt), reply.prompt_tokens
                tokens = None if tokens is None else tokens + (reply.completion_tokens or 0)
                yield (
                    _row(judging, task, verdict, passage_id=task.passage_ids[0], tokens=tokens, usd=cost(task.key)),
                    [],
                )
            continue
        found: dict[str, list[Ballot]] = {}
        pending = False
        for task in group:
            done = advance(task, judging, replies)
            if isinstance(done, Waiting):
                pending = True
                continue
            for passage_id, ballot in _ballots(judging, task, done, cost=cost):
                found.setdefault(passage_id, []).append(ballot)
        if pending:
            continue
        ids = sorted(found)
        settled = judging.method.settle([[ballot.verdict for ballot in found[pid]] for pid in ids], grades)
        for pid, verdict in zip(ids, settled, strict=True):
            rows = [ballot.row for ballot in found[pid]]
            # Most pairs have one ballot, whose verdict stays.
            same = len(rows) == 1 and verdict == found[pid][0].verdict
            yield rows[0] if same else _joined(rows, verdict), rows if len(rows) > 1 else []


def together(tasks: Iterable[Task], *, listwise: bool) -> Iterator[list[Task]]:
    """Yield groups of tasks that are settled together: of each pair, or with a listwise method of each query."""
    # The first two fields of a task are its query and its passages.
    for _, group in groupby(tasks, key=itemgetter(0) if listwise else itemgetter(0, 1)):
        yield list(group)


class Ballot(NamedTuple):
    """The verdict of one order, vote or look on a pair, and its judgement."""

    verdict: Verdict
    row: JudgementRow


def _ballots(judging: Judging, task: Task, done: Finished, *, cost: Cost) -> Iterator[tuple[str, Ballot]]:
    """Yield one ballot per passage of a task, with an equal share of the window's tokens and US dollars."""
    costs = [cost(reply.key) for reply in done.replies]
    usd = None if None in costs else sum(filter(None, costs))
    counted = [reply for reply in done.replies if reply.prompt_tokens is not None]
    tokens = sum((reply.prompt_tokens or 0) + (reply.completion_tokens or 0) for reply in counted)
    size = len(task.passage_ids)
    shares: dict[str, Any] = {"tokens": round(tokens / size) if counted else None}
    shares |= {"usd": None if usd is None else usd / size}
    for place, (passage_id, verdict) in enumerate(zip(task.passage_ids, done.verdicts, strict=True), 1):
        position = place if judging.listwise else None
        yield (
            passage_id,
            Ballot(verdict, _row(judging, task, verdict, passage_id=passage_id, position=position, **shares)),
        )


def _row(
    judging: Judging,
    task: Task,
    verdict: Verdict,
    *,
    passage_id: str,
    tokens: int | None,
    usd: float | None,
    position: int | None = None,
) -> JudgementRow:
    """Return the judgement of a pair by one task."""
    grade, score, probs, label_mass, failure, raw_grade = verdict
    return JudgementRow(
        task.query_id,
        passage_id,
        judging.judge.judge_id,
        grade=grade,
        raw_grade=raw_grade,
        score=score,
        probs=probs,
        label_mass=label_mass,
        failure=failure,
        position=position,
        permutation_seed=task.seed,
        reply_ref=task.key,
        tokens=tokens,
        cost=usd,
    )


def _joined(rows: Sequence[JudgementRow], verdict: Verdict) -> JudgementRow:
    """Return the judgement of a pair from its rows and the verdict that they were settled to."""
    tokens = [row.tokens for row in rows if row.tokens is not None]
    costs = [row.cost for row in rows if row.cost is not None]
    joined = rows[0]._replace(
        **verdict._asdict(),
        tokens=sum(tokens) if tokens else None,
        cost=sum(costs) if len(costs) == len(rows) else None,
    )
    return joined if len(rows) == 1 else joined._replace(position=None, permutation_seed=None, reply_ref=None)
