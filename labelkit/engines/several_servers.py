"""Keep track of which servers of a run accept the options of a request.

All servers of a run get the same options, because these are part of the judge and of the key of every reply. So a
server that was answered in other options than the ones that a later server needs is asked once more. If no options suit
all servers, the run ends and names two servers and the option on which they differ.
"""

import logging
from collections import Counter

from labelkit.engines import Reply, Request
from labelkit.engines.dialects import Dialect
from labelkit.engines.http import CallError
from labelkit.engines.ladder import NAMING, OF_THE_REQUEST, named_option
from labelkit.engines.stopping import said
from labelkit.errors import EngineError

log = logging.getLogger(__name__)

REFUSED = 2
"""Number of requests that a server refuses, without ever answering one, before it differs from servers that answer."""
CURE = (
    "all servers of a run get the same options, which are part of the judge: leave one of them out, or run one command "
    "for each, with --add-judge if both write to one folder"
)


class Servers:
    """The servers of a run, of which the first one of `unknown` is asked next."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        self.unknown = list(urls)
        """Servers that are still to show that they accept the options."""
        self._shown: dict[str, Dialect] = {}
        """Server -> options in which it was answered last."""
        self._settled: list[Dialect] = []
        """All options in which any server was answered."""
        self._start: tuple[str, Dialect] | None = None
        """Server that was answered last, with its options, from which the next server starts."""
        self._refused: Counter[str] = Counter()
        self._words: dict[str, str] = {}
        self._several = len(urls) > 1
        self._scored: str | None = None
        """Server that gave log-probabilities with its first answer."""
        self._problem: str | None = None

    @property
    def others(self) -> bool:
        """Whether other servers than the one that is asked next may answer."""
        return bool(self._shown) or len(self.unknown) > 1

    def check(self) -> None:
        """Raise `EngineError` if two servers differ."""
        if self._problem is not None:
            raise EngineError(self._problem)

    def skip(self) -> None:
        """Go to the next server, because this one does not answer."""
        self.unknown.pop(0)

    def settle(self, dialect: Dialect) -> None:
        """Take in that the server is answered in this dialect; servers that were answered in another are asked again.

        If a server returns to options that were left for another one, no options suit both: `check` raises an error.
        """
        url = self.unknown[0]
        if self._start is not None and dialect != self._start[1] and dialect in self._settled:
            self._problem = differing(url, dialect, self._start)
            return
        self.unknown.pop(0)
        self.unknown += [other for other, earlier in self._shown.items() if earlier != dialect and other != url]
        self._shown = {url: dialect} | {other: one for other, one in self._shown.items() if one == dialect}
        self._settled.append(dialect)
        self._start = url, dialect

    def see_scores(self, request: Request, reply: Reply) -> None:
        """Log that a server gives no log-probabilities with its first answer, although another one does."""
        if not self._several or not request.labels:
            return
        if reply.label_logprobs is not None:
            self._scored = self._scored or self.unknown[0]
        elif self._scored not in (None, self.unknown[0]):
            log.info(
                f"{self.unknown[0]} gives no log-probabilities that distinguish labels, and {self._scored} does: the "
                "pairs that it answers have grades but no scores; leave it out if you need scores"
            )

    def refuse(self, request: Request, error: CallError, dialect: Dialect) -> bool:
        """Take in that the server refuses a first request in every spelling; return whether another one is next.

        Raises `EngineError` if the refusal names an option, or is not the first, while another server is answered.
        """
        url = self.unknown[0]
        if not self._several or not of_options(error):
            return False
        self._refused[url] += 1
        option = named_option(request, dialect, error.body)
        if self._start is not None and (option or self._refused[url] >= REFUSED):
            self._problem = refusing(url, said(error), self._start, option=option)
            self.check()
        if self._start is None and len(self.unknown) > 1:
            self.unknown.append(self.unknown.pop(0))
            return True
        return False

    def see_refusal(self, error: CallError) -> None:
        """Take in a refusal while all servers are asked."""
        if self._several and of_options(error):
            self._refused[error.url] += 1
            self._words.setdefault(error.url, said(error))

    def compare(self, answered: set[str]) -> None:
        """Raise `EngineError` if a server refuses requests and is not among the addresses that have `answered`."""
        known = answered | {url.rstrip("/") for url in self._shown}
        for url, words in self._words.items():
            if known and url not in known and self._refused[url] >= REFUSED:
                raise EngineError(f"{url} refuses the requests that {min(known)} answers: {words}; {CURE}")


def of_options(error: CallError) -> bool:
    """Return whether a refusal may be one of the options, and not of the texts of a request."""
    refused = error.status in NAMING or (error.status is None and bool(error.body))
    return refused and not OF_THE_REQUEST.search(error.body)


def refusing(url: str, words: str, other: tuple[str, Dialect], *, option: str | None) -> str:
    """Return the problem of a server that refuses options in which another one is answered."""
    if option is None:
        return f"{url} refuses the requests that {other[0]} answers, whatever their options: {words}; {CURE}"
    value = getattr(other[1], option)
    return f"{url} refuses the option {option} as {other[0]} accepts it ({value}): {words}; {CURE}"


def differing(url: str, dialect: Dialect, other: tuple[str, Dialect]) -> str:
    """Return the problem of two servers that need different options."""
    pairs = zip(dialect._asdict().items(), other[1], strict=True)
    options = [f"{name} ({mine} at {url}, {theirs} at {other[0]})" for (name, mine), theirs in pairs if mine != theirs]
    return f"two servers need different options of a request: {', '.join(options)}; {CURE}"
