"""Write files and swap folders so that a reader sees the old content or the new, also after a power loss."""

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
"""Words of torch.save and NumPy for a write that failed; their errors do not say why."""


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
    try:
        one.rename(other)
    except OSError:
        between.rename(other)
        raise
    between.rename(one)


def disk_failure(error: BaseException) -> str | None:
    """The reason why a disk took no more, where this is what an error says; None for any other error.

    Libraries that write through code of their own raise many types, with the system's words in their message.
    """
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return os.strerror(error.errno)
    said = str(error)
    words = next((os.strerror(code) for code in FULL if os.strerror(code) in said), None)
    return words or ("a write failed" if any(words in said for words in WITHOUT_A_NUMBER) else None)


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Raise `DiskError`, with `what` happened, for an error of the block that says that a disk takes no more."""
    try:
        yield
    except LabelkitError:
        raise
    except Exception as error:
        if reason := disk_failure(error):
            raise DiskError(f"{what}: {reason}; free the disk and run the same command again") from None
        raise


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
