"""Report the reasons of missing grades or texts while a run continues, each kind of reason once."""

import logging
import re
from collections import Counter
from collections.abc import Iterable

from labelkit.judging.methods.steps import Verdict
from labelkit.judging.tasks import Task

log = logging.getLogger(__name__)

MOST_REASONS = 12
"""Most reasons that one run reports; later ones are only counted."""
DETAILS = re.compile(r"'[^']*'|\"[^\"]*\"|\d+|req[-_][\w-]+")
"""Parts in which two reasons of the same kind may differ: quoted texts, numbers, ids of requests."""


def kind_of(reason: str) -> str:
    """Return the kind of a reason: the text before its first colon or quote."""
    return reason.split(":", 1)[0].split(" in '", 1)[0].split(' in "', 1)[0]


def by_kind(reasons: Iterable[tuple[str | None, int]]) -> dict[str, int]:
    """Add up the numbers of failures by kind of reason, most frequent kind first. A reason of None is no failure."""
    found = Counter[str]()
    for reason, count in reasons:
        if reason is not None:
            found[kind_of(reason)] += count
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


class FailureLog:
    """Logs each new reason for a missing grade, or for a missing text, when it first occurs."""

    def __init__(self, *, writes: bool = False) -> None:
        """With `writes`, the tasks write texts instead of judging pairs."""
        self._writes = writes
        self._seen: set[str] = set()

    def see(self, task: Task, verdicts: list[Verdict]) -> list[str]:
        """Log the new reasons in the verdicts of a task; return the reasons of all its failures."""
        failures = [verdict.failure for verdict in verdicts if verdict.failure is not None]
        if not failures:
            return failures
        for passage_id, verdict in zip(task.passage_ids, verdicts, strict=True):
            alike = DETAILS.sub("", verdict.failure or "")
            if verdict.failure is None or alike in self._seen or len(self._seen) >= MOST_REASONS:
                continue
            self._seen.add(alike)
            missing = "text from" if self._writes else f"grade for query {task.query_id!r},"
            log.info(f"no {missing} passage {passage_id!r}: {verdict.failure}")
            if len(self._seen) == MOST_REASONS:
                log.info("further reasons are not shown; the summary at the end counts them")
        return failures
