"""Send the requests of tasks to the engine and take in their replies.

Each reply is stored in the journal before it is used, and read from the journal when it is needed again. Texts, tasks
and requests are made query by query, when the engine takes them.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from labelkit.engines import Engine, Reply, Request
from labelkit.errors import EngineError, NotYetError
from labelkit.judging.budget import Budget
from labelkit.judging.failure_log import FailureLog
from labelkit.judging.journal import Arrival, Journal
from labelkit.judging.model_change import ModelChange
from labelkit.judging.options import CallOptions
from labelkit.judging.progress import Progress, ShowProgress
from labelkit.judging.reading import Texts
from labelkit.judging.reply_cache import Cache
from labelkit.judging.run_replies import RunReplies
from labelkit.judging.settling import Waiting, advance
from labelkit.judging.survey import Survey
from labelkit.judging.task_states import TaskStates
from labelkit.judging.tasks import Task, Work, one_step

log = logging.getLogger(__name__)

UNREACHABLE = 20
"""Number of first requests that must all stay without an answer before the run stops because there is no judge."""
AT_ONCE = 1024
"""Number of requests that are looked up in the cache at a time."""


def ask(
    work: Work,
    engine: Engine,
    journal: Journal,
    *,
    options: CallOptions,
    budget: Budget,
    show: ShowProgress,
    begin: Callable[[], None],
    probed: Sequence[str] = (),
) -> "Scheduler":
    """Send all requests without a reply, as far as the budget allows.

    The work is registered in the journal, and `begin` is called, only once the judge has answered: a judge that never
    answers leaves no trace. `probed`: keys of requests that this run sent, and got answered, to find out which options
    the server accepts. Raises `EngineError` if the judge does not answer or its model has changed. Paid replies are
    added to the cache in any case.
    """
    replies = RunReplies(journal)
    with Survey(work, replies.good, probed) as survey:
        known = work.judging.judge.judge_id in {judge.judge_id for judge, _ in journal.judges()}
        answered = known or not work.pairs or survey.states.any_answered()

        def register() -> None:
            begin()
            survey.register(journal)

        # An engine that states its model in advance cannot change it.
        watched = not options.allow_drift and engine.facts.model_answered is None
        drift = ModelChange(replies.earlier(survey.keys()) if watched else (), watched=watched)
        survey.take_up(replies, retry=options.retry_failed)
        run = Scheduler(
            work,
            survey.states,
            replies,
            budget=budget,
            answered=answered,
            begin=register,
            show=show,
            probed=len(probed),
        )
        cache = cache_of(options)
        if probed:
            run.begin()
        try:
            run.ask(engine, drift, None if options.retry_failed else cache)
            if answered and not run.begun:
                survey.register(journal, before_change=begin)
                run.begun = True
        except NotYetError:
            run.begin()  # the requests are on their way
            raise
        finally:
            run.progress.close()
            if cache is not None and run.asked:
                replies.publish(cache)
    return run


def cache_of(options: CallOptions) -> Cache | None:
    """Return the cache of stored replies that the options name."""
    return None if options.cache is None else Cache(options.cache)


class Ready(NamedTuple):
    """A task whose next request can be sent."""

    number: int
    texts: Texts
    task: Task
    waiting: Waiting


class Scheduler:
    """Sends the requests of tasks in one round per step, and moves each task on when its reply arrives.

    A task is in memory only while its request is in progress.
    """

    def __init__(
        self,
        work: Work,
        states: TaskStates,
        replies: RunReplies,
        *,
        budget: Budget,
        answered: bool,
        begin: Callable[[], None],
        show: ShowProgress,
        probed: int,
    ) -> None:
        self._work = work
        self._judging = work.judging
        self._one_step = one_step(work.judging)
        self._states = states
        self._replies = replies
        self.budget = budget
        self._sent: dict[str, tuple[int, Task]] = {}
        """Tasks whose requests are in progress, with their numbers, by key."""
        self._unreached = -1 if answered else 0
        """Number of replies without an answer so far; -1 once there was an answer, in this run or an earlier one."""
        self._failures = FailureLog(writes=work.judging.method.writes)
        self._begin = begin
        self.begun = False
        self._capped = False
        """Whether the budget ended the current round."""
        self.asked, self.cached = probed, 0
        done, new, self.known = states.counts()
        unit = "passages" if work.judging.method.writes else "pairs"
        self.progress = Progress(total=states.pairs, done=done - new, new=new, show=show, unit=unit)

    def begin(self) -> None:
        """Register the work at the first call, before the first answer of the judge is stored."""
        if not self.begun:
            self._begin()
            self.begun = True

    def ask(self, engine: Engine, drift: ModelChange, cache: Cache | None) -> None:
        """Send all waiting requests and journal each reply as it arrives, until every task is finished.

        Raises `EngineError` if the judge does not answer or its model has changed.
        """
        drift.check()
        while self._states.waiting.any():
            before = self.asked, self.cached
            self._round(engine, drift, cache)
            drift.check()
            # All reservations are settled now, so that the budget may allow some of the other requests.
            if (self.asked, self.cached) == before:
                if self.budget.refusal:
                    log.info(self.budget.refusal)
                return

    def _round(self, engine: Engine, drift: ModelChange, cache: Cache | None) -> None:
        """Send the next request of every waiting task, as far as the budget allows."""
        before, self._capped = self.asked, False
        for replies in engine.together(drift.until(self._affordable(cache))):
            if any(reply.error is None for reply in replies):
                self.begin()
            charges = [self.budget.charge(reply) for reply in replies]
            self.asked += len(replies)
            for reply in self._replies.append(list(map(Arrival, replies, charges))):
                drift.see(reply)
                self._take(reply, *self._sent.pop(reply.key), cached=False)
                self._unreached = self._unreached + 1 if reply.error is not None and self._unreached >= 0 else -1
                self._check_reached(reply, UNREACHABLE)
            self.progress.paid(charges)
        if self.asked > before and not self._capped:
            self._check_reached(reply, self.asked - before)

    def _check_reached(self, reply: Reply, limit: int) -> None:
        """Raise `EngineError` if the first `limit` requests of the run all stayed without an answer."""
        if self._unreached >= limit:
            raise EngineError(f"the judge does not answer: {reply.error}; fix this and run the same command again")

    def _affordable(self, cache: Cache | None) -> Iterator[Request]:
        """Yield the requests that are not in the cache, made when the engine takes them, up to the first one over the
        budget.
        """
        left = self._ready()
        while part := list(islice(left, AT_ONCE)):
            batch = {one.waiting.key: one for one in part}
            if cache is not None:
                self._recall(cache, batch)
            for key, one in batch.items():
                request = self._work.requests.request(one.texts, one.task, one.waiting.ask, key=key)
                if not self.budget.reserve(request):
                    self._capped = True
                    return
                self._sent[key] = one.number, one.task
                yield request

    def _ready(self) -> Iterator[Ready]:
        """Yield the tasks that wait for a reply, in judging order."""
        for query, waiting in self._states.unfinished():
            texts, tasks = self._work[query]
            start = self._states.start(query)
            for place in waiting.nonzero()[0].tolist():
                found = self._next(tasks[place])
                yield Ready(start + place, texts, tasks[place], waiting=found)

    def _next(self, task: Task) -> Waiting:
        """Return the next step of a task that is not finished."""
        if self._one_step:
            return Waiting(task.key, self._work.requests.first_ask(len(task.passage_ids)))
        found = advance(task, self._judging, self._replies)
        assert isinstance(found, Waiting)
        return found

    def _recall(self, cache: Cache, batch: dict[str, Ready]) -> None:
        """Take the replies that are in the cache; their tasks leave the batch, or stay in it with their next step."""
        while found := cache.find(batch):
            self.begin()
            for reply in self._replies.append(list(map(Arrival, found))):
                one = batch.pop(reply.key)
                if more := self._take(reply, one.number, one.task, cached=True):
                    batch[more.key] = one._replace(waiting=more)
            self.cached += len(found)

    def _take(self, reply: Reply, number: int, task: Task, *, cached: bool) -> Waiting | None:
        """Advance the task that waited for a reply; return its next step, or None if it is finished."""
        if self._one_step:
            found = advance(task, self._judging, {reply.key: reply})
        else:
            with self._replies.arriving(reply):
                found = advance(task, self._judging, self._replies)
        if isinstance(found, Waiting):
            self._replies.keep(reply)
            return found
        self._states.waiting[number] = False
        if pairs := int(self._states.pairs_for[number]):
            times = pairs // len(found.verdicts)
            failures = self._failures.see(task, found.verdicts) * times
            self.progress.judged(pairs, failures=failures, cached=cached)
        return None
