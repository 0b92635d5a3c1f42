"""Use files and folders at s3://, gs://, hf:// and other addresses that fsspec supports like local ones.

Inputs are fetched before they are read. Outputs are written locally and then sent, with the manifest last, so that a
reader never mistakes a part for the whole.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from labelkit.errors import ArtifactError, DataError, MissingPackageError, RemoteError, first_line
from labelkit.storage.atomic import write_text
from labelkit.storage.folders import MANIFEST
from labelkit.storage.names import inside

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Protocol -> extra of this package that installs its file system; `hub` for all other protocols."""
VERSIONS = ("ETag", "etag", "blob_id", "md5Hash", "LastModified", "updated", "mtime", "created")
"""Fields by which file systems tell versions of a file apart."""


def is_remote(location: str) -> bool:
    """Return whether a location is an address instead of a local path."""
    return "://" in location


def local(location: str) -> Path:
    """Return a local path unchanged; fetch the content of an address into the cache and return the path of the copy.

    A folder with a manifest is fetched again only if the manifest has changed; of any other folder, only the files that
    have changed are fetched again.
    """
    if not is_remote(location):
        return Path(location)
    files, place = file_system(location)
    copy = cache_folder(location)
    copy.parent.mkdir(parents=True, exist_ok=True)
    with remote_errors(location), FileLock(f"{copy}.lock"):
        if not is_there(files, place):
            raise DataError(f"{location} does not exist")
        if files.isfile(place):
            target = inside(copy, Path(place).name)
            fetch_file(files, place, target)
            return target
        return fetch_folder(files, place, copy)


def exists(location: str) -> bool:
    """Return whether there is something at an address. Raises `RemoteError`."""
    files, place = file_system(location)
    with remote_errors(location):
        return is_there(files, place)


def is_there(files: Any, place: str) -> bool:
    """Return whether there is something at a place. Raises the error of a file system that cannot be reached.

    `exists` of the file systems is false for such a one.
    """
    if files.exists(place):
        return True
    try:
        files.info(place)
    except FileNotFoundError:
        return False
    return True


def fetch_folder(files: Any, place: str, target: Path) -> Path:
    """Fetch the files of a folder, the manifest last, so that a copy with a manifest is complete."""
    listed = objects_in(files, place, target)
    if MANIFEST not in listed:
        return fetch_changes(files, listed, target)
    manifest = files.cat_file(listed[MANIFEST])
    copy = target / MANIFEST
    if copy.is_file() and copy.read_bytes() == manifest:
        return target
    shutil.rmtree(target, ignore_errors=True)
    for name in sorted(listed, key=lambda name: name == MANIFEST):
        fetch_file(files, listed[name], target / name)
    return target


def fetch_changes(files: Any, listed: Mapping[str, str], target: Path) -> Path:
    """Fetch the files that are not in the copy or have changed; files that are gone are removed from the copy.

    What a file system says about the version of a file is recorded beside the copy. A file without a version is fetched
    every time.
    """
    record = target.with_name(f"{target.name}.versions.json")
    old: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if (target / MANIFEST).is_file():
        shutil.rmtree(target)
    new: dict[str, str] = {}
    for name, key in listed.items():
        version = version_of(files.info(key))
        if not version or old.get(name) != version or not (target / name).is_file():
            fetch_file(files, key, target / name)
        new[name] = version
        write_text(record, json.dumps({**old, **new}))
    for name in old.keys() - new.keys():
        (target / name).unlink(missing_ok=True)
    write_text(record, json.dumps(new))
    return target


def version_of(info: Mapping[str, Any]) -> str:
    """Return what a file system says about the version of a file; empty if it says nothing."""
    marks = {name: str(info[name]) for name in VERSIONS if info.get(name)}
    return json.dumps({"size": info.get("size"), **marks}) if marks else ""


