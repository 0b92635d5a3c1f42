"""Refuse models that would run code, unless the user trusts their author.

A checkpoint can contain code in three ways: Python files named by its configuration, modules of other packages named by
`modules.json`, and pickles. Safetensors contain numbers only. The files that a checkpoint names must be inside it.
"""

import json
from pathlib import Path
from typing import Any

from labelkit.errors import ArtifactError, UsageError
from labelkit.storage.names import inside

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
STATE = ("optimizer", "scheduler", "rng_state", "training_args")
"""Beginnings of names of training files in a checkpoint, which are not read when a model is loaded."""
OWN = "sentence_transformers."
"""Package of the modules of an ordinary sentence-transformers model."""


def refuse_code(model: str, *, trusted: bool) -> None:
    """Raise `UsageError` if a local model folder is not `trusted` and contains code or names files outside of it.

    Models of the Hub are restricted in the same way by the arguments of their loaders: no remote code, safetensors.
    """
    folder = Path(model)
    if trusted or not folder.is_dir():
        return
    if names := names_outside(folder):
        raise UsageError(
            f"{model} would read files outside its folder: {names}; put them inside, or give --trust-remote-code if "
            "you trust whoever made it"
        )
    for what in (foreign_modules(folder), remote_code(folder), pickles(folder)):
        if what:
            raise UsageError(
                f"{model} would run code on this machine: {what}; convert it to plain safetensors, or give "
                "--trust-remote-code if you trust whoever made it"
            )


def foreign_modules(folder: Path) -> str | None:
    """Return the reason if `modules.json` names a module of another package; None if it does not."""
    for module in _listed(folder / "modules.json"):
        kind = str(module.get("type")) if isinstance(module, dict) else str(module)
        if not kind.startswith(OWN):
            return f"modules.json names {kind[:80]!r}"
    return None


def remote_code(folder: Path) -> str | None:
    """Return the reason if a configuration names a Python class in the folder; None if none does."""
    for path in sorted(folder.rglob("*config.json")):
        document = _read(path)
        if isinstance(document, dict) and document.get("auto_map"):
            return f"{path.relative_to(folder)} has an auto_map to Python files"
    return None


def pickles(folder: Path) -> str | None:
    """Return the reason if weights are in a pickle without safetensors beside it; None if there is no such pickle."""
    for path in sorted(folder.rglob("*")):
        pickled = path.suffix in PICKLES and not path.name.startswith(STATE)
        if pickled and not any(path.parent.glob("*.safetensors")):
            return f"{path.relative_to(folder)} is a pickle"
    return None


def names_outside(folder: Path) -> str | None:
    """Return the reason if `modules.json` or an index of shards names a path outside the folder; None if none does."""
    modules = [str(module.get("path") or "") for module in _listed(folder / "modules.json") if isinstance(module, dict)]
    # A file in the module's folder is checked for it, so that this folder cannot be a link to another place.
    named = [(folder / "modules.json", path, f"{path}/config.json") for path in modules if path]
    for index in sorted(folder.rglob("*.index.json")):
        document = _read(index)
        weights = document.get("weight_map") if isinstance(document, dict) else None
        shards = set(map(str, weights.values())) if isinstance(weights, dict) else set()
        named += [(index, shard, shard) for shard in sorted(shards)]
    for where, name, file in named:
        try:
            inside(where.parent, file)
        except ArtifactError:
            return f"{where.name} names {name[:80]!r}"
    return None


def _listed(path: Path) -> list[Any]:
    document = _read(path)
    return document if isinstance(document, list) else []


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # the loader of the model reports what is wrong with it
