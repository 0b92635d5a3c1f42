"""Small disks and bind mounts, for tests as root on Linux; others are skipped."""

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, *how: str | Path) -> Iterator[Path]:
    """Something mounted at `folder`; the test is skipped where this user may not mount."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *how, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        # At once, though a traceback may hold a file of it open for a moment.
        subprocess.run(["umount", "--lazy", folder], check=True)


def disk(folder: Path, size: int) -> AbstractContextManager[Path]:
    """A tmpfs of `size` bytes at `folder`."""
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def bound(source: Path, folder: Path) -> AbstractContextManager[Path]:
    """The folder `source` at `folder` too: on one file system only the list of mounts tells."""
    source.mkdir(exist_ok=True)
    return mounted(folder, "--bind", source)
