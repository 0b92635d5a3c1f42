"""Find the home folder and the folder for cached files, which can be derived again."""

import atexit
import logging
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)

VARIABLE = "LABELKIT_CACHE"


def home_folder() -> Path | None:
    """Return the user's home folder; None if neither `HOME` nor the list of users has one, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def cache_folder() -> Path:
    """Return the folder of cached files, `LABELKIT_CACHE` or `~/.cache/labelkit`, and create it if it is missing.

    If it cannot be written, or there is no home folder, return a temporary folder that is removed with this process.
    """
    named, home = os.environ.get(VARIABLE), home_folder()
    folder = Path(named) if named else home / ".cache" / "labelkit" if home else None
    return folder if folder and _writable(folder) else _temporary(folder)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@lru_cache
def _temporary(instead_of: Path | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="labelkit-cache-"))
    atexit.register(_remove, folder, os.getpid())
    why = f"{instead_of} cannot be written" if instead_of else "there is no home folder"
    log.warning(
        f"{why}: files that can be derived again are kept in {folder} until this command ends; set {VARIABLE} to a "
        "folder that can be written, to keep them longer"
    )
    return folder


def _remove(folder: Path, owner: int) -> None:
    """Remove the folder when the process that created it ends, but not when one of its forks ends."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
