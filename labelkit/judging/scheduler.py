"""Send the requests of tasks to the engine and take in their replies.

Each reply is stored in the journal before it is used, and read from the journal when it is needed again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from labelkit.engines import Engine, Reply, Request, traits_of
from labelkit.errors import EngineError, JournalError, NotYetError
from labelkit.judging.budget import Budget
from labelkit.judging.failure_log import FailureLog
from labelkit.judging.journal import Arrival, Journal
from labelkit.judging.methods import Judging
from labelkit.judging.model_change import ModelChange
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.prices import Price
from labelkit.judging.progress import Progress, ShowProgress
from labelkit.judging.reply_cache import Cache
from labelkit.judging.settling import Finished, Waiting, advance, together
from labelkit.judging.tasks import Task, Work, asked_of

UNREACHABLE = 20
"""Number of first requests that must all stay without an answer before the run stops because there is no judge."""


class RunReplies:
    """The valid replies of the journal and the replies of this run; only their keys are in memory."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.good = journal.answered()
        """Keys of the replies without an error."""
        self._came: dict[str, Reply] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.good

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request; None if the request must be sent."""
        if key in self._came or key not in self.good:
            return self._came.get(key)
        reply = self._journal.reply(key)
        if reply is None and self._journal.mend():
            reply = self._journal.reply(key)
        if reply is None:
            raise JournalError(f"{self._journal.path}: the reply {key} was lost to damage; run the same command again")
        return reply

    @contextmanager
    def arriving(self, reply: Reply) -> Iterator[None]:
        """Make a journalled reply available, from memory inside the block. A reply with an error is available inside
        the block only, so that the next run sends its request again.
        """
        if reply.error is None:
            self.good.add(reply.key)
        self._came[reply.key] = reply
        yield
        del self._came[reply.key]

    def append(self, arrivals: Sequence[Arrival]) -> list[Reply]:
        """Journal replies and return them as they are stored; when this returns, they survive a crash."""
        return self._journal.append(arrivals)

    def forget_failed(self, tasks: Iterable[Task], judging: Judging) -> None:
        """Drop the replies of every task with a failure, so that it is repeated from its first step."""
        failed = (advance(task, judging, self) for task in tasks)
        self.good -= {key for done in failed if isinstance(done, Finished) and done.failures for key in done.keys}

    def earlier(self, tasks: Iterable[Task]) -> Iterator[Reply]:
        """Yield earlier replies to detect a change of the model; one is enough if the journal names one model."""
        alike = self._journal.models() == 1
        for task in tasks:
            if task.key in self and (reply := self.get(task.key)):
                yield reply
                if alike:
                    return

    def publish(self, cache: Cache, bought: Iterable[str]) -> None:
        """Add the paid replies of this run, and of an earlier run that was killed, to a cache."""
        cache.add(filter(None, map(self._journal.reply, bought)))
        cache.add(filter(None, map(self._journal.reply, cache.missing(self.good))))


def ask(
    work: Work,
    engine: Engine,
    journal: Journal,
    *,
    options: AnnotateOptions,
    price: Price | None,
    show: ShowProgress,
    begin: Callable[[], None],
) -> "Scheduler":
    """Send all requests without a reply, as far as the budget allows.

    The work is registered in the journal, and `begin` is called, only once the judge has answered: a judge that never
    answers leaves no trace. Raises `EngineError` if the judge does not answer or its model has changed. Paid replies
    are added to the cache in any case.
    """
    judging = work.judging
    replies = RunReplies(journal)
    known = judging.judge.judge_id in {judge.judge_id for judge, _ in journal.judges()}
    answered = known or not work.tasks or any(task.key in replies for task in work.tasks)

    def register() -> None:
        begin()
        asked = asked_of(judging.judge.judge_id, work.tasks, listwise=judging.listwise)
        journal.register(judging.judge, judging.prompt.content, asked, whole=judging.listwise)

    # An engine that states its model in advance cannot change it.
    watched = not options.allow_drift and engine.facts.model_answered is None
    drift = ModelChange(replies.earlier(work.tasks) if watched else (), watched=watched)
    if options.retry_failed:
        replies.forget_failed(work.tasks, judging)
    traits = traits_of(options.engine)
    budget = Budget(journal, options.caps, price=price, tokens=work.tokens, traits=traits)
    run = Scheduler(work, replies, budget, answered=answered, begin=register, show=show)
    cache = None if options.cache is None else Cache(options.cache)
    try:
        run.ask(engine, drift, None if options.retry_failed else cache)
        if answered:
            run.begin()
    except NotYetError:
        run.begin()  # the requests are on their way
        raise
    finally:
        run.progress.close()
        if cache is not None and run.asked:
            replies.publish(cache, run.bought)
    return run


Waitlist = dict[str, list[tuple[Task, Waiting]]]
"""Key of a request -> tasks that wait for its reply."""


class Scheduler:
    """Sends the requests of tasks in one round per step, and moves each task on when its reply arrives.

    Tasks that need the same reply wait for it together, so that equal texts are paid for once.
    """

    def __init__(
        self,
        work: Work,
        replies: RunReplies,
        budget: Budget,
        *,
        answered: bool,
        begin: Callable[[], None],
        show: ShowProgress,
    ) -> None:
        self._work = work
        self._judging = work.judging
        self._replies = replies
        self.budget = budget
        self._waiting: Waitlist = {}
        self._unreached = -1 if answered else 0
        """Number of replies without an answer so far; -1 once there was an answer, in this run or an earlier one."""
        self._failures = FailureLog()
        self._begin = begin
        self.begun = False
        self.bought: list[str] = []
        """Keys of the replies of this run without an error."""
        self.asked = self.known = self.cached = 0
        self.progress = Progress(total=pairs_of(work.tasks), done=self._take_up(), show=show)

    def _take_up(self) -> int:
        """Resume the tasks after their last replies; return the number of pairs that need no more replies."""
        one_step = len(self._judging.prompt.steps) == 1
        done = 0
        for group in together(self._work.tasks, listwise=self._judging.listwise):
            # The content of a reply does not matter here if it is the only one.
            there = [task for task in group if (one_step and task.key in self._replies) or self._place(task)]
            done += pairs_of(there)
            # A pair is known only if all its orders, votes and looks are.
            if len(there) == len(group):
                self.known += pairs_of(group)
        return done

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
        while self._waiting:
            if cache is not None and self._recall(cache):
                continue
            batch, self._waiting = self._waiting, {}
            sent = self.asked
            self._round(engine, drift, batch)
            drift.check()
            self._waiting.update(batch)
            # All reservations are settled now, so that the budget may allow some of the other requests.
            if batch and self.asked == sent:
                return

    def _round(self, engine: Engine, drift: ModelChange, batch: Waitlist) -> None:
        """Send the requests of a batch once; requests over the budget stay in the batch."""
        limit = min(UNREACHABLE, len(batch))
        for replies in engine.together(drift.until(self._affordable(batch))):
            if any(reply.error is None for reply in replies):
                self.begin()
            charges = [self.budget.charge(reply) for reply in replies]
            stored = self._replies.append(list(map(Arrival, replies, charges)))
            for reply, charge in zip(stored, charges, strict=True):
                drift.see(reply)
                self.asked += 1
                if reply.error is None:
                    self.bought.append(reply.key)
                self._take(reply, batch.pop(reply.key), cached=False)
                self.progress.paid(charge.tokens, charge.usd)
                self._unreached = self._unreached + 1 if reply.error is not None and self._unreached >= 0 else -1
                if self._unreached >= limit:
                    raise EngineError(
                        f"the judge does not answer: {reply.error}; fix this and run the same command again"
                    )

    def _affordable(self, batch: Waitlist) -> Iterator[Request]:
        """Yield the requests of a batch, made when the engine takes them, up to the first one over the budget."""
        for key, (task, waiting) in [(key, tasks[0]) for key, tasks in batch.items()]:
            request = self._work.request(task, waiting.ask, key)
            if not self.budget.reserve(request):
                return
            yield request

    def _recall(self, cache: Cache) -> int:
        """Take waiting replies from the cache if they are in it; return their number."""
        found = cache.find(self._waiting)
        if found:
            self.begin()
        for reply in self._replies.append(list(map(Arrival, found))) if found else ():
            self._take(reply, self._waiting.pop(reply.key), cached=True)
        self.cached += len(found)
        return len(found)

    def _take(self, reply: Reply, waiting: list[tuple[Task, Waiting]], *, cached: bool) -> None:
        """Advance the tasks that waited for a reply."""
        with self._replies.arriving(reply):
            for task, _ in waiting:
                # A pair is counted at its first look, vote or order.
                if (finished := self._place(task)) and task.variant == 0:
                    failures = self._failures.see(task, finished.verdicts)
                    self.progress.judged(len(finished.verdicts), failures=failures, cached=cached)

    def _place(self, task: Task) -> Finished | None:
        """Return a finished task; put any other task with those that wait for the same reply, and return None."""
        found = advance(task, self._judging, self._replies)
        if isinstance(found, Finished):
            return found
        self._waiting.setdefault(found.key, []).append((task, found))
        return None


def pairs_of(tasks: Iterable[Task]) -> int:
    """Return the number of pairs in tasks, each counted at its first look, vote or order."""
    return sum(len(task.passage_ids) for task in tasks if task.variant == 0)
