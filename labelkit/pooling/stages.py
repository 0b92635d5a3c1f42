"""Report how far a long stage of work is, for a screen or a log."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

log = logging.getLogger(__name__)

SECONDS = 30.0
"""Seconds between two lines of the log."""


class Stage(NamedTuple):
    """A stage of work and how far it is."""

    name: str
    done: int
    total: int | None
    """Number of items of the whole stage; None if it is unknown."""
    items: str
    """Name of the items that are counted, in the plural."""


Report = Callable[[Stage], None]
"""Function that shows how far a stage is."""


class Logged(NamedTuple):
    """The part of a stage that was seen and logged."""

    begun: float
    """Time of the first report in seconds."""
    first: int
    """Items that were done at the first report."""
    last: int
    """Items that were done at the last report."""
    spoken: float
    """Time of the last line in seconds; `begun` if there was none."""


class LoggedStages:
    """Writes a line to the log every half minute, and none for a stage that is shorter.

    Stages may take turns, as a search and the pool that takes its results do.
    """

    def __init__(self) -> None:
        self._stages: dict[str, Logged] = {}

    def __call__(self, stage: Stage) -> None:
        now, known = time.monotonic(), self._stages.get(stage.name)
        if known is None or stage.done <= known.last:
            self._stages[stage.name] = Logged(now, stage.done, stage.done, spoken=now)
            return
        spoken = known.spoken
        if now - spoken >= SECONDS or (stage.done == stage.total and spoken > known.begun):
            spoken = now
            rate = (stage.done - known.first) / (now - known.begun)
            log.info(f"{stage.name}: {stage.done:,}{of(stage.total)} {stage.items}, {rate:,.0f} a second")
        self._stages[stage.name] = known._replace(last=stage.done, spoken=spoken)


def of(total: int | None) -> str:
    """Return a total as the second part of a fraction; nothing if it is unknown."""
    return "" if total is None else f"/{total:,}"
