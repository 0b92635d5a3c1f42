"""Lock files that name the process that holds them; the lock of a killed process is released."""

import json
import os
import shlex
import socket
import sys
import time
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from labelkit.errors import HeldError
from labelkit.storage.credentials import blot

PATIENCE = 1.0
"""Longest wait in seconds for the process that holds a lock to describe itself."""


class HolderLock:
    """The files `STEM.lock`, which is locked, and `STEM.holder`, which describes the process that holds it.

    With `again`, the thread that holds a lock may acquire it again through another object with the same stem.
    """

    def __init__(self, stem: str, what: Path, *, again: bool = False) -> None:
        self._lock = FileLock(f"{stem}.lock", is_singleton=again)
        self._holder = Path(f"{stem}.holder")
        self._what = what

    def acquire(self) -> None:
        """Acquire the lock. Raises `HeldError` if another process holds it, and `OSError` if it cannot be created."""
        until = time.monotonic() + PATIENCE
        while not self._taken():
            # A process that has just acquired the lock has no description yet, one that is releasing it has none left.
            if (holder := self._described()) or time.monotonic() > until:
                raise HeldError(f"{self._what} is held by {holder or 'another process'}; wait for it or stop it")
            time.sleep(PATIENCE / 20)
        if self._lock.lock_counter > 1:
            return
        described = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(" ", "seconds"),
            "command": blot(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        }
        try:
            self._holder.write_text(json.dumps(described), encoding="utf-8")
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock; its files are removed when the last of several acquisitions is released."""
        if self._lock.lock_counter == 1:
            self._holder.unlink(missing_ok=True)
            # Remove it before the release: a process that has opened it locks a file without a name, and tries again.
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def _taken(self) -> bool:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def _described(self) -> str:
        try:
            held = json.loads(self._holder.read_text(encoding="utf-8"))
            return f"process {held['pid']} on {held['host']} since {held['since']}: {held['command']}"
        except (OSError, ValueError, TypeError, KeyError):
            return ""
