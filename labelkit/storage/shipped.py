"""The files that come with labelkit: prompts, prices, templates. One way for a checkout and for an installed wheel."""

from importlib.resources import files
from pathlib import Path

SHIPPED = Path(str(files("labelkit") / "shipped"))
"""Folder of these files. Wheels are unpacked when they are installed, so it is a real folder."""
