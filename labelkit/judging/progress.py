"""Show the progress of a run: judged pairs, tokens, US dollars, and the remaining time."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from labelkit.errors import MissingPackageError
from labelkit.judging.failure_log import kind_of
from labelkit.judging.journal import Charge
from labelkit.judging.prices import dollars

KINDS = 2
"""Most kinds of failures that the progress shows."""


class Progress:
    """Counts judged pairs and their cost. `show` is called at the start, after replies that arrived together, and at
    the end.
    """

    def __init__(self, total: int, done: int, show: "ShowProgress", *, new: int = 0, unit: str = "pairs") -> None:
        """`done`: pairs that were judged before this run; `new`: pairs that this run judged before its progress began,
        to find out which options the server accepts. `unit`: name of the counted things; a model that writes texts
        works on passages instead of pairs.
        """
        self.total = total
        self.unit = unit
        self._known = done
        self._first = new
        self._new = self._cached = self._tokens = 0
        self._failures: Counter[str] = Counter()
        """Kind of reason -> number of pairs without a grade."""
        self._usd: float | None = 0.0
        self._start = time.monotonic()
        self._show = show
        self.finished = False
        show(self)

    @property
    def seconds(self) -> float:
        """Wall time since the start in seconds."""
        return time.monotonic() - self._start

    @property
    def done(self) -> int:
        """Pairs that have their last reply."""
        return self._known + self._first + self._cached + self._new

    @property
    def moved(self) -> bool:
        """Whether any reply has arrived in this run."""
        return bool(self._new or self._cached or self._tokens)

    def judged(self, pairs: int, *, failures: Sequence[str], cached: bool) -> None:
        """Count pairs that got their last reply, new or from the cache, and the reasons of those without a grade."""
        if cached:
            self._cached += pairs
        else:
            self._new += pairs
        if failures:
            self._failures.update(map(kind_of, failures))

    def paid(self, charges: Iterable[Charge]) -> None:
        """Count the cost of replies that arrived together and show the state: a pair may need several replies."""
        for tokens, usd in charges:
            self._tokens += tokens
            self._usd = None if usd is None or self._usd is None else self._usd + usd
        self._show(self)

    def close(self) -> None:
        """Show the last state."""
        self.finished = True
        self._show(self)

    def words(self) -> str:
        """Return the state as text: rates, new pairs, spent and expected US dollars, and the remaining time."""
        rate, left = self._new / max(self.seconds, 1e-9), self.total - self.done
        parts = [
            f"{rate:.1f} {self.unit}/s",
            f"{self._tokens / max(self.seconds, 1e-9):,.0f} tokens/s",
            f"{self._first + self._new} new",
        ]
        if self._cached:
            parts.append(f"{self._cached} cached")
        parts.append(f"{self._failures.total()} failed")
        if self._failures:
            parts[-1] += f" ({', '.join(f'{count} x {kind}' for kind, count in self._failures.most_common(KINDS))})"
        if self._usd is not None and self._usd > 0:
            projected = f" of about {dollars(self._usd * (1 + left / self._new))}" if self._new else ""
            parts.append(f"{dollars(self._usd)}{projected} US dollars")
        seconds = left / rate if self._new else None
        parts.append("0:00 left" if not left else f"{clock(seconds)} left")
        return ", ".join(parts)


def clock(seconds: float | None) -> str:
    """Return seconds as minutes and seconds, with hours if there are any."""
    if seconds is None:
        return "unknown time"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


ShowProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Show nothing."""


def progress_bar() -> ShowProgress:
    """Return a progress bar for the argument `progress` of `annotate`, `cascade` and `redteam`.

    It works in a notebook and in a terminal. Raises `MissingPackageError` if tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingPackageError("tqdm", "notebook") from None
    return TqdmBar(tqdm)


class TqdmBar:
    """Shows each run as a tqdm bar."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        if self._bar is None:
            desc = "judging" if progress.unit == "pairs" else "writing"
            self._bar = self._tqdm(total=progress.total, desc=desc, unit=progress.unit[:-1])
        self._bar.update(progress.done - self._bar.n)
        self._bar.set_postfix_str(progress.words() if progress.moved or progress.finished else "loading the model")
        if progress.finished:
            self._bar.close()
            self._bar = None
