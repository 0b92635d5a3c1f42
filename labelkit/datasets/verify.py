"""Checks a folder for damaged or changed files: `labelkit verify`."""

from pathlib import Path
from typing import NamedTuple

from labelkit.errors import ArtifactError
from labelkit.judging.journal import FILE as JOURNAL
from labelkit.judging.journal import Journal
from labelkit.storage.folders import manifest_kind, read_batches, read_manifest
from labelkit.storage.remote import local


class Verified(NamedTuple):
    """The result for a folder without damaged or changed files."""

    kind: str
    files: int
    """Number of files that were compared with their sha256."""
    replies: int | None
    """Number of replies in the journal; None if there is no journal."""


def verify(folder: Path | str) -> Verified:
    """Check a folder written by labelkit or trainer for damaged or changed files.

    Every file is compared with its sha256, every table with its number of rows, and every record of a journal is
    checked.

    Args:
        folder: any folder with a manifest; may be at s3://, gs:// or hf://.

    Returns:
        The kind of the folder, and the numbers of files and replies.

    Raises:
        ArtifactError: a file is missing or changed.
        JournalError: the journal is damaged.
    """
    path = local(str(folder))
    manifest = read_manifest(path, manifest_kind(path))
    for name, count in manifest.rows.items():
        if f"{name}.parquet" in manifest.files and sum(part.num_rows for part in read_batches(path, name)) != count:
            raise ArtifactError(f"{path}: {name}.parquet does not have the {count} rows in its manifest; make it again")
    replies = None
    if (path / JOURNAL).is_file():
        with Journal(path) as journal:
            journal.check()
            replies = journal.spent().replies
    return Verified(manifest.kind, len(manifest.files), replies)
