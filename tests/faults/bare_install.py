"""An installation of the wheel with the packages that every installation has, and without all optional ones."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[2]


def install_bare(folder: Path) -> dict[str, str]:
    """Install the wheel of this checkout into a folder. Returns the environment in which `python -S` sees only it."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder)
    (metadata,) = folder.glob("*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()
    left = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    seen: set[str] = set()
    while left:
        requirement = Requirement(left.pop())
        if requirement.name not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            seen.add(requirement.name)
            found = distribution(requirement.name)
            link_files(found.files or [], Path(str(found.locate_file("."))), into=folder)
            left += found.requires or []
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"PYTHONPATH": str(folder), "COLUMNS": "80"}


def link_files(files: Iterable[object], site: Path, *, into: Path) -> None:
    """Link the modules and metadata of an installed distribution into a folder."""
    for name in {Path(str(file)).parts[0] for file in files} - {"..", "__pycache__", "bin"}:
        if not (into / name).exists():
            (into / name).symlink_to(site.resolve() / name)


def run_bare(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """Run a Python command line, such as `-m labelkit doctor`, in a bare installation."""
    # -P: the modules of the current folder are not those of the wheel.
    words = [sys.executable, "-S", "-P", *command]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
