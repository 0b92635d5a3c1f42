"""Progress for people, on standard error: a bar on a terminal, a line every half minute in a log."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress

LOG_SECONDS = 30.0


class Progress:
    """Counts judged pairs and what they cost; shows rates, failures, money and the time that is left."""

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._known = done
        self._new = self._cached = self._failed = self._tokens = 0
        self._usd: float | None = 0.0
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

    def judged(self, pairs: int, *, failed: int, cached: bool) -> None:
        """So many more pairs have their last reply, new or out of the cache, and so many of them failed."""
        if cached:
            self._cached += pairs
        else:
            self._new += pairs
        self._failed += failed

    def paid(self, tokens: int, usd: float | None) -> None:
        """A reply came; it cost this. The screen follows the replies: a pair may need several."""
        if self._tokens == 0 and self._bar is None:
            self._spoken = time.monotonic()
        self._tokens += tokens
        self._usd = None if usd is None or self._usd is None else self._usd + usd
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, words=self.words())
        elif time.monotonic() - self._spoken > LOG_SECONDS:
            self._say()

    def close(self) -> None:
        """End the bar, or say the last line."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, words=self.words())
            self._bar.stop()
        elif self._new or self._cached or self._tokens:
            self._say()

    @property
    def _done(self) -> int:
        return self._known + self._cached + self._new

    def _say(self) -> None:
        self._spoken = time.monotonic()
        print(f"judged {self._done}/{self._total}, {self.words()}", file=sys.stderr, flush=True)

    def words(self) -> str:
        """Rates, what is new, what it cost and will cost, and how long it will take."""
        rate, left = self._new / max(self.seconds, 1e-9), self._total - self._done
        parts = [f"{rate:.1f} pairs/s", f"{self._tokens / max(self.seconds, 1e-9):,.0f} tokens/s", f"{self._new} new"]
        if self._cached:
            parts.append(f"{self._cached} cached")
        parts.append(f"{self._failed} failed")
        if self._usd is not None and self._usd > 0:
            projected = f" of about {self._usd * (1 + left / self._new):.2f}" if self._new else ""
            parts.append(f"{self._usd:.2f}{projected} US dollars")
        seconds = left / rate if self._new else None
        parts.append("0:00 left" if not left else f"{clock(seconds)} left")
        return ", ".join(parts)


def clock(seconds: float | None) -> str:
    """Minutes and seconds, with hours where there are any."""
    if seconds is None:
        return "unknown time"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
