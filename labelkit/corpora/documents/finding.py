"""Find the documents in a folder, in an order that does not depend on the file system."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from labelkit.corpora.documents.conversion import CONVERTERS

LEFT_OUT = {"node_modules", "__pycache__"}
"""Folders with files of other people, or made by programs."""


def documents_in(folder: Path, skipped: Counter[str], but: Collection[Path] = ()) -> Iterator[Path]:
    """Yield the documents of a folder and its folders, sorted by name.

    Links, hidden files and folders, and files of other forms are left out and counted in `skipped`; the paths in `but`
    are left out. Each link and each hidden folder counts once.
    """
    left = listed(folder, skipped)
    while left:
        entry = left.pop()
        path = Path(entry.path)
        if path in but:
            continue
        if entry.is_symlink():
            skipped["links"] += 1
        elif entry.name.startswith("."):
            skipped["hidden"] += 1
        elif entry.is_dir(follow_symlinks=False):
            if entry.name in LEFT_OUT:
                skipped[entry.name] += 1
            else:
                left += listed(path, skipped)
        elif not entry.is_file(follow_symlinks=False):
            skipped["special"] += 1
        elif path.suffix.lower() in CONVERTERS:
            yield path
        else:
            skipped[path.suffix.lower() or "without an ending"] += 1


def listed(folder: Path, skipped: Counter[str]) -> list["os.DirEntry[str]"]:
    """Return what a folder contains, the last by name first; nothing, and count it, if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name), reverse=True)
    except OSError:
        skipped["folders that cannot be read"] += 1
        return []
