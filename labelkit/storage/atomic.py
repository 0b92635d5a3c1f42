"""Write files and swap folders so that a reader sees either the old or the new content, even after a power loss."""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labelkit.errors import DiskError, LabelkitError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_ERRORS = (*FULL, errno.EROFS, errno.EIO)
WITHOUT_A_NUMBER = ("PytorchStreamWriter", "inline_container.cc", "iostream error", " requested and ")
"""Words in the errors of torch.save and NumPy for a failed write; these errors give no reason."""


def exchange(one: Path, other: Path) -> None:
    """Swap two folders, on Linux in one step, so that a reader always finds a complete folder at each path."""
    current_directory, swap = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)
    if renameat2 and renameat2(current_directory, bytes(one), current_directory, bytes(other), swap) == 0:
        return
    between = other.with_name(other.name + ".replaced")
    shutil.rmtree(between, ignore_errors=True)
    other.rename(between)
    try:
        one.rename(other)
    except OSError:
        between.rename(other)
        raise
    between.rename(one)


def disk_failure(error: BaseException) -> str | None:
    """Return the reason of an error about a disk that cannot be written; None for any other error.

    Libraries with their own code for writing raise errors of many types, with the system's message in theirs.
    """
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return os.strerror(error.errno)
    said = str(error)
    words = next((os.strerror(code) for code in FULL if os.strerror(code) in said), None)
    return words or ("a write failed" if any(words in said for words in WITHOUT_A_NUMBER) else None)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Replace an error of the block about a disk that cannot be written by `DiskError`; `what` begins its message."""
    try:
        yield
    except LabelkitError:
        raise
    except Exception as error:
        if reason := disk_failure(error):
            raise DiskError(f"{what}: {reason}; free the disk and run the same command again") from None
        raise


def write_text(path: Path, text: str) -> None:
    """Replace the content of a file durably; readers see either the old or the new content."""
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
    """Make the content of a file survive a power loss."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


UNFINISHED = ".unfinished"
"""Suffix of the temporary folder in which an artifact is written."""
