"""Write files and swap folders so that a reader sees the old content or the new, also after a power loss."""

import ctypes
import os
import shutil
from pathlib import Path


def exchange(one: Path, other: Path) -> None:
    """Swap two folders, in one step where the system can (Linux): a reader always finds a whole folder at each path."""
    current_directory, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)
    if renameat2 and renameat2(current_directory, bytes(one), current_directory, bytes(other), swap) == 0:
        return
    between = other.with_name(other.name + ".replaced")
    shutil.rmtree(between, ignore_errors=True)
    other.rename(between)
    one.rename(other)
    between.rename(one)


def write_text(path: Path, text: str) -> None:
    """Replace a file durably: readers see the old content or the new."""
    aside = path.with_name(path.name + UNFINISHED)
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Make renames in `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make what was written to a file survive a power loss."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


UNFINISHED = ".unfinished"
"""Suffix of the folder that stands aside while an artifact is being written."""
