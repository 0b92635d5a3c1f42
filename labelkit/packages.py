"""Compare the installed packages with the requirements of labelkit's extras, and name the command that installs them.

A command names the packages and not an extra: pip finds an extra only in a checkout or in a published release.
"""

import shlex
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "labelkit-retrieval"
CORE = ""
"""Name for the packages that every installation has, among the names of extras."""
BUILDS = ("-cpu", "-gpu", "-gpu-cu12")
"""Endings of the names of other builds of a package."""


class Package(NamedTuple):
    """A package that an extra requires, and its installed version."""

    name: str
    requirement: str
    """Name and versions, as pip accepts them."""
    installed: str | None
    """Installed version; None if the package is not installed."""
    fits: bool
    """Whether a version is installed that the requirement allows."""


def packages_of(extra: str) -> list[Package]:
    """Return the packages that an extra requires, or `CORE`, in the order of their declaration.

    Raises `KeyError` for an unknown extra.
    """
    packages = []
    for requirement in requirements()[extra]:
        version = installed_version(requirement.name)
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        stated = str(requirement).partition(";")[0].strip()
        packages.append(Package(requirement.name, stated, installed=version, fits=fits))
    return packages


def missing_packages(*extras: str) -> list[str]:
    """Return the requirements of some extras that no installed package meets, each once."""
    return list(dict.fromkeys(one.requirement for extra in extras for one in packages_of(extra) if not one.fits))


def install_command(requirements: Iterable[str]) -> str:
    """Return the command line that installs some requirements."""
    return shlex.join(["pip", "install", *requirements])


def cure_for(package: str, extra: str) -> str:
    """Return the command line that installs a package that cannot be imported, with all that its extra lacks."""
    try:
        declared, missing = packages_of(extra), missing_packages(extra)
    except (KeyError, metadata.PackageNotFoundError):
        return install_command([package])
    same = [one.requirement for one in declared if canonicalize_name(one.name) == canonicalize_name(package)]
    return install_command(missing or same or [one.requirement for one in declared])


@cache
def requirements() -> Mapping[str, tuple[Requirement, ...]]:
    """Return the requirements of this labelkit: extra, or `CORE` -> its requirements on this machine.

    They are read from pyproject.toml in a checkout, whose installed metadata may be older, else from the metadata of
    the installed package. Raises `PackageNotFoundError` if there is neither.
    """
    declared = of_checkout() or of_metadata()
    return {name: tuple(resolved(declared, name)) for name in declared}


def of_checkout() -> dict[str, list[Requirement]]:
    """Read the requirements in pyproject.toml beside the package; empty if this is no checkout."""
    try:
        text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return {}
    project = tomllib.loads(text).get("project", {})
    if project.get("name") != DISTRIBUTION:
        return {}
    named = {CORE: project["dependencies"], **project["optional-dependencies"]}
    return {name: [Requirement(one) for one in stated] for name, stated in named.items()}


def of_metadata() -> dict[str, list[Requirement]]:
    """Read the requirements in the metadata of the installed package."""
    stated = [Requirement(one) for one in metadata.requires(DISTRIBUTION) or ()]
    extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ()
    core = [one for one in stated if applies(one, CORE)]
    return {CORE: core} | {
        extra: [one for one in stated if one not in core and applies(one, extra)] for extra in extras
    }


def resolved(declared: Mapping[str, Iterable[Requirement]], name: str) -> Iterable[Requirement]:
    """Yield the requirements of an extra; extras of labelkit among them are replaced by their own requirements."""
    for one in declared[name]:
        if canonicalize_name(one.name) == DISTRIBUTION:
            for extra in sorted(one.extras):
                yield from resolved(declared, extra)
        elif applies(one, name):
            yield one


def applies(requirement: Requirement, extra: str) -> bool:
    """Return whether a requirement applies on this machine, given an extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def installed_version(name: str) -> str | None:
    """Return the version of an installed package or of another build of it, such as faiss-gpu for faiss-cpu."""
    plain = name.removesuffix("-cpu")
    for build in (name, *(plain + suffix for suffix in BUILDS)):
        try:
            return metadata.version(build)
        except metadata.PackageNotFoundError:
            continue
    return None
