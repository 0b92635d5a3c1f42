"""What can go wrong, as the user sees it.

LabelkitError                 the work failed: exit code 1
├── UsageError                the call was wrong: exit code 2
│   ├── UnknownNameError      a name that is in no table; the message lists the choices
│   └── MissingPackageError   an optional dependency is absent; the message gives the install line
├── DataError                 an input is malformed; the message names file, line or id
├── ArtifactError             a folder of ours is incomplete, damaged, or in the way
│   └── HeldError             another process writes it
├── DiskError                 a disk is full, read-only or broken
├── JournalError              the record of replies is locked by another process or damaged
├── EngineError               a judge cannot be loaded or stopped answering
├── RemoteError             another place (the Hub, a bucket) refuses or cannot be reached
├── BudgetError               the caps on tokens or dollars allow no more; what was judged is written
└── NotYetError               work that goes on elsewhere: exit code 75, the same command later collects it

Every message says what is wrong, where, and what to do. The command lines print it without a traceback.
"""

from collections.abc import Iterable


class LabelkitError(Exception):
    """The work failed; `exit_code` is what the command returns to the shell."""

    exit_code = 1


class UsageError(LabelkitError):
    """The call was wrong: nothing has been done."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is not in a table (engine, method, policy, objective)."""

    def __init__(self, what: str, name: str, choices: Iterable[str]) -> None:
        super().__init__(f"unknown {what} {name!r}; choose one of: {', '.join(sorted(choices))}")


class MissingPackageError(UsageError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs {package}, which is not installed; run: pip install 'labelkit-retrieval[{extra}]'"
        )


class DataError(LabelkitError):
    """An input file is malformed or two inputs contradict each other."""


class ArtifactError(LabelkitError):
    """A folder written by labelkit or trainer is incomplete, damaged, or stands where one is to be written."""


class HeldError(ArtifactError):
    """Another process writes the same folder."""


class DiskError(LabelkitError):
    """A disk took no more; what was finished before is kept."""


class JournalError(LabelkitError):
    """The journal of paid replies is held by another process or cannot be read."""


class EngineError(LabelkitError):
    """A judge could not be loaded, reached, or asked."""


class RemoteError(LabelkitError):
    """The Hub or another store of files refused, or could not be reached."""


class BudgetError(LabelkitError):
    """A cap ended the run before its work was done."""


class NotYetError(LabelkitError):
    """Nothing is wrong, but the answers are not there yet; the code is that of sysexits.h for "try again later"."""

    exit_code = 75


def first_line(error: Exception) -> str:
    """The first line of an exception's message: what a one-line error shows."""
    return (str(error).splitlines() or [type(error).__name__])[0]