def objects_in(files: Any, place: str, folder: Path) -> dict[str, str]:
    """Return the objects at a place: name in the local counterpart `folder` -> key.

    Raises `ArtifactError` for a key that is outside the place, or not the name of a file inside the folder.
    """
    listed = {}
    for key in sorted(files.find(place)):
        name = key.removeprefix(f"{place}/")
        # A key without the prefix is outside the place: the slash makes `inside` refuse it.
        inside(folder, name if name != key else f"/{key}")
        listed[name] = key
    return listed


def fetch_file(files: Any, place: str, target: Path) -> None:
    """Fetch one file; an older copy stays until the new one is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".fetching")
    files.get_file(place, str(aside))
    aside.replace(target)


@contextmanager
def delivered(location: str, kind: str) -> Iterator[Path]:
    """Yield a local path to write an artifact to; if `location` is an address, send the artifact there afterwards.

    An artifact of the same kind at the address is replaced; any other content is refused.
    """
    if not is_remote(location):
        yield Path(location)
        return
    files, place = file_system(location)
    with remote_errors(location):
        refuse_foreign(files, place, location, kind=kind)
    with tempfile.TemporaryDirectory(prefix="labelkit-") as scratch:
        folder = inside(Path(scratch), Path(place).name or "export")
        yield folder
        with remote_errors(location):
            send_folder(files, place, folder)


def refuse_foreign(files: Any, place: str, location: str, kind: str) -> None:
    """Raise `ArtifactError` unless `place` is absent or contains an artifact of this kind and no more."""
    listed = objects_in(files, place, Path(kind)) if is_there(files, place) else {}
    if MANIFEST not in listed:
        if listed:
            raise ArtifactError(f"{location} exists and contains no labelkit {kind}; choose another place")
        return
    document = json.loads(files.cat_file(listed[MANIFEST]))
    found = document.get("kind")
    if found != kind:
        raise ArtifactError(f"{location} contains a {found}, not a {kind}; choose another place")
    if more := sorted(listed.keys() - {*document.get("files", ()), MANIFEST}):
        raise ArtifactError(
            f"{location} contains {more[0]} beside the {kind}, and a new {kind} would replace everything there; move "
            "that away or choose another place"
        )


def send_folder(files: Any, place: str, folder: Path) -> None:
    """Send a folder: remove the old manifest first, send the new one last, and remove other old files."""
    old = objects_in(files, place, folder) if is_there(files, place) else {}
    if MANIFEST in old:
        files.rm_file(old[MANIFEST])
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    for name in sorted(names, key=lambda name: name == MANIFEST):
        files.makedirs(f"{place}/{name}".rpartition("/")[0], exist_ok=True)
        files.put_file(str(folder / name), f"{place}/{name}")
    for name in old.keys() - set(names):
        files.rm_file(old[name])


def cache_folder(location: str) -> Path:
    """Return the folder for the local copy of an address; its name is the last part of the address."""
    from labelkit.storage.cache_folder import cache_folder as base

    name = location.rstrip("/").rpartition("/")[2].partition("@")[0] or "files"
    return inside(base() / "remote" / hashlib.sha256(location.encode()).hexdigest()[:16], name)


def file_system(location: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it, without a slash at its end."""
    protocol = location.partition("://")[0]
    try:
        import fsspec

        files, place = fsspec.core.url_to_fs(location, use_listings_cache=False)
    except ImportError:
        raise MissingPackageError(f"a file system for {protocol}://", EXTRAS.get(protocol, "hub")) from None
    except ValueError as error:
        raise DataError(f"{location}: {first_line(error)}") from None
    return files, place.rstrip("/")


@contextmanager
def remote_errors(location: str) -> Iterator[None]:
    """Replace errors of a file system by `RemoteError` with one line; file systems raise errors of many types."""
    try:
        yield
    except (ArtifactError, DataError):
        raise
    except Exception as error:
        raise RemoteError(f"{location}: {type(error).__name__}: {first_line(error)}") from None
