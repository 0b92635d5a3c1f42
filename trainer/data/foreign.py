"""Open datasets in other formats, such as Tevatron or sentence-transformers files, by importing them automatically."""

import hashlib
from pathlib import Path

from filelock import FileLock

from labelkit.exchange.formats import recognised
from labelkit.exchange.importing import import_dataset, inputs_of
from labelkit.exchange.options import ImportOptions
from labelkit.storage import folders
from labelkit.storage.cache_folder import cache_folder
from labelkit.storage.names import inside
from trainer.data.input_check import is_ours


def our_dataset(path: Path) -> Path:
    """Return the dataset folder for a path; data in another format is imported once, into the cache folder.

    Positives of a format without grades get grade 2, negatives grade 0; the source of all labels is `imported`. Raises
    `UsageError` for a file in an unknown format.
    """
    if not path.exists() or is_ours(path):
        return path
    form = recognised(path)
    digest = hashlib.sha256(f"{form}\n{sorted(inputs_of(path).items())}".encode()).hexdigest()[:32]
    name = path.resolve().stem
    kept = inside(cache_folder() / "imported" / digest, name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.making"):
        if not (kept / folders.MANIFEST).is_file():
            command = f"labelkit import {path} --from {form}"
            options = ImportOptions(judge=name, format=form, positive_grade=1)
            import_dataset(path, kept, options, command=command)
    return kept
