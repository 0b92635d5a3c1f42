"""Commands of the benchmark of scale run, and their memory does not grow with the pairs."""

import importlib
import pkgutil
import re
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import scale
import scale_data

import labelkit
from labelkit.commands import app
from labelkit.review.options import ReviewOptions
from labelkit.review.session import review

QUERIES = (20, 22, 84)
"""Numbers of queries; the first collection is not measured, since it imports and compiles what the others need."""
NAMES = (
    "pool --run", "plan", "annotate", "annotate, nothing left", "annotate --cascade", "verify, labels", "replay",
    "judges", "import", "agree", "calibrate, few graded", "calibrate --apply", "select", "review", "tidy", "mix",
    "audit", "report", "report, dataset", "verify", "export", "relabel", "relabel, files",
)  # fmt: skip
"""Commands in the order in which they need each other's results."""
FEW = 10
"""Number of queries with human grades for a calibration, so that its fit, which takes long, stays the same."""
PART = re.compile(r"(\w+_)?(AT_ONCE|BLOCK|CHUNK|POSTINGS|PREFIXES)")
"""Names of constants that say how many rows are in memory at a time."""
AT_ONCE = 64
"""Their value in these tests, and the size of caches, so that a small collection has many parts."""
BYTES = 1_000
"""Most bytes of Python and NumPy that a pair may take here, small buffers included; as objects it took over 3,000."""


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(labelkit.__path__, "labelkit."):
        if not found.name.endswith("__main__"):
            with suppress(ImportError):
                yield importlib.import_module(found.name)


def commands(folder: Path) -> dict[str, list[str]]:
    """The commands of the benchmark, and a calibration with few human grades of all judgments."""
    found = scale.commands(folder)
    line = f"calibrate {folder}/labels {folder}/other --human {folder}/few.tsv -o {folder}/calibration.json"
    return found | {"calibrate, few graded": [*found["mix"][:3], *line.split()]}


def run(name: str, folder: Path) -> None:
    """Run a command of the benchmark in this process."""
    if name == "review":
        served_then_stopped(folder)
        return
    _, _, *arguments = commands(folder)[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            app.main()
    assert not ended.value.code, name


def served_then_stopped(folder: Path) -> None:
    """Review until the page is served."""

    def stop(address: str) -> None:
        raise KeyboardInterrupt

    options = ReviewOptions(name="anna", texts=folder / "data")
    with pytest.raises(KeyboardInterrupt):
        review(folder / "labels", folder / "reviewed", options, ready=stop)


def peak(name: str, folder: Path) -> int:
    """The most bytes that Python and NumPy had during a command."""
    tracemalloc.start()
    try:
        run(name, folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """The peaks of each command with each collection."""
    found: dict[str, list[int]] = {name: [] for name in NAMES}
    with pytest.MonkeyPatch.context() as patch:
        work = tmp_path_factory.mktemp("scale")
        patch.setenv("LABELKIT_CACHE", str(work / "cache"))
        patch.setattr(scale_data, "FEW", FEW)
        for module in modules():
            for constant, value in list(vars(module).items()):
                if PART.fullmatch(constant) and isinstance(value, int):
                    patch.setattr(module, constant, min(value, AT_ONCE))
                elif hasattr(value, "cache_parameters") and (value.cache_parameters()["maxsize"] or 0) > AT_ONCE:
                    patch.setattr(module, constant, lru_cache(AT_ONCE)(value.__wrapped__))
        for queries in QUERIES:
            folder = work / str(queries)
            scale_data.make(folder, queries)
            for name in NAMES:
                found[name].append(peak(name, folder))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_memory_does_not_grow_with_the_pairs(peaks: dict[str, list[int]], name: str) -> None:
    _, few, many = peaks[name]
    a_pair: Any = (many - few) / ((QUERIES[2] - QUERIES[1]) * scale_data.JUDGED)
    assert a_pair < BYTES
