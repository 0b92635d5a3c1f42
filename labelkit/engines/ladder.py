"""Find the dialect of a server: give up one option of a request at a time, until the server answers.

The first requests of a run are sent alone. A refusal that names an option leads to the next spelling of this option.
A refusal that names none, or an internal error that repeats, leads to the request without one option after the other.
An option is given up only if the server then answers the same request. An answer that is not a label shows that the
server ignores the constraint, and leads to its other spellings; if none of them helps, the first one is used. A fault
of the server or of the connection, and an answer that was withheld or broken off, say nothing about options: what was
tried with that request is forgotten, and the next request is sent alone.

Each call of `Ladder` handles one request that was sent once with `Ladder.dialect`.
"""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

from labelkit.engines import Reply, Request
from labelkit.engines.answer_text import NO_END, divided, normalise, says, unfinished
from labelkit.engines.dialects import A_LIMIT, FOREIGN, NAMES, RUNGS, UNKNOWN, Dialect, options_of
from labelkit.engines.http import CallError

log = logging.getLogger(__name__)

BLIND = 2
"""Most requests of a run that are tried without one option after the other."""
NAMING = (400, 403, 404, 422)
"""Statuses of a refusal that may name an option."""
FAULTS = (500, 501)
"""Statuses of a server that may fail on an option."""
OF_THE_REQUEST = re.compile(
    r"context.?(length|window|size)|too long|too many tokens|`inputs`|content.?(filter|management|policy)",
    re.IGNORECASE,
)
"""Words of a refusal of this request alone, whatever its options: too long, or its content is not allowed."""


class Ladder:
    """The dialect of one server, as far as it is known."""

    def __init__(self, dialect: Dialect = Dialect()) -> None:  # noqa: B008 (immutable)
        self.dialect = dialect
        """Spellings of the next request."""
        self.settled = False
        """True once the dialect is known."""
        self._first = dialect
        """Dialect that the next request begins with."""
        self._blind = BLIND
        self._others: Iterator[Dialect] | None = None
        """Dialects that remain to be tried without a named option; None outside of such a trial."""
        self._full: Dialect | None = None
        """Dialect before a trial that an internal error began: it is sent once more, to see that the error repeats."""
        self._helped: Dialect | None = None
        """Dialect that was answered in that trial."""
        self._unforced: Dialect | None = None
        """First dialect whose answer was not a label or did not match the pattern."""
        self._ignored: set[str] = set()
        """Constraints that the server refuses or ignores."""

    def refused(self, request: Request, error: CallError) -> bool:
        """Take in a failed request; return whether to send the same request again, with the new `dialect`."""
        if not may_name(error) or OF_THE_REQUEST.search(error.body):
            return self._start_over()
        if self._helped is not None:
            # The server fails again on the full request: it was not a passing fault.
            return self._settle(self._helped)
        if self._unforced is not None:
            return self._other_constraint()
        option = None if self._others else named_option(request, self.dialect, error.body)
        if option is None:
            return self._without_one(error, request)
        following = next_rung(self.dialect, option, error.body)
        if following is None:
            return self._start_over()
        self.dialect = following
        return True

    def answered(self, request: Request, reply: Reply) -> bool:
        """Take in an answered request; return whether to send the same request again, with the new `dialect`."""
        if reply.error is not None or says(reply.finish_reason, NO_END):
            return self._start_over()
        if self._helped is not None:
            return self._settle(self.dialect)
        if self._full is not None:
            self._helped, self.dialect = self.dialect, self._full
            return True
        # A run whose first requests ask for free text has no other ones: their options are all that is needed.
        if not (request.labels or request.pattern) or fits(request, reply):
            return self._settle(self.dialect)
        self._unforced = self._unforced or self.dialect
        return self._other_constraint()

    def _settle(self, dialect: Dialect) -> bool:
        self.dialect, self.settled = dialect, True
        if changes := dialect.changes():
            said = ", ".join(f"{name} {value}" for name, value in changes.items())
            log.info(f"the server does not accept all options of a request; this run sends: {said}")
        return False

    def _start_over(self) -> bool:
        """Forget what was tried with a request that cannot be answered, except for constraints that do not work."""
        self.dialect, self._others = self._first, None
        self._full = self._helped = self._unforced = None
        return False

    def _without_one(self, error: CallError, request: Request) -> bool:
        """Try the request without one option after the other."""
        if self._others is None:
            if not self._blind or error.status not in (400, 422, *FAULTS):
                return self._start_over()
            self._blind -= 1
            self._others = reduced(request, self.dialect)
            self._full = self.dialect if error.status in FAULTS else None
        following = next(self._others, None)
        if following is None:
            return self._start_over()
        self.dialect = following
        return True

    def _other_constraint(self) -> bool:
        """Try the next spelling of the constraint; without any left, return to the first one."""
        first = self._unforced
        assert first is not None
        self._ignored.add(self.dialect.constraint)
        left = [name for name in RUNGS["constraint"] if name not in self._ignored]
        if not left:
            return self._settle(first)
        self.dialect = first._replace(constraint=left[0])
        return True


def fits(request: Request, reply: Reply) -> bool:
    """Return whether an answer has the form that its request is constrained to, or is missing, which proves nothing."""
    if unfinished(reply.text):
        return True
    answer = divided(reply.text or "").answer
    if request.labels:
        return normalise(answer) in map(normalise, request.labels)
    return re.fullmatch(request.pattern or "", answer.strip()) is not None


def may_name(error: CallError) -> bool:
    """Return whether a failure may be the refusal of an option, or of a gateway that sends one with status 200."""
    return error.status in NAMING + FAULTS or (error.status is None and bool(error.body))


def next_rung(dialect: Dialect, option: str, body: str) -> Dialect | None:
    """Return the dialect with the next spelling of an option that a refusal names; None if none is left."""
    rungs = RUNGS[option]
    place = rungs.index(getattr(dialect, option)) + 1
    if option == "constraint" and dialect.constraint in FOREIGN and UNKNOWN.search(body):
        place = rungs.index("none")
    if option == "logprobs" and not A_LIMIT.search(body):
        place = rungs.index(0)
    return dialect._replace(**{option: rungs[place]}) if place < len(rungs) else None


def named_option(request: Request, dialect: Dialect, body: str) -> str | None:
    """Return the option that a refusal names: by its field `param`, else in its words."""
    there = list(options_of(request, dialect))
    for text in filter(None, (parameter_in(body), body)):
        for option in there:
            if NAMES[option].search(text):
                return option
    return None


def parameter_in(body: str) -> str | None:
    """Return the name in the field `param` of OpenAI's errors; None without it."""
    try:
        document: Any = json.loads(body)
        value = document["error"]["param"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def reduced(request: Request, dialect: Dialect) -> Iterator[Dialect]:
    """Yield dialects with one option less or in another spelling, and then with more and more options less."""
    there = list(options_of(request, dialect))
    least: dict[str, Any] = {option: rungs[-1] for option, rungs in RUNGS.items()} | {"constraint": "none"}
    for option in there:
        if option == "logprobs":
            yield from (dialect._replace(logprobs=length) for length in RUNGS[option] if 0 < length < dialect.logprobs)
        if getattr(dialect, option) != least[option]:
            yield dialect._replace(**{option: least[option]})
    for count in range(2, len(there) + 1):
        yield dialect._replace(**{option: least[option] for option in there[:count]})
