"""Tasks on their way through the engine: what is asked next, and what came back.

Each reply goes to the journal before anything else happens with it.
"""

from collections.abc import Iterable, Iterator

from labelkit.budget import Budget
from labelkit.cache import Cache
from labelkit.drift import Drift
from labelkit.engines import Engine, Reply, Request
from labelkit.errors import EngineError
from labelkit.journal import Journal
from labelkit.methods import Method
from labelkit.progress import Progress
from labelkit.prompts import Prompt
from labelkit.replay import Finished, Waiting, advance
from labelkit.tasks import Task, Tasks

UNREACHABLE = 20
"""So many requests without an answer in a row, and none answered before, mean that there is no judge."""


def forget_failed(tasks: Iterable[Task], method: Method, prompt: Prompt, replies: dict[str, Reply]) -> None:
    """Drop the replies of every task with a failure, so that it is asked again from its first step."""
    failed = (advance(task, method, prompt, replies) for task in tasks)
    for key in {key for done in failed if isinstance(done, Finished) and done.failures for key in done.keys}:
        del replies[key]


Waitlist = dict[str, list[tuple[Task, Waiting]]]
"""Key of a request -> the tasks that wait for its reply."""


class Run:
    """Tasks on their way through the engine, a round a step: what waits for a reply, and what came.

    Tasks that need the same reply wait for it together, so equal texts are paid once.
    """

    def __init__(
        self,
        tasks: Tasks,
        method: Method,
        prompt: Prompt,
        replies: dict[str, Reply],
        journal: Journal,
        budget: Budget,
        variants: int,
    ) -> None:
        self._tasks = tasks
        self._method = method
        self._prompt = prompt
        self._replies = replies
        self._journal = journal
        self._budget = budget
        self._variants = variants
        self._waiting: Waitlist = {}
        self._unreached = 0
        """Replies without an answer so far; -1 once there was an answer."""
        self.bought: list[Reply] = []
        """Good replies of this run."""
        self.asked = self.known = self.cached = 0

    def start(self, tasks: list[Task]) -> None:
        """Take up the tasks where their replies end."""
        finished = [self._place(task) for task in tasks]
        # A pair with several orders or votes is known by the last of them.
        done = sum(len(found.verdicts) for found in finished if found)
        self.known = done // self._variants
        total = sum(len(task.passage_ids) for task in tasks)
        self.progress = Progress(total=total, done=done)

    def ask(self, engine: Engine, drift: Drift, cache: Cache | None) -> None:
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

    def _round(self, engine: Engine, drift: Drift, batch: Waitlist) -> None:
        """One pass over what waits; what the budget does not allow stays in the batch."""
        limit = min(UNREACHABLE, len(batch))
        for reply in engine.run(drift.until(self._affordable(batch))):
            charge = self._budget.charge(reply)
            self._journal.append(reply, charge=charge)
            drift.see(reply)
            self.asked += 1
            if reply.error is None:
                self.bought.append(reply)
            self._take(reply, batch.pop(reply.key), cached=False)
            self.progress.paid(charge.tokens, charge.usd)
            self._unreached = self._unreached + 1 if reply.error is not None and self._unreached >= 0 else -1
            if self._unreached >= limit:
                raise EngineError(f"the judge answers nothing: {reply.error}; mend that and run the same command again")

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
            self._journal.append(*found)
        for reply in found:
            self._take(reply, self._waiting.pop(reply.key), cached=True)
        self.cached += len(found)
        return len(found)

    def _take(self, reply: Reply, waiting: list[tuple[Task, Waiting]], *, cached: bool) -> None:
        """Move the tasks that waited for a reply on."""
        self._replies[reply.key] = reply
        for task, _ in waiting:
            if finished := self._place(task):
                self.progress.judged(len(finished.verdicts), failed=finished.failures, cached=cached)

    def _place(self, task: Task) -> Finished | None:
        """Where a task stands: finished, or waiting with all others that need the same reply."""
        found = advance(task, self._method, self._prompt, self._replies)
        if isinstance(found, Finished):
            return found
        self._waiting.setdefault(found.key, []).append((task, found))
        return None
