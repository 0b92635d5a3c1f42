"""Reserve the folder that a command writes: lock and check it before the work, replace it in one step afterwards.

Links are followed: their targets are replaced and the links stay. A folder that cannot be renamed (a mount point, the
current folder, a folder whose parent may not be written) keeps its place, and its content is replaced.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.errors import ArtifactError, UsageError
from labelkit.storage.atomic import exchange, sync_directory, write_text
from labelkit.storage.locks import HolderLock
from labelkit.storage.manifest import MANIFEST, Manifest, kind_named, parse_manifest

REPLACING = ".replacing"
"""File in a folder whose content is being replaced in place, with the kind of the new content."""
JOURNALS = "*.sqlite"
"""Pattern of the files that nothing makes again: replies that were paid for, grades that people gave."""
OF_THE_DISK = "lost+found"
"""Folder that every new ext4 file system contains."""


class Place(NamedTuple):
    """The location of an output."""

    path: Path
    """Path of the output as given, with a link or `.` resolved."""
    in_place: bool
    """True if the output cannot be renamed, so that its content is replaced in place."""

    def beside(self, suffix: str) -> Path:
        """Return a path on the same disk for a companion of the output: `OUTPUT.suffix`, or `OUTPUT/.suffix`."""
        return self.path / suffix if self.in_place else self.path.with_name(self.path.name + suffix)

    def content(self) -> list[Path]:
        """Return the paths in the output, without hidden ones if the output is replaced in place."""
        found = sorted(self.path.iterdir()) if self.path.is_dir() else []
        if not self.in_place:
            return found
        return [path for path in found if not path.name.startswith(".") and path.name != OF_THE_DISK]


def place_of(target: Path) -> Place:
    """Return the location of the output `target`. Raises `ArtifactError` for a path through a broken link."""
    try:
        named = absolute(target)
        for path in (named, *named.parents):
            if path.is_symlink() and not path.exists():
                raise ArtifactError(
                    f"{path} is a link to {path.readlink()}, which does not exist; create it or choose another folder"
                )
        path = named.resolve() if named.is_symlink() or target.name in ("", "..") else target
        return Place(path, path.is_dir() and keeps_its_place(path.resolve()))
    except OSError as error:
        raise ArtifactError(f"{target} cannot be read: {error.strerror}; choose another folder") from None


def name_of(target: Path) -> str:
    """Return the name of an output as the user gave it; for `.`, the name of the folder."""
    return absolute(target).name


def absolute(path: Path) -> Path:
    """Return an absolute path without `.` and `..`; links are not followed."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (`Path.absolute` keeps `..`)


def keeps_its_place(folder: Path) -> bool:
    """Return whether a folder cannot be renamed safely."""
    return (
        folder.is_mount()
        or str(folder) in mount_points()
        or Path.cwd().is_relative_to(folder)
        or not os.access(folder.parent, os.W_OK)
    )


def mount_points() -> set[str]:
    """Return the mount points of this process from Linux's list, the only place that shows all bind mounts."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return set()
    escaped = (line.split()[4] for line in lines)
    return {os.fsdecode(re.sub(rb"\\(\d{3})", lambda found: bytes([int(found[1], 8)]), path)) for path in escaped}


@contextmanager
def claimed(target: Path, kind: str | None = None) -> Iterator[Place]:
    """Lock the output `target` while the block runs, so that no other process writes it; create its parents.

    With `kind`, the output must be absent, empty or a complete artifact of this kind. Raises `HeldError` if another
    process has locked the output, and `ArtifactError` if it cannot be written. The thread that has locked an output may
    claim it again.
    """
    place = place_of(target)
    lock = HolderLock(f"{place.path}/" if place.in_place else str(place.path), target, again=True)
    new = [parent for parent in place.path.parents if not parent.exists()]
    try:
        place.path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise ArtifactError(
            f"{target} cannot be written: {error.strerror}: {error.filename}; free the disk or choose another folder"
        ) from None
    try:
        if kind is not None:
            refuse_foreign(place, target, kind)
        yield place
    finally:
        lock.release()
        with suppress(OSError):
            for parent in new:  # remove them again if nothing was written
                parent.rmdir()


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Lock a folder during a long read, so that no command replaces it; a folder that is read-only needs no lock."""
    place = place_of(folder)
    writable = os.access(place.path if place.in_place else place.path.parent, os.W_OK)
    with claimed(folder) if writable and place.path.is_dir() else nullcontext():
        yield


