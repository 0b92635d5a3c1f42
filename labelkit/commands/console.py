"""What both command lines share: one line for one of our own errors, and words for people on standard error."""

import logging
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from labelkit.errors import LabelkitError, NotYetError, UsageError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def run(app: Callable[[], None]) -> None:
    """Run a command line; an error of ours becomes one line and its exit code, Ctrl-C becomes 130.

    A scheduler's SIGTERM is taken as Ctrl-C: an engine must end the processes that it started.
    """
    signal.signal(signal.SIGTERM, interrupt)
    show_log()
    try:
        refuse_odd_bytes(sys.argv)
        app()
    except NotYetError as later:
        say(later)
        sys.exit(later.exit_code)
    except LabelkitError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        say(f"error: {error.strerror or error}: {error.filename}" if error.filename else f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        stopped()
    except SystemExit as end:
        # Typer makes its own exit out of Ctrl-C inside a command.
        if end.code == INTERRUPTED:
            stopped()
        raise


def refuse_odd_bytes(arguments: Sequence[str]) -> None:
    """Raise `UsageError` for an argument that is not UTF-8: neither a manifest nor a table could name it."""
    for argument in arguments:
        if re.search("[\ud800-\udfff]", argument):
            raise UsageError(f"{argument!r} is not UTF-8; rename the file or folder")


def interrupt(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C does at this moment: an event loop handles it in a way of its own. Where Ctrl-C is ignored, as in a
    job in the background, what it does by default.
    """
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def stopped() -> None:
    """The end after Ctrl-C."""
    say("stopped; run the same command again to go on")
    sys.exit(INTERRUPTED)


class Screen(logging.Handler):
    """Shows what the library reports."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def show_log() -> None:
    """Send the reports of both packages to standard error, once."""
    for name in ("labelkit", "trainer"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [Screen()]


def say(words: object) -> None:
    """Words for people."""
    print(words, file=sys.stderr, flush=True)


def command_line(program: str) -> str:
    """The command as it was typed, for manifests."""
    return shlex.join([program, *sys.argv[1:]])
