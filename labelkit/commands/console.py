"""What both command lines share: one line for one of our own errors, words for people on standard error, results on
standard output. Nothing from outside that is printed here controls the terminal or shows a secret.
"""

import io
import json
import logging
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from typer import BadParameter, Typer

from labelkit.errors import LabelkitError, NotYetError, UsageError
from labelkit.storage.credentials import blot
from labelkit.storage.foreign_text import escaped_controls, without_controls

WRONG_CALL: Any = next(kind for kind in BadParameter.mro() if kind.__name__ == "ClickException")
"""Raised for a wrong option or command; the module that defines it differs between releases of typer."""
format_warning = warnings.formatwarning

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def run_commands(app: Typer) -> None:
    """Run a command line made of commands, as `run` does."""
    run(lambda: sys.exit(app(standalone_mode=False)))


def run(app: Callable[[], None]) -> None:
    """Run a command line; an error of ours becomes one line and its exit code, Ctrl-C becomes 130.

    A scheduler's SIGTERM is taken as Ctrl-C: an engine must end the processes that it started.
    """
    read_file_names_as_utf8()
    signal.signal(signal.SIGTERM, interrupt)
    escape_what_cannot_be_shown()
    show_log()
    try:
        refuse_odd_bytes(sys.argv)
        app()
    except WRONG_CALL as error:
        words = io.StringIO()
        error.show(words)
        say(words.getvalue().rstrip())
        sys.exit(error.exit_code)
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
    except Exception:
        say(traceback.format_exc().rstrip())
        sys.exit(1)


def read_file_names_as_utf8() -> None:
    """Start this command again in Python's UTF-8 mode where the locale has another encoding, such as ASCII."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONUTF8": "1"})  # the workers that it starts too


def escape_what_cannot_be_shown() -> None:
    """Have the terminal's encoding end no command: characters that it lacks are shown as `\\uXXXX`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
        say(self.format(record))


def show_log() -> None:
    """Send the reports of both packages, and the warnings of all others, to standard error, once."""
    logging.lastResort = Screen(logging.WARNING)
    warnings.formatwarning = lambda *about: shown(format_warning(*about))
    for name in ("labelkit", "trainer"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [Screen()]


def say(*lines: object) -> None:
    """Print lines for people."""
    print(*(shown(str(line)) for line in lines), sep="\n", file=sys.stderr, flush=True)


def result(text: str) -> None:
    """Print a result on standard output, without secrets and, on a terminal, without control characters."""
    print(shown(text) if sys.stdout.isatty() else blot(text))


def result_json(document: Any, indent: int | None = None) -> None:
    """Print a JSON document on standard output; control characters in its texts are escaped."""
    everything = "utf" not in (sys.stdout.encoding or "").lower()
    print(escaped_controls(blot(json.dumps(document, indent=indent, ensure_ascii=everything))))


def shown(text: str) -> str:
    """A text as it may reach a terminal."""
    return without_controls(blot(text))


def command_line(program: str) -> str:
    """The command as it was typed, without secrets, for manifests."""
    return shlex.join(blot(word) for word in [program, *sys.argv[1:]])