def refuse_foreign(place: Place, target: Path, kind: str) -> None:
    """Raise `ArtifactError` unless a place is absent, empty, or only contains a complete artifact of this kind."""
    path, replaced = place.path, place.path / REPLACING
    if not path.exists() or (path.is_dir() and not place.content()):
        return
    if journal := next(path.glob(JOURNALS), None):
        raise ArtifactError(
            f"{target} contains {journal.name}, a journal of replies that were paid for or of grades that people gave, "
            f"and the new {kind} would replace it; choose another output folder, or move this one away first"
        )
    if place.in_place and replaced.is_file() and replaced.read_text(encoding="utf-8") == kind:
        return
    if not (path / MANIFEST).is_file():
        raise ArtifactError(f"{target} exists and is not a labelkit {kind}; choose another output folder or remove it")
    found = parse_manifest(path / MANIFEST)
    if found.kind != kind:
        raise ArtifactError(f"{target} contains a {found.kind}, not a {kind}; choose another output folder")
    if more := unknown_files(place, found):
        names = ", ".join(more[:3]) + (f" and {len(more) - 3} more" if len(more) > 3 else "")
        raise ArtifactError(
            f"{target} contains {names} beside the {kind}, and a new {kind} would replace the whole folder; move that "
            "away or choose another output folder"
        )


def unknown_files(place: Place, manifest: Manifest[Any]) -> list[str]:
    """Names of the files in a folder that neither its manifest nor its kind knows, sorted."""
    known = {*manifest.files, *kind_named(manifest.kind).added, MANIFEST}
    found = []
    for path in place.content():
        inner = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
        found += [one.relative_to(place.path).as_posix() for one in inner if one.is_symlink() or not one.is_dir()]
    return sorted(set(found) - known)


def refuse_own_input(target: Path, read: Sequence[Path]) -> None:
    """Raise `UsageError` where the output of a command is one of the folders that it reads: it would replace them."""
    for folder in read:
        if folder.resolve() == target.resolve():
            raise UsageError(f"{target} is read by this command, and its output would replace it; choose another -o")


def refuse_other_file(path: Path, beginning: bytes, what: str) -> None:
    """Raise `ArtifactError` where a file with content stands that begins otherwise: the command did not write it."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        found = file.read(len(beginning))
    if found not in (b"", beginning):
        raise ArtifactError(f"{path} exists and is not a labelkit {what}; choose another output file or remove it")


def put(made: Path, place: Place, kind: str) -> None:
    """Move a finished folder to its place and remove the old content. If this fails, keep the finished folder and raise
    `ArtifactError`.
    """
    try:
        if place.in_place:
            refill(made, place, kind)
        elif place.path.exists():
            exchange(made, place.path)
        else:
            made.rename(place.path)
        sync_directory(place.path if place.in_place else place.path.parent)
    except OSError as error:
        raise ArtifactError(
            f"{place.path} cannot be replaced: {error.strerror}; the finished folder is {made}: move it from there"
        ) from None
    shutil.rmtree(made, ignore_errors=True)


def refill(made: Path, place: Place, kind: str) -> None:
    """Replace the content of a folder in place. The old manifest is removed first and the new one moved last, so that a
    folder with a manifest is always complete.
    """
    write_text(place.path / REPLACING, kind)
    (place.path / MANIFEST).unlink(missing_ok=True)
    sync_directory(place.path)
    for old in place.content():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    for new in sorted(made.iterdir(), key=lambda path: path.name == MANIFEST):
        if new.name == MANIFEST:
            sync_directory(place.path)
        new.rename(place.path / new.name)
    (place.path / REPLACING).unlink()
