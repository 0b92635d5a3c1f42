"""Tasks on their way through the engine: what is asked next, and what came back.

Each reply goes to the journal before anything else happens with it, and is read from there when it is wanted again.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from labelkit.engines import Engine, Reply, Request
from labelkit.errors import EngineError, JournalError
from labelkit.judging.budget import Budget
from labelkit.judging.journal import Journal
from labelkit.judging.methods import Method
from labelkit.judging.model_change import ModelChange
from labelkit.judging.progress import Progress, ShowProgress
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_cache import Cache
from labelkit.judging.settling import Finished, Waiting, advance, together
from labelkit.judging.tasks import Task, Tasks

UNREACHABLE = 20
"""So many requests without an answer in a row, and none answered before, mean that there is no judge."""


class RunReplies:
    """The replies that a run builds on: the good ones of the journal, and what came in this run.

    Only their keys are in memory.
    """

    def __init__(self, journal: Journal, good: set[str]) -> None:
        self._journal = journal
        self.good = good
        """Keys of the good ones."""
        self._came: dict[str, Reply] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.good

    def get(self, key: str) -> Reply | None:
        """The reply to a request; None where it is to be asked."""
        if key not in self.good:
            return self._came.get(key)
        reply = self._journal.reply(key)
        if reply is None and self._journal.mend():
            reply = self._journal.reply(key)
        if reply is None:
            raise JournalError(f"{self._journal.path}: the reply {key} was lost to damage; run the same command again")
        return reply

    @contextmanager
    def arriving(self, reply: Reply) -> Iterator[None]:
        """A reply that is in the journal. One with an error counts while the block runs: the next run asks again."""
        if reply.error is None:
            self.good.add(reply.key)
            yield
        else:
            self._came[reply.key] = reply
            yield
            del self._came[reply.key]

    def forget_failed(self, tasks: Iterable[Task], method: Method, prompt: Prompt) -> None:
        """Leave out the replies of every task with a failure, so that it is asked again from its first step."""
        failed = (advance(task, method, prompt, self) for task in tasks)
        self.good -= {key for done in failed if isinstance(done, Finished) and done.failures for key in done.keys}


Waitlist = dict[str, list[tuple[Task, Waiting]]]
"""Key of a request -> the tasks that wait for its reply."""


class Scheduler:
    """Tasks on their way through the engine, a round a step: what waits for a reply, and what came.

    Tasks that need the same reply wait for it together, so equal texts are paid once.
    """

    def __init__(
        self,
        tasks: Tasks,
        method: Method,
        prompt: Prompt,
        replies: RunReplies,
        journal: Journal,
        budget: Budget,
        show: ShowProgress,
    ) -> None:
        self._tasks = tasks
        self._method = method
        self._prompt = prompt
        self._replies = replies
        self._journal = journal
        self._budget = budget
        self._show = show
        self._waiting: Waitlist = {}
        self._unreached = 0
        """Replies without an answer so far; -1 once there was an answer."""
        self.bought: list[str] = []
        """Keys of the good replies of this run."""
        self.asked = self.known = self.cached = 0

    def start(self, tasks: list[Task]) -> None:
        """Take up the tasks where their replies end."""
        one_step = len(self._prompt.steps) == 1
        done = 0
        for group in together(tasks, listwise=self._method.listwise):
            # Where one reply is all, what it says does not matter here.
            there = [task for task in group if (one_step and task.key in self._replies) or self._place(task)]
            done += pairs_of(there)
            # A pair with several orders, votes or looks is known by the last of them.
            if len(there) == len(group):
                self.known += pairs_of(group)
        self.progress = Progress(total=pairs_of(tasks), done=done, show=self._show)

    def ask(self, engine: Engine, drift: ModelChange, cache: Cache | None) -> None:
        """Send what waits, journal each reply as it comes, and go on until every task is finished.

        Raises `EngineError` where nobody answers at all, or another model than before.
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
            # What was set aside is settled now: there may be room for some of the rest.
            if batch and self.asked == sent:
                return

    def _round(self, engine: Engine, drift: ModelChange, batch: Waitlist) -> None:
        """One pass over what waits; what the budget does not allow stays in the batch."""
        limit = min(UNREACHABLE, len(batch))
        for replies in engine.together(drift.until(self._affordable(batch))):
            charges = [self._budget.charge(reply) for reply in replies]
            self._journal.append(replies, charges)
            for reply, charge in zip(replies, charges, strict=True):
                drift.see(reply)
                self.asked += 1
                if reply.error is None:
                    self.bought.append(reply.key)
                self._take(reply, batch.pop(reply.key), cached=False)
                self.progress.paid(charge.tokens, charge.usd)
                self._unreached = self._unreached + 1 if reply.error is not None and self._unreached >= 0 else -1
                if self._unreached >= limit:
                    raise EngineError(
                        f"the judge answers nothing: {reply.error}; mend that and run the same command again"
                    )

    def _affordable(self, batch: Waitlist) -> Iterator[Request]:
        """The requests of a batch, made when the engine takes them, up to the first that does not fit the budget."""
        for key, (task, waiting) in [(key, tasks[0]) for key, tasks in batch.items()]:
            request = self._tasks.request(task, waiting.ask, key)
            if not self._budget.reserve(request):
                return
            yield request

    def _recall(self, cache: Cache) -> int:
        """Take what waits out of the cache, as far as it is there; how many replies that were."""
        found = cache.find(self._waiting)
        if found:
            self._journal.append(found)
        for reply in found:
            self._take(reply, self._waiting.pop(reply.key), cached=True)
        self.cached += len(found)
        return len(found)

    def _take(self, reply: Reply, waiting: list[tuple[Task, Waiting]], *, cached: bool) -> None:
        """Move the tasks that waited for a reply on."""
        with self._replies.arriving(reply):
            for task, _ in waiting:
                # A pair counts by its first look, vote or order.
                if (finished := self._place(task)) and task.variant == 0:
                    self.progress.judged(len(finished.verdicts), failed=finished.failures, cached=cached)

    def _place(self, task: Task) -> Finished | None:
        """Where a task stands: finished, or waiting with all others that need the same reply."""
        found = advance(task, self._method, self._prompt, self._replies)
        if isinstance(found, Finished):
            return found
        self._waiting.setdefault(found.key, []).append((task, found))
        return None


def pairs_of(tasks: Iterable[Task]) -> int:
    """How many pairs tasks are about, each counted by its first look, vote or order."""
    return sum(len(task.passage_ids) for task in tasks if task.variant == 0)
