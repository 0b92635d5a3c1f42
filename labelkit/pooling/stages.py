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


class LoggedStages:
    """Writes a line to the log every half minute, and none for a stage that is shorter."""

    def __init__(self) -> None:
        self._name = ""
        self._begun = self._spoken = 0.0
        self._first = self._last = 0

    def __call__(self, stage: Stage) -> None:
        now = time.monotonic()
        again = stage.name != self._name or stage.done <= self._last
        self._last = stage.done
        if again:
            self._name, self._begun, self._spoken, self._first = stage.name, now, now, stage.done
        elif now - self._spoken >= SECONDS or (stage.done == stage.total and self._spoken > self._begun):
            self._spoken = now
            rate = (stage.done - self._first) / (now - self._begun)
            log.info(f"{stage.name}: {stage.done:,}{of(stage.total)} {stage.items}, {rate:,.0f} a second")


def of(total: int | None) -> str:
    """Return a total as the second part of a fraction; nothing if it is unknown."""
    return "" if total is None else f"/{total:,}"
