"""Names that come from outside and become paths: object keys, names in manifests, ids of batches and judges."""

from pathlib import Path

from labelkit.errors import ArtifactError


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`, for a name that came from outside: an object key, a manifest, a list of the Hub.

    Raises `ArtifactError` for a name that leads elsewhere: absolute, with `..`, or through a linked folder. The last
    part may be a link, as it is in the Hub's own cache.
    """
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)
    path = folder / name
    if not plain or not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{name!r} is no name of a file inside {folder}: refused")
    return path
