"""Check names from outside that become paths, such as object keys and names in manifests, and explain missing files."""

from difflib import get_close_matches
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


def missing(path: Path) -> str:
    """Explain in one line why a path is no readable file, with up to three files beside it that may be meant."""
    if path.is_dir():
        names = sorted(each.name for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
        there = f" ({path} contains {', '.join(names[:3])}{' and more' if names[3:] else ''})" if names else ""
        return f"{path} is a folder, but a file is needed here{there}"
    if path.exists():
        return f"{path} is not a regular file"
    if not path.parent.is_dir():
        return f"{path} does not exist, and neither does the folder {path.parent}"
    return f"{path} does not exist{beside(path)}"


def beside(path: Path) -> str:
    """Return the end of an error about a missing path: up to three names beside it that may be meant; empty if none."""
    if not path.parent.is_dir():
        return ""
    names = sorted(each.name for each in path.parent.iterdir() if not each.name.startswith("."))
    near = get_close_matches(path.name, names, n=3) or [name for name in names if name.startswith(f"{path.stem}.")][:3]
    return f"; beside it lies {', '.join(near)}" if near else ""
