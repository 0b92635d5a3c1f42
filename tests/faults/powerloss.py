"""Power loss, replayed: every write and sync of a real run is recorded by strace, and the disk is put together again as
it may have been at any moment: what was synced, and any part of what was not.

Directory entries are taken to be on disk when the call returns; SQLite syncs the directory itself where it matters.
"""

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CALLS = "pwrite64,write,fdatasync,fsync,ftruncate,unlink,unlinkat"
LINE = re.compile(r'(?:\[pid +\d+\] |\d+ +)?(\w+)\((?:\d+<([^>]*)>|[^"]*"((?:\\x[0-9a-f]{2})*)")(.*)\) += (-?\d+)')
DATA = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Event(NamedTuple):
    """One call that changes a file."""

    call: str
    path: str
    offset: int | None
    data: bytes


def record(script: str, *arguments: object, log: Path) -> list[Event]:
    """Run a Python script under strace; what it did to files, in order."""
    command = ["strace", "-f", "-y", "-xx", "-s", "10000000", "-e", f"trace={CALLS}", "-o", str(log)]
    subprocess.run([*command, sys.executable, "-c", script, *map(str, arguments)], check=True)
    return list(events(log))


def events(log: Path) -> Iterator[Event]:
    """The successful calls of a log."""
    with log.open() as lines:
        for line in lines:
            found = LINE.search(line)
            if not found or int(found[5]) < 0:
                continue
            call, path, name, rest = found[1], found[2], found[3], found[4]
            path = unescaped(path if path is not None else name or "").decode(errors="replace")
            data = DATA.search(rest)
            content = unescaped(data[1])[: int(found[5])] if data and "write" in call else b""
            numbers = re.findall(r", (\d+)", rest)
            yield Event(call, path, int(numbers[-1]) if call in ("pwrite64", "ftruncate") else None, content)


def unescaped(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if "\\x" in text else text.encode()


class Disk:
    """Files as they are on disk for certain, and what was written since the last sync of each."""

    def __init__(self) -> None:
        self._synced: dict[str, bytearray] = {}
        self._open: dict[str, list[Event]] = {}

    def do(self, event: Event) -> None:
        """One more call."""
        if event.call in ("unlink", "unlinkat"):
            self._synced.pop(event.path, None)
            self._open.pop(event.path, None)
        elif event.call in ("fsync", "fdatasync"):
            for waiting in self._open.pop(event.path, []):
                apply(self._synced.setdefault(event.path, bytearray()), waiting)
        else:
            self._open.setdefault(event.path, []).append(event)

    def after_power_loss(self, chance: random.Random) -> dict[str, bytes]:
        """The files as they may be found: some of the unsynced writes are there, one of them perhaps in part."""
        found = {path: bytearray(content) for path, content in self._synced.items()}
        for path, waiting in self._open.items():
            kept = chance.choice((0.0, 0.5, 1.0))
            for event in waiting:
                if chance.random() < kept:
                    torn = event._replace(data=event.data[: chance.randint(0, len(event.data))])
                    apply(found.setdefault(path, bytearray()), torn if chance.random() < 0.2 else event)
        return {path: bytes(content) for path, content in found.items()}


def apply(content: bytearray, event: Event) -> None:
    """One write to the content of a file."""
    if event.call == "ftruncate":
        size = event.offset or 0
        content[:] = content[:size].ljust(size, b"\0")
        return
    start = len(content) if event.offset is None else event.offset
    if len(content) < start:
        content.extend(bytes(start - len(content)))
    content[start : start + len(event.data)] = event.data
