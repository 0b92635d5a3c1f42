"""Write and read folders: written in a temporary folder, renamed when complete, with a `manifest.json` written last.

A folder with a manifest is complete; for a folder without one, the error names the command to run again. All Parquet
files are written with fixed settings, so that the same rows give the same bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from labelkit.errors import ArtifactError
from labelkit.records import SCHEMA_VERSION
from labelkit.storage.atomic import UNFINISHED, disk_errors, sync_file, write_text
from labelkit.storage.credentials import blot
from labelkit.storage.manifest import MANIFEST as MANIFEST
from labelkit.storage.manifest import F, Facts, Kind, Manifest, document_sha256, kind_named, parse_manifest
from labelkit.storage.names import beside
from labelkit.storage.outputs import claimed, place_of, put
from labelkit.version import __version__

BEGUN = "unfinished.json"
"""File in an unfinished folder with its kind and the command that finishes it; removed once the manifest is written."""
PARQUET: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
ROW_GROUP = 65_536
"""Rows per row group, which with `PARQUET` is independent of the machine. All paths given to pyarrow are absolute,
because it would read a folder named `~` as the home folder.
"""
ROWS_AT_ONCE = 8_192
"""Rows of a file that are read at a time."""


@contextmanager
def writing(target: Path, kind: str, command: str) -> Iterator["Draft"]:
    """Write an artifact in a temporary folder and move it to `target` when the block ends without an exception.

    A complete artifact of the same kind at `target` is replaced; any other content is refused, so that a mistyped path
    never destroys a folder. A killed run leaves `target` unchanged. Raises `HeldError` if another process writes
    `target`, and `ArtifactError` for a place or a disk that cannot be written.
    """
    with claimed(target, kind) as place:
        aside = place.beside(UNFINISHED)
        draft = Draft(aside, kind, command)
        shutil.rmtree(aside, ignore_errors=True)
        try:
            with disk_errors(f"{target} was not written"):
                aside.mkdir()
                begin(aside, kind, command)
                yield draft
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        with disk_errors(f"{target} was not finished, its files are complete in {aside} except for the manifest"):
            write_manifest(aside, kind, command, inputs=draft.inputs, rows=draft.rows, facts=draft.facts)
        put(aside, place, kind)


def begin(folder: Path, kind: str, command: str) -> None:
    """Mark a folder as unfinished, with the command that finishes it."""
    write_text(folder / BEGUN, json.dumps({"kind": kind, "command": command}, ensure_ascii=False))
    (folder / MANIFEST).unlink(missing_ok=True)


class Draft:
    """An artifact that is being written: its temporary folder `path`, and the content of its manifest."""

    def __init__(self, path: Path, kind: str, command: str) -> None:
        self.path = path
        self.kind = kind
        self.command = command
        self.inputs: dict[str, str] = {}
        self.rows: dict[str, int] = {}
        self.facts = Facts()

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write `name`.parquet and count its rows."""
        write_parquet(self.path / f"{name}.parquet", table)
        self.rows[name] = table.num_rows

    def write_batches(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Write `name`.parquet from a stream, with row groups of equal size independent of the batches."""
        self.rows[name] = 0
        with pq.ParquetWriter((self.path / f"{name}.parquet").absolute(), schema, **PARQUET) as writer:
            for table in _regrouped(batches, schema):
                writer.write_table(table, row_group_size=ROW_GROUP)
                self.rows[name] += table.num_rows


def _regrouped(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the rows of a stream as contiguous tables of `ROW_GROUP` rows."""
    held = pa.Table.from_batches([], schema)
    for batch in batches:
        held = pa.concat_tables([held, pa.Table.from_batches([batch], schema)])
        while held.num_rows >= ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held = held.slice(ROW_GROUP)
    if held.num_rows:
        yield held.combine_chunks()


def write_manifest(
    folder: Path,
    kind: str,
    command: str,
    *,
    inputs: Mapping[str, str],
    rows: Mapping[str, int],
    facts: Facts,
    files: Sequence[str] | None = None,
) -> None:
    """Hash the files of `folder` (all, or only `files`) and then write its manifest durably."""
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
        "facts": facts.as_json(),
        "files": {name: file_sha256(folder / name) for name in names},
    }
    document = json.loads(blot(json.dumps(document)))
    document["sha256"] = document_sha256(document)
    write_text(folder / MANIFEST, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    (folder / BEGUN).unlink(missing_ok=True)


@overload
def read_manifest(folder: Path, kind: Kind[F], *, verify: bool = True) -> Manifest[F]: ...


@overload
def read_manifest(folder: Path, kind: str, *, verify: bool = True) -> Manifest[Any]: ...


def read_manifest(folder: Path, kind: str, *, verify: bool = True) -> Manifest[Any]:
    """Read the manifest of a complete artifact; with `verify`, compare its files with their sha256.

    Raises `ArtifactError`, with the remedy, if the folder is missing, unfinished, damaged or of another kind.
    """
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(_incomplete_message(folder, kind))
    manifest = parse_manifest(folder / MANIFEST)
    if manifest.kind != kind:
        raise ArtifactError(f"{folder} contains a {manifest.kind}, but a {kind} is needed here")
    damaged = [name for name, digest in manifest.files.items() if verify and not _matches(folder / name, digest)]
    if damaged:
        raise ArtifactError(
            f"{folder}: {', '.join(damaged)} changed since it was written; make it again: {manifest.command}"
        )
    return manifest


def manifest_kind(folder: Path) -> Kind[Any]:
    """Return the kind of a folder. Raises `ArtifactError` if it has no manifest."""
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(_incomplete_message(folder, "folder of labelkit"))
    return kind_named(parse_manifest(folder / MANIFEST).kind)


def _incomplete_message(folder: Path, kind: str) -> str:
    aside = place_of(folder).beside(UNFINISHED)
    for place in (folder, aside):
        if (place / BEGUN).is_file():
            return f"{folder} is not finished; to finish it, run the command that began it: {begun(place)}"
    if folder.is_dir() and any(folder.iterdir()):
        return f"{folder} has no {MANIFEST}: it is not a finished {kind}; run the command that makes it again"
    if aside.is_dir():
        return f"{folder} was never finished (only {aside.name} exists); run the command that makes it again"
    if folder.is_dir():
        return f"{folder} is empty, but a {kind} is needed here"
    if folder.exists():
        return f"{folder} is a file, but a {kind} is needed here"
    return f"{folder} does not exist, but a {kind} is needed here{beside(folder)}"


def begun(folder: Path) -> str:
    """Return the command that finishes an unfinished folder, or a note that it is not known."""
    try:
        return str(json.loads((folder / BEGUN).read_text(encoding="utf-8"))["command"])
    except (OSError, ValueError, TypeError, KeyError):
        return "the record of it is damaged, but it had this output folder"


def _matches(path: Path, digest: str) -> bool:
    return path.is_file() and file_sha256(path) == digest


def known_sha256(folder: Path) -> dict[str, str]:
    """Return the sha256 of files by relative path, from labelkit's manifest if the folder has one, else computed."""
    if (folder / MANIFEST).is_file():
        return dict(parse_manifest(folder / MANIFEST).files)
    return {name: file_sha256(folder / name) for name in sorted(_relative_files(folder))}


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table with page checksums and settings that do not depend on the machine."""
    pq.write_table(table, path.absolute(), row_group_size=ROW_GROUP, **PARQUET)


def read_table(folder: Path, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one table of an artifact, or some of its columns, and verify its page checksums. Call `read_manifest` first.

    Raises `ArtifactError` if the file is damaged.
    """
    with _read_errors(folder, name):
        path = (folder / f"{name}.parquet").absolute()
        return pq.read_table(path, columns=columns and list(columns), page_checksum_verification=True)


def read_batches(folder: Path, name: str) -> Iterator[pa.RecordBatch]:
    """Yield one table of an artifact in batches and verify its page checksums. Call `read_manifest` first.

    Raises `ArtifactError` if the file is damaged.
    """
    with _read_errors(folder, name):
        path = (folder / f"{name}.parquet").absolute()
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield from file.iter_batches(ROWS_AT_ONCE)


@contextmanager
def _read_errors(folder: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{folder / name}.parquet cannot be read: {error}") from None


def _relative_files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix()
