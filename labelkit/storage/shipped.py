"""Find the files that come with labelkit (prompts, prices, templates), in a checkout or in an installed wheel."""

from importlib.resources import files
from pathlib import Path

SHIPPED = Path(str(files("labelkit") / "shipped"))
"""Folder of the files that come with labelkit; a real folder, because wheels are unpacked when they are installed."""
