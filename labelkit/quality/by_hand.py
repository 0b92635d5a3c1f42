"""The command line that lets people grade pairs, for the places that lack human grades."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from labelkit.storage.folders import manifest_kind
from labelkit.storage.manifest import LABELS

FOLDER = "my-grades"
"""Folder for the grades in the command line."""
ENOUGH = 50
"""Number of pairs in the command line."""


def review_command(folders: Sequence[Path]) -> str:
    """Return the command line of `labelkit review` for the first labels folder; `LABELS` stands for it if there is
    none, as when a dataset is given.
    """
    labels = next((str(folder) for folder in folders if manifest_kind(folder) == LABELS), "LABELS")
    return shlex.join(["labelkit", "review", labels, "-o", FOLDER, "--name", "me", "--pairs", str(ENOUGH)])


def grade_first(folders: Sequence[Path]) -> str:
    """Return the advice to grade pairs by hand and to give the grades to the same command, as the end of a sentence."""
    return f"to grade pairs by hand, run {review_command(folders)} and then give --human {FOLDER}"
