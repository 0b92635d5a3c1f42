"""Look through the tasks of a run before its first request: which are unfinished, and what the journal will record."""

import json
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from labelkit.judging.journal import Asked, Journal, merged
from labelkit.judging.key_set import KeySet
from labelkit.judging.run_replies import RunReplies
from labelkit.judging.settling import Finished, Waiting, advance
from labelkit.judging.task_states import TaskStates
from labelkit.judging.tasks import Work, one_step, pairs_of
from labelkit.storage.text_file import TextFile


class Survey:
    """The states of all tasks of a run, and their records for the journal in a temporary file. Use it in `with`."""

    def __init__(self, work: Work, answered: KeySet, new: Sequence[str] = ()) -> None:
        """`answered`: keys with a reply; `new`: the keys among them whose reply arrived in this run."""
        self._work = work
        self.states = TaskStates(listwise=work.judging.listwise)
        self._asked = TextFile(self._records(), work.texts.scratch)
        self.states.group(answered, new)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asked.__exit__(kind, error, trace)

    def register(self, journal: Journal, before_change: Callable[[], None] = lambda: None) -> None:
        """Record the judge and all pairs of the run in the journal; `before_change` is called if it lacks any."""
        judging = self._work.judging
        queries = ((self._work.texts.query_id(number), self._asked[number]) for number in range(len(self._asked)))
        journal.register_queries(
            judging.judge, judging.prompt.content, queries, whole=judging.listwise, before_change=before_change
        )

    def take_up(self, replies: RunReplies, *, retry: bool) -> None:
        """Find the tasks that need more replies although they have their first one.

        These are the tasks whose later steps are open, and with `retry` also those with a failure: they are repeated
        from their first step.
        """
        judging, states = self._work.judging, self.states
        # The content of a reply does not matter if it is the only one.
        if one_step(judging) and not retry:
            return
        for number, wanted in states.answered():
            tasks = [task for task, there in zip(self._work[number].tasks, wanted.tolist(), strict=True) if there]
            with replies.loaded(task.key for task in tasks):
                found = [advance(task, judging, replies) for task in tasks]
            places = (states.start(number) + wanted.nonzero()[0]).tolist()
            for place, done in zip(places, found, strict=True):
                if retry and isinstance(done, Finished) and done.failures:
                    replies.good.remove(done.keys)
                    states.waiting[place] = True
                elif isinstance(done, Waiting):
                    states.waiting[place] = True

    def keys(self) -> Iterator[set[str]]:
        """Yield the keys of the first requests about each query."""
        for number in range(len(self._asked)):
            yield {Asked("", "", *pair).key for pair in json.loads(self._asked[number])}

    def _records(self) -> Iterator[str]:
        """Yield the pairs of each query as they are stored, and add its tasks to the states."""
        judging = self._work.judging
        for query in self._work.queries():
            self.states.add(query.tasks)
            yield merged(None, pairs_of(query.tasks, listwise=judging.listwise))
