"""Models are data: nothing that comes with one is executed unless the user says whom they trust.

A checkpoint can carry code in three ways: Python files that its configuration names, modules of other packages that
`modules.json` names, and pickles. Safetensors hold numbers alone. A checkpoint also names files, which must be its own.
"""

import json
from pathlib import Path
from typing import Any

from labelkit.errors import ArtifactError, UsageError
from labelkit.storage.names import inside

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
STATE = ("optimizer", "scheduler", "rng_state", "training_args")
"""What a trainer keeps for itself in a checkpoint: not read where a model is loaded."""
OWN = "sentence_transformers."
"""Where the modules of an ordinary sentence-transformers model come from."""


def refuse_code(model: str, *, trusted: bool) -> None:
    """Raise `UsageError` where a local model folder would bring code along, or names files of others, and is not
    `trusted`.

    Models of the Hub are held to the same by the arguments that they are loaded with: no remote code, safetensors.
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
    """The module of another package that `modules.json` names."""
    for module in _listed(folder / "modules.json"):
        kind = str(module.get("type")) if isinstance(module, dict) else str(module)
        if not kind.startswith(OWN):
            return f"modules.json names {kind[:80]!r}"
    return None


def remote_code(folder: Path) -> str | None:
    """The Python class that a configuration names as its own."""
    for path in sorted(folder.rglob("*config.json")):
        document = _read(path)
        if isinstance(document, dict) and document.get("auto_map"):
            return f"{path.relative_to(folder)} has an auto_map to Python files"
    return None


def pickles(folder: Path) -> str | None:
    """A pickle that holds weights for which there are no safetensors beside it."""
    for path in sorted(folder.rglob("*")):
        pickled = path.suffix in PICKLES and not path.name.startswith(STATE)
        if pickled and not any(path.parent.glob("*.safetensors")):
            return f"{path.relative_to(folder)} is a pickle"
    return None


def names_outside(folder: Path) -> str | None:
    """The file or folder outside the model that `modules.json` or an index of shards names."""
    modules = [str(module.get("path") or "") for module in _listed(folder / "modules.json") if isinstance(module, dict)]
    # A file of the module stands for it: its folder must not be a link to one elsewhere.
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
        return None  # whoever loads the model says what is wrong with it
