"""Progress of a run on standard error: a bar on a terminal, a line every half minute in a log file."""

import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from labelkit.commands.console import say
from labelkit.commands.terminal import Terminal
from labelkit.judging.progress import Progress
from labelkit.pooling.stages import LoggedStages, Stage

LOG_SECONDS = 30.0
DONE = {"pairs": "judged", "passages": "read passages"}
"""Unit of a progress -> words before the number of units that are done."""


class ProgressBar:
    """Shows the progress of one or more consecutive runs."""

    def __init__(self) -> None:
        self._bar: RichProgress | None = None
        self._spoken = 0.0

    def __call__(self, progress: Progress) -> None:
        if sys.stderr.isatty():
            self._draw(progress)
        elif progress.finished:
            if progress.moved:
                self._say(progress)
        elif not progress.moved:
            self._spoken = time.monotonic()
        elif time.monotonic() - self._spoken > LOG_SECONDS:
            self._say(progress)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
            self._bar = RichProgress(*columns, console=Terminal(stderr=True))
            self._task = self._bar.add_task("model", total=progress.total, words="loading the model")
            self._bar.start()
        words = progress.words() if progress.moved or progress.finished else "loading the model"
        self._bar.update(self._task, completed=progress.done, words=words)
        if progress.finished:
            self._bar.stop()
            self._bar = None

    def _say(self, progress: Progress) -> None:
        self._spoken = time.monotonic()
        say(f"{DONE[progress.unit]} {progress.done}/{progress.total}, {progress.words()}")


class StageBar:
    """Shows how far the stages of a pool are: a bar for each on a terminal, a line every half minute in a log file."""

    def __init__(self) -> None:
        self._logged = LoggedStages()
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: Stage) -> None:
        if not sys.stderr.isatty():
            self._logged(stage)
            return
        if self._bars is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bars = RichProgress(
                *columns, TextColumn("{task.fields[items]}"), console=Terminal(stderr=True), transient=True
            )
            self._bars.start()
        if stage.name not in self._tasks:
            self._end_stages_without_total(self._bars)
            self._tasks[stage.name] = self._bars.add_task(stage.name, total=stage.total, items=stage.items)
        self._bars.update(self._tasks[stage.name], completed=stage.done)
        if stage.done == stage.total:
            self._bars.refresh()
            self._bars.remove_task(self._tasks.pop(stage.name))
        if not self._tasks:
            self.close()

    def _end_stages_without_total(self, bars: RichProgress) -> None:
        """Remove the bars of stages whose end is not reported, when the next stage begins."""
        for task in [task for task in bars.tasks if task.total is None]:
            bars.remove_task(self._tasks.pop(task.description))

    def close(self) -> None:
        """Remove the bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()
