"""A command of ours in a process of its own that stops as soon as it holds its output."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
COMMAND = """
import os, signal, sys
from {program}.commands.app import main
from labelkit.storage.locks import HolderLock
acquire = HolderLock.acquire
def acquire_and_stop(self):
    HolderLock.acquire = acquire
    acquire(self)
    os.kill(os.getpid(), signal.SIGSTOP)
HolderLock.acquire = acquire_and_stop
sys.argv[0] = {program!r}
main()
"""


@contextmanager
def holding(program: str, *arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """A command that holds its output and does nothing until it gets SIGCONT; it is killed at the end."""
    code = COMMAND.format(program=program)
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
    )
    try:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        yield child
    finally:
        child.kill()
        child.wait()


def finished(child: "subprocess.Popen[bytes]") -> int:
    """Let a holder do its work; its exit code."""
    child.send_signal(signal.SIGCONT)
    return child.wait()
