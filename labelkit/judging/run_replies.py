"""Look up the replies of a run: from the journal, or from memory while they arrive."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from labelkit.engines import Reply
from labelkit.errors import JournalError
from labelkit.judging.journal import Arrival, Journal
from labelkit.judging.reply_cache import Cache

AT_ONCE = 10_000
"""Number of replies that are published at a time."""


class RunReplies:
    """The valid replies of the journal and the replies of this run; only short forms of their keys are in memory."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.good = journal.answered()
        """Keys of the replies without an error."""
        self._first = journal.last_row() + 1
        self._came: dict[str, Reply] = {}

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
    def loaded(self, keys: Iterable[str]) -> Iterator[None]:
        """Read replies from the journal together, and keep them in memory inside the block."""
        found = self._journal.answers(key for key in keys if key in self.good)
        self._came = {key: answer.reply for key, answer in found.items()}
        yield
        self._came = {}

    @contextmanager
    def arriving(self, reply: Reply) -> Iterator[None]:
        """Make a journalled reply available, from memory inside the block. A reply with an error is available inside
        the block only, so that the next run sends its request again.
        """
        self._came[reply.key] = reply
        yield
        del self._came[reply.key]

    def keep(self, reply: Reply) -> None:
        """Make a journalled reply available to the next steps of its task."""
        if reply.error is None:
            self.good.add(reply.key)

    def append(self, arrivals: Sequence[Arrival]) -> list[Reply]:
        """Journal replies and return them as they are stored; when this returns, they survive a crash."""
        return self._journal.append(arrivals)

    def earlier(self, queries: Iterable[set[str]]) -> Iterator[Reply]:
        """Yield earlier replies to detect a change of the model; one is enough if the journal names one model.

        `queries`: the keys of the first requests about each query.
        """
        alike = self._journal.one_model()
        for keys in queries:
            for answer in self._journal.answers(keys).values():
                if answer.reply.error is None:
                    yield answer.reply
                    if alike:
                        return

    def publish(self, cache: Cache) -> None:
        """Add the paid replies of this run to a cache, and those that it lacks of an earlier run that was killed."""
        left = self._journal.good_rows()
        while part := list(islice(left, AT_ONCE)):
            cache.add(reply for row, reply in part if row >= self._first)
            missing = cache.missing(reply.key for row, reply in part if row < self._first)
            cache.add(filter(None, (self._journal.reply(key) for key in missing if key in self.good)))
