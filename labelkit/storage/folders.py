"""A written folder: made aside, renamed when whole, described by a `manifest.json` that comes last.

Whoever finds a folder with a manifest finds it complete; whoever finds one without is told which command to run
again. Every Parquet file is written with fixed settings, so that the same rows give the same bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labelkit import __version__
from labelkit.errors import ArtifactError
from labelkit.records import SCHEMA_VERSION
from labelkit.storage.atomic import UNFINISHED, exchange, sync_directory, sync_file, write_text
from labelkit.storage.credentials import blot
from labelkit.storage.names import inside

MANIFEST = "manifest.json"
BEGUN = "unfinished.json"
"""In a folder that is being written: the kind and the command that finishes it. It goes when the manifest comes."""
PARQUET: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
ROW_GROUP = 65_536
"""Rows. With `PARQUET`, settings that do not depend on the machine. pyarrow gets absolute paths alone: it would take a
folder `~` for the home folder.
"""


@contextmanager
def writing(target: Path, kind: str, command: str) -> Iterator["Draft"]:
    """Write the artifact `target` aside and put it in place when the block ends without an exception.

    A complete artifact of the same kind is replaced; anything else that stands at `target` is refused, so that a
    mistyped path never costs somebody's folder. A killed run leaves `target` as it was.
    """
    refuse_foreign(target, kind)
    aside = target.with_name(target.name + UNFINISHED)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    begin(aside, kind, command)
    draft = Draft(aside, kind, command)
    try:
        yield draft
        write_manifest(aside, kind, command, inputs=draft.inputs, rows=draft.rows, facts=draft.facts)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if target.exists():
        exchange(aside, target)
    else:
        aside.rename(target)
    sync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def begin(folder: Path, kind: str, command: str) -> None:
    """Mark a folder as unfinished: whoever finds it so is told what finishes it."""
    write_text(folder / BEGUN, json.dumps({"kind": kind, "command": command}, ensure_ascii=False))
    (folder / MANIFEST).unlink(missing_ok=True)


class Draft:
    """An artifact under construction: `path` to write into, and what its manifest will say."""

    def __init__(self, path: Path, kind: str, command: str) -> None:
        self.path = path
        self.kind = kind
        self.command = command
        self.inputs: dict[str, str] = {}
        self.rows: dict[str, int] = {}
        self.facts: dict[str, Any] = {}

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write `name`.parquet and count its rows."""
        write_parquet(self.path / f"{name}.parquet", table)
        self.rows[name] = table.num_rows

    def write_batches(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Write `name`.parquet from a stream: row groups of one size, however the stream is cut."""
        self.rows[name] = 0
        with pq.ParquetWriter((self.path / f"{name}.parquet").absolute(), schema, **PARQUET) as writer:
            for table in _regrouped(batches, schema):
                writer.write_table(table, row_group_size=ROW_GROUP)
                self.rows[name] += table.num_rows


def _regrouped(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of a stream in tables of `ROW_GROUP` rows, each in one piece."""
    held = pa.Table.from_batches([], schema)
    for batch in batches:
        held = pa.concat_tables([held, pa.Table.from_batches([batch], schema)])
        while held.num_rows >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held = held.slice(ROW_GROUP)
    if held.num_rows:
        yield held.combine_chunks()


def refuse_foreign(target: Path, kind: str) -> None:
    """Raise unless `target` is free, empty, or a complete artifact of this kind."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    manifest = target / MANIFEST
    if not manifest.is_file():
        raise ArtifactError(f"{target} exists and is not a {kind} of ours; choose another output folder or remove it")
    found = _parse_manifest(manifest).get("kind")
    if found != kind:
        raise ArtifactError(f"{target} holds a {found}, not a {kind}; choose another output folder")


def write_manifest(
    folder: Path,
    kind: str,
    command: str,
    *,
    inputs: Mapping[str, str],
    rows: Mapping[str, int],
    facts: Mapping[str, Any],
    files: Sequence[str] | None = None,
) -> None:
    """Hash the files of `folder` (all of them, or those named) and write its manifest, last and durably."""
    names = files if files is not None else sorted(set(_relative_files(folder)) - {BEGUN})
    for name in names:
        sync_file(folder / name)
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "command": command,
        "labelkit_version": __version__,
        "inputs": dict(sorted(inputs.items())),
        "rows": dict(sorted(rows.items())),
        "facts": dict(facts),
        "files": {name: file_sha256(folder / name) for name in names},
    }
    document = json.loads(blot(json.dumps(document)))  # keys and tuples as a reader will find them
    document["sha256"] = document_sha256(document)
    write_text(folder / MANIFEST, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    (folder / BEGUN).unlink(missing_ok=True)


def document_sha256(document: Mapping[str, Any]) -> str:
    """The checksum of a manifest over all of it but itself."""
    rest = {name: value for name, value in document.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path, kind: str, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a complete artifact, its files checked against their sha256.

    Raises `ArtifactError` where the folder is missing, of another kind, unfinished or damaged, and says what to do.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(_incomplete_message(folder, kind))
    document = _parse_manifest(path)
    if document.get("kind") != kind:
        raise ArtifactError(f"{folder} holds a {document.get('kind')}, but a {kind} is needed here")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            f"{folder} has schema version {document.get('schema_version')}; this labelkit reads {SCHEMA_VERSION}"
        )
    if verify:
        damaged = [name for name, digest in document["files"].items() if not _matches(folder / name, digest)]
        if damaged:
            raise ArtifactError(
                f"{folder}: {', '.join(damaged)} changed since it was written; make it again: {document['command']}"
            )
    return document


def manifest_kind(folder: Path) -> str:
    """What a folder says it holds. Raises `ArtifactError` where it has no manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(_incomplete_message(folder, "folder of ours"))
    return str(_parse_manifest(path).get("kind"))


def _parse_manifest(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); run the command that made the folder again") from None
    if not isinstance(document, dict) or not {"kind", "schema_version", "command", "files"} <= set(document):
        raise ArtifactError(f"{path} is no manifest of ours; run the command that made the folder again")
    if "sha256" not in document:
        raise ArtifactError(f"{path} is of an earlier release; run the command that made the folder again")
    for name in document["files"]:
        inside(path.parent, name)
    if document["sha256"] != document_sha256(document):
        raise ArtifactError(f"{path} changed since it was written; run the command that made the folder again")
    return document


def _incomplete_message(folder: Path, kind: str) -> str:
    aside = folder.with_name(folder.name + UNFINISHED)
    for place in (folder, aside):
        if (place / BEGUN).is_file():
            return f"{folder} is not finished; finish it by the command that began it: {_begun(place)}"
    if folder.is_dir() and any(folder.iterdir()):
        return f"{folder} has no {MANIFEST}: it is not a finished {kind}; run the command that makes it again"
    if aside.is_dir():
        return f"{folder} was never finished ({aside.name} is left); run the command that makes it again"
    return f"{folder} does not exist, but a {kind} is needed here"


def _begun(folder: Path) -> str:
    try:
        return str(json.loads((folder / BEGUN).read_text(encoding="utf-8"))["command"])
    except (OSError, ValueError, TypeError, KeyError):
        return "its record is damaged, but it is the one with this output folder"


def _matches(path: Path, digest: str) -> bool:
    return path.is_file() and file_sha256(path) == digest


def known_sha256(folder: Path) -> dict[str, str]:
    """sha256 by relative path: from the manifest where the folder has one of ours, else computed."""
    if (folder / MANIFEST).is_file():
        return dict(_parse_manifest(folder / MANIFEST)["files"])
    return {name: file_sha256(folder / name) for name in sorted(_relative_files(folder))}


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table with page checksums and settings that do not depend on the machine."""
    pq.write_table(table, path.absolute(), row_group_size=ROW_GROUP, **PARQUET)


def read_table(folder: Path, name: str) -> pa.Table:
    """One table of an artifact, page checksums verified. Call `read_manifest` first."""
    try:
        return pq.read_table((folder / f"{name}.parquet").absolute(), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{folder / name}.parquet cannot be read: {error}") from None


def _relative_files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix()
