"""Find the files of a labelled data set, and read values from their rows.

A data set on the Hugging Face Hub has its rows in the top folder, in `data/`, or in a folder per configuration, and
often one file per split. Rows of several configurations or splits are never mixed.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labelkit.corpora.files import READERS, Row, file_rows, form_of
from labelkit.corpora.layout import stem_of
from labelkit.corpora.rows import encodable, text_of
from labelkit.errors import DataError, UsageError
from labelkit.storage import folders
from labelkit.storage.names import missing

SPLIT = re.compile(r"(?:^|[._-])(train|dev|validation|valid|val|test)(?=[._-]|$)")
OURS = {folders.MANIFEST, "dataset_info.json"}
"""JSON files that are no data."""


def data_files(path: Path, split: str | None = None) -> list[Path]:
    """List the files with the rows of a data set: the file itself, or the files of a folder.

    With `split`, only the files whose name contains it. Raises `DataError` if there are none, and `UsageError` if the
    folder has several configurations or splits and none is chosen.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(missing(path))
    found = tables_in(path)
    if not found:
        inner = [each for each in sorted(path.iterdir()) if each.is_dir() and tables_in(each)]
        if len(inner) > 1:
            names = ", ".join(each.name for each in inner)
            raise UsageError(f"{path} has several configurations ({names}); add one of them to the path")
        found = tables_in(inner[0]) if inner else []
    if not found:
        forms = ", ".join(READERS)
        raise DataError(f"{path} contains no file with rows ({forms}, also .gz or .zst)")
    return of_split(path, found, split)


def tables_in(folder: Path) -> list[Path]:
    """List the files of a folder in a form with rows."""
    files = sorted(each for each in folder.iterdir() if each.is_file() and each.name not in OURS)
    return [each for each in files if form_of(each) in READERS and not each.name.startswith((".", "_"))]


def of_split(path: Path, files: Sequence[Path], split: str | None) -> list[Path]:
    """Return the files of a split. Raises `UsageError` for an unknown split, or for several splits without a choice."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        named = SPLIT.search(stem_of(file))
        splits.setdefault(named[1] if named else "", []).append(file)
    if split is not None:
        if wanted := splits.get(split) or [file for file in files if split in re.split(r"[._-]", stem_of(file))]:
            return wanted
        raise UsageError(f"{path} has no split {split!r}; its files are: {', '.join(file.name for file in files)}")
    if len(named_splits := [name for name in splits if name]) > 1:
        raise UsageError(f"{path} has the splits {', '.join(sorted(named_splits))}; choose one with --split")
    return list(files)


def rows_in(files: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of files with their places, file by file."""
    for file in files:
        yield from file_rows(file)


def list_of(row: Mapping[str, Any], key: str, kind: str, where: str) -> list[Any]:
    """Return a list field of a row. Raises `DataError` if a value is not of the kind (a key of `KINDS`)."""
    values = row.get(key)
    if not isinstance(values, list) or not all(map(KINDS[kind], values)):
        raise DataError(f"{where}: field {key!r} must be a list in which each value is {kind}")
    return values


KINDS: dict[str, Callable[[Any], bool]] = {
    "a text": lambda value: isinstance(value, str) and encodable(value),
    "a finite number": lambda value: isinstance(value, int | float) and math.isfinite(value),
    "an object": lambda value: isinstance(value, dict),
    "an id": lambda value: (isinstance(value, str) and encodable(value) and value != "") or type(value) is int,
}
"""Kind of a list's values, in the words of the error -> its test."""


def title_of(row: Mapping[str, Any], where: str) -> str:
    """Return the title of a passage; empty if it has none. Raises `DataError`."""
    return text_of(row, "title", where) if row.get("title") else ""


def first_of(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first of some names that is a field of a row, else the first name."""
    return next((name for name in names if name in row), names[0])
