"""The checkpoints of a run, in a folder next to its output, from which an interrupted run resumes.

`run.json` identifies the run; `stage-N/checkpoint-S` has the state at step S of a stage; `stage-N.safetensors` and
`stage-N.json` are the weights and the report of a finished stage. A checkpoint is complete when it has a manifest, and
is checked against the manifest before it is used. A damaged checkpoint is skipped in favour of the previous one.
Unpickling is restricted to tensors and numbers.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from labelkit.errors import ArtifactError, UsageError
from labelkit.storage import folders
from labelkit.storage.atomic import UNFINISHED, write_text
from labelkit.storage.manifest import CHECKPOINT, F, Kind
from trainer.training.soundness import refuse_nonfinite

log = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint folder of one run. It is created when the first file is written."""

    folder: Path
    identity: dict[str, Any]
    """Settings, inputs and package versions that determine the run's result, as plain JSON."""

    def check(self) -> None:
        """Raise `UsageError` if the folder belongs to a different run."""
        path = self.folder / "run.json"
        if not path.is_file():
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted(self.identity.keys() | found.keys()):
            if found.get(name) != self.identity.get(name):
                raise UsageError(
                    f"{self.folder} contains an unfinished run with {name} = {found.get(name)!r} instead of "
                    f"{self.identity.get(name)!r}; finish that run, choose another output, or remove the folder"
                )

    def prepare(self) -> None:
        """Create the folder and its `run.json`."""
        if not (self.folder / "run.json").is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "run.json", json.dumps(self.identity, indent=2))

    def drop_unfinished(self) -> None:
        """Remove unfinished checkpoints and partly written files to free space."""
        for folder in self.folder.glob("stage-*/checkpoint-*"):
            if not (folder / folders.MANIFEST).is_file():
                shutil.rmtree(folder, ignore_errors=True)
        for file in self.folder.rglob(f"*{UNFINISHED}"):
            file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder after the run has finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def stage(self, number: int) -> Path:
        """Return the folder with the checkpoints of a stage."""
        return self.folder / f"stage-{number}"

    def newest(self, number: int) -> Path | None:
        """Find the newest intact checkpoint of a stage; newer damaged checkpoints are logged and removed."""
        for folder in sorted(self.stage(number).glob("checkpoint-*"), key=step_of, reverse=True):
            try:
                folders.read_manifest(folder, CHECKPOINT)
            except ArtifactError as error:
                log.info(f"removing the damaged {folder.name}: {error}")
                shutil.rmtree(folder)
            else:
                return folder
        return None

    def report(self, number: int) -> dict[str, Any] | None:
        """Read the report of a finished stage; None for an unfinished stage."""
        path = self.folder / f"stage-{number}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def weights(self, number: int) -> Path:
        """Return the file with the weights of a finished stage."""
        return self.folder / f"stage-{number}.safetensors"

    def finish_stage(self, number: int, model: nn.Module, report: dict[str, Any]) -> None:
        """Write the weights and the report of a stage, and remove its checkpoints."""
        self.prepare()
        write_weights(self.weights(number), model, {})
        write_text(self.folder / f"stage-{number}.json", json.dumps(report))
        shutil.rmtree(self.stage(number), ignore_errors=True)


def difference_to(folder: Path, kind: Kind[F], settings: Mapping[str, Any], *, keys: Mapping[str, str]) -> str | None:
    """Describe how the run that made a finished folder differs from another run; None where it does not.

    `settings` decide the result of the other run, as plain JSON; `keys` are the sha256 of the manifests that it reads.
    """
    manifest = folders.read_manifest(folder, kind, verify=False)
    facts = manifest.facts.as_json()
    made = {**facts, **facts.get("config", {})}
    for name in sorted(settings.keys() & made.keys()):
        if made[name] != settings[name]:
            return f"{name} = {made[name]!r} and not {settings[name]!r}"
    same_data = "config" in facts and set(keys.values()) <= set(manifest.inputs.values())
    return None if same_data else "another dataset"


def refuse_other_run(folder: Path, kind: Kind[F], settings: Mapping[str, Any], *, keys: Mapping[str, str]) -> None:
    """Raise `UsageError` if a folder contains what another run made: the training for it may have taken days."""
    if (folder / folders.MANIFEST).is_file() and (wrong := difference_to(folder, kind, settings, keys=keys)):
        raise UsageError(
            f"{folder} contains the {kind} of another run, with {wrong}; choose another output, or remove the folder"
        )


def step_of(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was taken."""
    return int(checkpoint.name.rpartition("-")[2])


def write_weights(path: Path, model: nn.Module, facts: dict[str, str]) -> None:
    """Write weights of a module and some facts atomically. Raises `LabelkitError` for a weight that is not finite."""
    refuse_nonfinite(model, f"at {path.parent.name}/{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + UNFINISHED)
    save_model(model, str(aside), metadata=facts)
    aside.replace(path)


def read_weights(path: Path, model: nn.Module) -> dict[str, str]:
    """Load the weights of a module in place, and return the facts stored with them."""
    load_model(model, str(path), strict=True)
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata() or {})
