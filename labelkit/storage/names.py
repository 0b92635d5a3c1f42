"""Check names from outside that become paths: object keys, names in manifests, ids of batches and judges."""

from pathlib import Path

from labelkit.errors import ArtifactError


def inside(folder: Path, name: str) -> Path:
    """Return the path of `name` in `folder`, for a name from outside such as an object key or a name in a manifest.

    Raises `ArtifactError` for a name that leads out of the folder: absolute, with `..`, or through a linked folder. The
    last part may be a link, as in the Hub's own cache.
    """
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)
    path = folder / name
    if not plain or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{name!r} is not the name of a file inside {folder}: refused")
    return path
