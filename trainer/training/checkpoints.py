"""What a run needs to go on after it was killed, in a folder beside its output.

`run.json` says which run this is; `stage-N/checkpoint-S` holds the state at a step of a stage; `stage-N.safetensors`
and `stage-N.json` are what a finished stage left. A checkpoint counts once its manifest is there, and is checked
against it before it is used: one that was cut off is passed over for the one before. Nothing in it is unpickled into
anything but tensors and numbers.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from labelkit.errors import ArtifactError, UsageError
from labelkit.storage import folders
from labelkit.storage.atomic import UNFINISHED, write_text
from labelkit.storage.manifest import CHECKPOINT
from trainer.training.soundness import refuse_nonfinite

log = logging.getLogger(__name__)

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Checkpoints:
    """The folder of one run. It comes into being with the first thing that is written into it."""

    folder: Path
    identity: dict[str, Any]
    """What decides the run's result, as plain JSON."""

    def check(self) -> None:
        """Raise `UsageError` where the folder is that of another run."""
        path = self.folder / "run.json"
        if not path.is_file():
            return
        found = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted(self.identity.keys() | found.keys()):
            if found.get(name) != self.identity.get(name):
                raise UsageError(
                    f"{self.folder} holds a run that was not finished, with {name} = {found.get(name)!r} and not "
                    f"{self.identity.get(name)!r}; run it to its end, choose another output, or remove the folder"
                )

    def prepare(self) -> None:
        """Make the folder."""
        if not (self.folder / "run.json").is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / "run.json", json.dumps(self.identity, indent=2))

    def drop_unfinished(self) -> None:
        """Make room: remove the checkpoints that were not finished, and files that were being written."""
        for folder in self.folder.glob("stage-*/checkpoint-*"):
            if not (folder / folders.MANIFEST).is_file():
                shutil.rmtree(folder, ignore_errors=True)
        for file in self.folder.rglob(f"*{UNFINISHED}"):
            file.unlink(missing_ok=True)

    def remove(self) -> None:
        """The run is over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def stage(self, number: int) -> Path:
        """Where the checkpoints of a stage are."""
        return self.folder / f"stage-{number}"

    def newest(self, number: int) -> Path | None:
        """The newest checkpoint of a stage that is whole; what is newer and damaged is said and removed."""
        for folder in sorted(self.stage(number).glob("checkpoint-*"), key=step_of, reverse=True):
            try:
                folders.read_manifest(folder, CHECKPOINT)
            except ArtifactError as error:
                log.info(f"passing over {folder.name}: {error}")
                shutil.rmtree(folder)
            else:
                return folder
        return None

    def report(self, number: int) -> dict[str, Any] | None:
        """What a finished stage reported; None where it is not finished."""
        path = self.folder / f"stage-{number}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def weights(self, number: int) -> Path:
        """The weights that a finished stage left."""
        return self.folder / f"stage-{number}.safetensors"

    def finish_stage(self, number: int, model: nn.Module, report: dict[str, Any]) -> None:
        """Keep what a stage left; its checkpoints are not needed any more."""
        self.prepare()
        write_weights(self.weights(number), model, {})
        write_text(self.folder / f"stage-{number}.json", json.dumps(report))
        shutil.rmtree(self.stage(number), ignore_errors=True)


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was taken."""
    return int(checkpoint.name.rpartition("-")[2])


def write_weights(path: Path, model: nn.Module, facts: dict[str, str]) -> None:
    """Write the weights of a module, whole or not at all, with some facts beside them. Raises `LabelkitError` where a
    weight is not finite.
    """
    refuse_nonfinite(model, f"at {path.parent.name}/{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + UNFINISHED)
    save_model(model, str(aside), metadata=facts)
    aside.replace(path)


def read_weights(path: Path, model: nn.Module) -> dict[str, str]:
    """Load the weights of a module in place; the facts beside them."""
    load_model(model, str(path), strict=True)
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata() or {})
