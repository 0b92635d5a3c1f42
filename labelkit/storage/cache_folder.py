"""The folder for files that can be derived again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where derived files are kept: `LABELKIT_CACHE`, or `~/.cache/labelkit`."""
    return Path(os.environ.get("LABELKIT_CACHE") or Path.home() / ".cache" / "labelkit")
