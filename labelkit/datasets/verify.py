"""Whether a folder is as it was written: `labelkit verify`."""

from pathlib import Path
from typing import NamedTuple

from labelkit.errors import ArtifactError
from labelkit.judging.journal import FILE as JOURNAL
from labelkit.judging.journal import Journal
from labelkit.storage.folders import manifest_kind, read_manifest, read_table
from labelkit.storage.remote import local


class Verified(NamedTuple):
    """A folder that is as it was written."""

    kind: str
    files: int
    """Files that were compared with their sha256."""
    replies: int | None
    """Replies in the journal; None where there is none."""


def verify(folder: Path | str) -> Verified:
    """Check a folder that labelkit or trainer wrote: every file byte for byte, the rows of its tables, every record of
    a journal.

    Args:
        folder: any folder with a manifest; may be at s3://, gs:// or hf://.

    Returns:
        The kind of the folder, and counts of files and replies.

    Raises:
        ArtifactError: a file is missing or changed.
        JournalError: the journal is damaged.
    """
    path = local(str(folder))
    manifest = read_manifest(path, manifest_kind(path))
    for name, count in manifest.rows.items():
        if f"{name}.parquet" in manifest.files and read_table(path, name).num_rows != count:
            raise ArtifactError(f"{path}: {name} has not the {count} rows that its manifest says")
    replies = None
    if (path / JOURNAL).is_file():
        with Journal(path) as journal:
            journal.check()
            replies = journal.spent().replies
    return Verified(manifest.kind, len(manifest.files), replies)
