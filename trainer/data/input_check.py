"""Check that a path is a dataset with labels, before settings are read and anything slow is loaded."""

from pathlib import Path

import pyarrow.compute as pc

from labelkit.errors import ArtifactError, DataError, UsageError
from labelkit.exchange.formats import recognised
from labelkit.storage import folders
from labelkit.storage.manifest import DATASET, EXPORT, LABELS, POOL

CURES = {
    POOL: "judge its pairs (labelkit annotate {folder} -o LABELS), then mix the labels (labelkit mix)",
    LABELS: "make a dataset of them: labelkit mix --data DATA --llm {folder} -o DATASET",
}
"""Kind of a folder that is often given instead of a dataset -> what makes a dataset of it."""


def is_ours(path: Path) -> bool:
    """Return whether a path is a folder of labelkit, finished or not, and no data in a format that is imported.

    Raises `UsageError` for an unknown format.
    """
    finished = (path / folders.MANIFEST).is_file()
    if finished and folders.manifest_kind(path) != EXPORT:
        return True
    try:
        recognised(path)
    except UsageError:
        if path.is_dir() and not finished:
            return True
        raise
    return False


def check_dataset(path: Path | str) -> None:
    """Check that a path can be trained on: a dataset folder with positives, or data in a format that is imported.

    Raises `ArtifactError` for a missing, unfinished or damaged folder or one of another kind, `UsageError` for an
    unknown format, and `DataError` for a dataset without positives.
    """
    path = Path(path)
    if path.exists() and not is_ours(path):
        return
    kind = folders.manifest_kind(path) if (path / folders.MANIFEST).is_file() else DATASET
    if kind in CURES:
        raise ArtifactError(f"{path} contains a {kind}, but a dataset is needed; {CURES[kind].format(folder=path)}")
    folders.read_manifest(path, DATASET, verify=False)
    positives = folders.read_table(path, "train", ["positive_ids"])["positive_ids"]
    if not pc.sum(pc.list_value_length(positives)).as_py():
        raise DataError(
            f"{path} has {len(positives)} queries and no positive, so there is nothing to train on; labelkit mix says "
            "which threshold would give positives"
        )
