"""Output and errors of both command lines.

Each of our own errors is shown as one line. Messages for people go to standard error, results to standard output. Texts
from outside are printed without secrets, and they cannot control the terminal.
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
from functools import cache
from types import FrameType
from typing import Any

from typer import BadParameter, Typer
from typer.main import get_command

from labelkit.errors import LabelkitError, NotYetError, UsageError
from labelkit.storage.credentials import blot, secret_forms
from labelkit.storage.foreign_text import escaped_controls, without_controls

WRONG_CALL: Any = next(kind for kind in BadParameter.mro() if kind.__name__ == "ClickException")
"""Exception of a wrong option or command; the module that defines it differs between releases of typer."""
format_warning = warnings.formatwarning

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""


def run_commands(app: Typer) -> None:
    """Run a Typer application with the error handling of `run`."""
    run(lambda: sys.exit(command_of(app)(standalone_mode=False)))


@cache
def command_of(app: Typer) -> Any:
    """Build the command of a Typer application once per process, for callers that run several command lines."""
    return get_command(app)


def run(app: Callable[[], None]) -> None:
    """Run a command line. One of our own errors becomes one line and its exit code; Ctrl-C becomes exit code 130.

    SIGTERM, which schedulers send, is handled like Ctrl-C, so that an engine can end the processes that it started.
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
        # Typer converts Ctrl-C inside a command into this exit code.
        if end.code == INTERRUPTED:
            stopped()
        raise
    except Exception:
        say(traceback.format_exc().rstrip())
        sys.exit(1)


def read_file_names_as_utf8() -> None:
    """Restart this command in Python's UTF-8 mode if the locale has another encoding, such as ASCII."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONUTF8": "1"})  # the variable is for worker processes


def escape_what_cannot_be_shown() -> None:
    """Show characters that the terminal's encoding lacks as `\\uXXXX`, so that they end no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def refuse_odd_bytes(arguments: Sequence[str]) -> None:
    """Raise `UsageError` for an argument that is not UTF-8, since neither a manifest nor a table can contain it."""
    for argument in arguments:
        if re.search("[\ud800-\udfff]", argument):
            raise UsageError(f"{argument!r} is not UTF-8; rename the file or folder")


def interrupt(number: int, frame: FrameType | None) -> None:
    """Call the current handler of Ctrl-C, since an event loop installs its own. If Ctrl-C is ignored, as in a
    background job, call the default handler.
    """
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)


def stopped() -> None:
    """Tell the user how to resume, and exit with code 130."""
    say("stopped; run the same command again to resume")
    sys.exit(INTERRUPTED)


class Screen(logging.Handler):
    """Shows log records of the library on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def show_log() -> None:
    """Send log records of both packages, and warnings of all other packages, to standard error, each once.

    Other packages, such as transformers, have their own handlers, so their records are cleaned when they are made.
    """
    logging.setLogRecordFactory(clean_record)
    logging.lastResort = Screen(logging.WARNING)
    warnings.formatwarning = lambda *about: shown(format_warning(*about))
    for name in ("labelkit", "trainer"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.handlers = [Screen()]


def clean_record(*about: Any, **more: Any) -> logging.LogRecord:
    """Make a log record without secrets and control characters in its message and traceback."""
    record = logging.LogRecord(*about, **more)
    try:
        message = record.getMessage()
    except (TypeError, ValueError, KeyError):  # a wrong log call of a library must not stop a command
        message = f"{record.msg} {record.args}"
        record.msg, record.args = message, ()
    if (clean := shown(message)) != message:
        record.msg, record.args = clean, ()
    if record.exc_info and record.exc_info[0]:
        record.exc_text = shown("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record


def say(*lines: object) -> None:
    """Print lines for people on standard error."""
    print(*(shown(str(line)) for line in lines), sep="\n", file=sys.stderr, flush=True)


def result(text: str) -> None:
    """Print a result on standard output, without secrets and, on a terminal, without control characters."""
    print(shown(text) if sys.stdout.isatty() else blot(text))


def result_json(document: Any, indent: int | None = None) -> None:
    """Print a JSON document on standard output; control characters in its texts are escaped."""
    everything = "utf" not in (sys.stdout.encoding or "").lower()
    print(escaped_controls(blot(json.dumps(document, indent=indent, ensure_ascii=everything))))


def shown(text: str) -> str:
    """Remove secrets and control characters from a text, for a terminal."""
    return without_controls(blot(text))


def command_line(program: str) -> str:
    """Return the command as it was typed, without secrets, for manifests."""
    forms = secret_forms()
    return shlex.join(blot(word, forms) for word in [program, *sys.argv[1:]])
