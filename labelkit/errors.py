"""Define the errors that users see.

LabelkitError                 the work failed: exit code 1
├── UsageError                the call was wrong: exit code 2
│   ├── UnknownNameError      a name is unknown; the message lists the choices
│   └── MissingPackageError   an optional package is not installed; the message gives the command to install it
├── DataError                 an input is malformed; the message names file, line or id
├── ArtifactError             a folder of labelkit or trainer is incomplete, damaged, or in the way
│   └── HeldError             another process writes the folder
├── DiskError                 a disk is full, read-only or broken
├── JournalError              the journal of replies is damaged or locked by another process
├── EngineError               a judge cannot be loaded or does not answer
├── RemoteError               another place (the Hub, a bucket) refuses or cannot be reached
├── BudgetError               the caps on tokens or US dollars are reached; finished judgements are written
└── NotYetError               the work is still in progress elsewhere: exit code 75; run the same command again later

Every message says what is wrong, where, and what to do. The command lines print it without a traceback.
"""

from collections.abc import Iterable


class LabelkitError(Exception):
    """The work failed; `exit_code` is the exit code of the command."""

    exit_code = 1


class UsageError(LabelkitError):
    """The call was wrong, and nothing was done."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name of an engine, method, policy or objective is unknown."""

    def __init__(self, what: str, name: str, choices: Iterable[str]) -> None:
        super().__init__(f"unknown {what} {name!r}; choose one of: {', '.join(sorted(choices))}")


class MissingPackageError(UsageError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        from labelkit.packages import cure_for  # reading metadata takes time, and most commands need none

        super().__init__(f"this needs {package}, which is not installed; run: {cure_for(package, extra)}")


class DataError(LabelkitError):
    """An input file is malformed or two inputs contradict each other."""


class ArtifactError(LabelkitError):
    """A folder of labelkit or trainer is incomplete, damaged, or in the place of an output."""


class HeldError(ArtifactError):
    """Another process writes the same folder."""


class DiskError(LabelkitError):
    """A disk cannot be written; finished work is kept."""


class JournalError(LabelkitError):
    """The journal of paid replies is damaged or locked by another process."""


class EngineError(LabelkitError):
    """A judge cannot be loaded or does not answer."""


class RemoteError(LabelkitError):
    """The Hub or another remote store refuses or cannot be reached."""


class BudgetError(LabelkitError):
    """A cap on tokens or US dollars ended the run before its work was done."""


class NotYetError(LabelkitError):
    """Answers are not available yet; the exit code is that of sysexits.h for a temporary failure."""

    exit_code = 75


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, for errors on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]
