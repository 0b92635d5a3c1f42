"""Progress for people, on standard error: a bar on a terminal, a line every half minute in a log."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

LOG_SECONDS = 30.0


class Progress:
    """Counts judged pairs; shows rate, failures and the time that is left."""

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._done_before = done
        self._new = 0
        self._failed = 0
        self._start = self._spoken = time.monotonic()
        self._bar: RichProgress | None = None
        if sys.stderr.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("judging", total=total, completed=done, words="loading the judge")
            self._bar.start()

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.monotonic() - self._start

    def step(self, *, failed: bool) -> None:
        """One more pair has its reply."""
        if self._new == 0 and self._bar is None:
            self._spoken = time.monotonic()
        self._new += 1
        self._failed += failed
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done_before + self._new, words=self._words())
        elif time.monotonic() - self._spoken > LOG_SECONDS:
            self._say()

    def close(self) -> None:
        """End the bar, or say the last line."""
        if self._bar is not None:
            self._bar.stop()
        elif self._new:
            self._say()

    def _say(self) -> None:
        self._spoken = time.monotonic()
        print(
            f"judged {self._done_before + self._new}/{self._total}, {self._words()}",
            file=sys.stderr,
            flush=True,
        )

    def _words(self) -> str:
        rate = self._new / max(self.seconds, 1e-9)
        left = (self._total - self._done_before - self._new) / max(rate, 1e-9)
        return f"{rate:.1f} pairs/s, {self._failed} failed, {int(left // 60)}:{int(left % 60):02d} left"
