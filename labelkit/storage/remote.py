"""Files and folders in other places, s3://, gs://, hf:// and whatever else fsspec knows, as local ones.

What is read is fetched first; what is written is made here and then sent, its manifest last, so that a reader there
never takes a part for the whole.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labelkit.errors import ArtifactError, DataError, MissingPackageError, RemoteError, first_line
from labelkit.storage.folders import MANIFEST
from labelkit.storage.names import inside

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Protocol -> the extra that brings its file system; `hub` for all others."""


def is_remote(location: str) -> bool:
    """Whether a location is an address and no local path."""
    return "://" in location


def local(location: str) -> Path:
    """A local path as it is; what stands at an address, fetched into the cache.

    A folder with a manifest is fetched again only where the manifest changed.
    """
    if not is_remote(location):
        return Path(location)
    files, place = file_system(location)
    with remote_errors(location):
        if not files.exists(place):
            raise DataError(f"{location} does not exist")
        if files.isfile(place):
            target = inside(cache_folder(location), Path(place).name)
            fetch_file(files, place, target)
            return target
        return fetch_folder(files, place, cache_folder(location))


def fetch_folder(files: Any, place: str, target: Path) -> Path:
    """Fetch the files of a folder, the manifest last: a copy that has one is whole."""
    listed = objects_in(files, place, target)
    copy = target / MANIFEST
    if MANIFEST in listed:
        manifest = files.cat_file(listed[MANIFEST])
        if copy.is_file() and copy.read_bytes() == manifest:
            return target
    shutil.rmtree(target, ignore_errors=True)
    for name in sorted(listed, key=lambda name: name == MANIFEST):
        fetch_file(files, listed[name], target / name)
    return target


def objects_in(files: Any, place: str, folder: Path) -> dict[str, str]:
    """The objects at a place: name in the local counterpart `folder` -> key.

    Raises `ArtifactError` for a key that is outside the place, or that names no file inside the folder.
    """
    listed = {}
    for key in sorted(files.find(place)):
        name = key.removeprefix(f"{place}/")
        # A key that lacks the prefix leads elsewhere: `inside` refuses a name that begins with a slash.
        inside(folder, name if name != key else f"/{key}")
        listed[name] = key
    return listed


def fetch_file(files: Any, place: str, target: Path) -> None:
    """Fetch one file; what was there before stays until the new one is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".fetching")
    files.get_file(place, str(aside))
    aside.replace(target)


@contextmanager
def delivered(location: str, kind: str) -> Iterator[Path]:
    """A local path to write an artifact to; where `location` is an address, the artifact is sent there afterwards.

    What stands there is replaced where it is an artifact of the same kind, and refused otherwise.
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
    """Raise `ArtifactError` unless `place` is free or holds an artifact of this kind."""
    if files.exists(f"{place}/{MANIFEST}"):
        found = json.loads(files.cat_file(f"{place}/{MANIFEST}")).get("kind")
        if found != kind:
            raise ArtifactError(f"{location} holds a {found} and no {kind}; choose another place")
    elif files.exists(place) and files.find(place):
        raise ArtifactError(f"{location} exists and holds no {kind} of ours; choose another place")


def send_folder(files: Any, place: str, folder: Path) -> None:
    """Send a folder: the old manifest goes first, the new one comes last, and what is left of before is removed."""
    old = objects_in(files, place, folder) if files.exists(place) else {}
    if MANIFEST in old:
        files.rm_file(old[MANIFEST])
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    for name in sorted(names, key=lambda name: name == MANIFEST):
        files.makedirs(f"{place}/{name}".rpartition("/")[0], exist_ok=True)
        files.put_file(str(folder / name), f"{place}/{name}")
    for name in old.keys() - set(names):
        files.rm_file(old[name])


def cache_folder(location: str) -> Path:
    """Where the copy of an address stands."""
    from labelkit.storage.cache_folder import cache_folder as base

    return base() / "remote" / hashlib.sha256(location.encode()).hexdigest()[:16]


def file_system(location: str) -> tuple[Any, str]:
    """The file system of an address and the place in it, without a slash at its end."""
    protocol = location.partition("://")[0]
    try:
        import fsspec

        files, place = fsspec.core.url_to_fs(location, use_listings_cache=False)
    except ImportError:
        raise MissingPackageError(f"what reads {protocol}://", EXTRAS.get(protocol, "hub")) from None
    except ValueError as error:
        raise DataError(f"{location}: {first_line(error)}") from None
    return files, place.rstrip("/")


@contextmanager
def remote_errors(location: str) -> Iterator[None]:
    """What a store refuses, as one line. Each file system has its own errors; many are no `OSError`."""
    try:
        yield
    except (ArtifactError, DataError):
        raise
    except Exception as error:
        raise RemoteError(f"{location}: {type(error).__name__}: {first_line(error)}") from None
