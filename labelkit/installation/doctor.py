"""Find what works with this installation: packages, devices, keys, servers, ways of working and commands.

No value of a key is read into the result, and no server is contacted unless its address is given.
"""

import os
import platform
from importlib.metadata import PackageNotFoundError
from typing import Any, NamedTuple

from labelkit.engines import EXTRAS
from labelkit.errors import UsageError
from labelkit.installation.devices import Device, devices
from labelkit.installation.servers import Server, ask
from labelkit.options import Options
from labelkit.packages import CORE, Package, install_command, missing_packages, packages_of
from labelkit.storage.credentials import GENERAL_KEY, KEY, KEYRING, keyring, keyring_path, login_files
from labelkit.version import __version__

API, GPU = "api", "gpu"
WAYS = {
    API: "judge with a model behind an API, measure, publish",
    GPU: "judge with a model on your own GPU, measure, publish",
    "training": "train and measure retrievers",
}
"""Extra for a way of working -> its description."""
PARTS = {
    "documents": "labelkit corpus",
    "audit": "near-duplicates in labelkit audit, split and mix --eval",
    "report": "labelkit agree --run and --by language",
    "review": "labelkit review",
    "hub": "labelkit publish and pull, and data at hf://",
    "s3": "data at s3://",
    "gcs": "data at gs://",
    "irds": "data at irds:",
    "notebook": "progress bars in a notebook",
    "train": "all commands of trainer, and labelkit pool --dense",
    "lora": "trainer fit with lora_rank",
    "ann": "trainer eval --index",
    "tensorboard": "trainer fit with log_to tensorboard",
    "trackio": "trainer fit with log_to trackio",
    "wandb": "trainer fit with log_to wandb",
}
"""Extra -> the commands that need it; `EXTRAS` of the engines lists the rest."""
OTHERS = "all commands of labelkit that are not listed below"
KEYS = (
    KEY,
    GENERAL_KEY,
    KEYRING,
    "HF_TOKEN",
    "WANDB_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
)
"""Environment variables from which labelkit and the libraries that it calls read keys."""


class DoctorOptions(Options):
    """The servers to ask."""

    base_url: tuple[str, ...] = ()
    """Address of an OpenAI-compatible server to ask for its models. May be repeated. Default: no server is contacted.
    """
    insecure: bool = False
    """Send the key unencrypted to a server at an address that begins with http://."""


class Ability(NamedTuple):
    """A way of working or a command, and whether it would work."""

    name: str
    what: str
    works: bool
    cure: str | None
    """What makes it work, on one line; None if it works."""


class Diagnosis(NamedTuple):
    """What is installed, what is there, and what works."""

    versions: dict[str, str]
    """labelkit, python and system -> version."""
    packages: dict[str, list[Package]]
    """Extra, or `core` -> its packages."""
    devices: list[Device]
    keys: list[str]
    """Environment variables with keys that are set, and files with keys that exist."""
    problems: list[str]
    """Faults of the keyring, with the remedy."""
    servers: list[Server]
    ways: list[Ability]
    commands: list[Ability]

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as plain JSON. Memory is in GiB."""
        found = self._asdict()
        for name in ("devices", "servers", "ways", "commands"):
            found[name] = [one._asdict() for one in found[name]]
        found["packages"] = {extra: [one._asdict() for one in listed] for extra, listed in self.packages.items()}
        return found


def doctor(options: DoctorOptions = DoctorOptions()) -> Diagnosis:  # noqa: B008 (a frozen record)
    """Find what is installed, which devices and keys there are, and which commands would work.

    Args:
        options: addresses of servers to ask; without them there is no network traffic.

    Returns:
        Packages, devices, names of keys, servers, and what would work; for everything else the line that makes it work.

    Raises:
        UsageError: an address to which no key may be sent, or an installation whose requirements are unknown.
    """
    servers = [ask(url, insecure=options.insecure) for url in options.base_url]
    found, (keys, problems) = devices(), known_keys()
    try:
        packages = {extra or "core": packages_of(extra) for extra in (CORE, *dict.fromkeys(EXTRAS.values()), *PARTS)}
    except PackageNotFoundError as error:
        raise UsageError(f"{error}; install labelkit with pip, from a checkout: pip install -e .") from None
    return Diagnosis(
        versions={"labelkit": __version__, "python": platform.python_version(), "system": platform.platform()},
        packages=packages,
        devices=found,
        keys=keys,
        problems=problems,
        servers=servers,
        ways=[way(name, keys=keys, servers=servers, found=found) for name in WAYS],
        commands=list(map(ability, (CORE, *EXTRAS, *PARTS))),
    )


def known_keys() -> tuple[list[str], list[str]]:
    """List the environment variables with keys and the files with keys, and the faults of the keyring."""
    names = [name for name in KEYS if os.environ.get(name)]
    path, problems = keyring_path(), []
    try:
        names += [str(path)] if keyring() else []
    except UsageError as error:
        problems = [str(error)]
    return names + [str(file) for file in login_files() if file.is_file()], problems


def ability(name: str) -> Ability:
    """Find whether an engine works, or the commands that need an extra, or with `CORE` all other commands."""
    extra = EXTRAS.get(name, name)
    what = f"labelkit annotate --engine {name}" if name in EXTRAS else PARTS.get(name, OTHERS)
    lacking = missing_packages(extra)
    cure = install_command(lacking) if lacking else None
    return Ability(extra or "core", what, works=not lacking, cure=cure)


def way(name: str, *, keys: list[str], servers: list[Server], found: list[Device]) -> Ability:
    """Find whether a way of working would work, and everything that it lacks on one line."""
    lacking = missing_packages(CORE, name)
    cures = [install_command(lacking)] if lacking else []
    answering = any(server.problem is None for server in servers)
    if name == API and not answering and not {KEY, GENERAL_KEY, str(keyring_path())} & set(keys):
        cures.append(f"set {KEY}, which only a server on this machine does not need")
    if name == GPU:
        problem = next((device.problem for device in found if device.problem), "this machine has no GPU")
        if not any(device.kind != "cpu" and device.problem is None for device in found):
            cures.append(f"use a machine with a GPU ({problem})")
    return Ability(name, WAYS[name], works=not cures, cure="; then ".join(cures) or None)
