"""Options of `labelkit distil`."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field

from labelkit.errors import UsageError
from labelkit.options import SEEDS, Options

TRAINING = {"objective": "bixse", "epochs": 3, "batch_size": 16, "group_size": 16, "max_positives": 8}
"""Default settings of the training. Each pair teaches its probability, so that scores compare across queries."""


class DistilOptions(Options):
    """The start model, the teacher and the held-out queries of a distilled judge."""

    model: str
    """Model to start from: a cross-encoder, or an encoder, which gets a new last layer; a local folder or Hub id."""
    teacher: str | None = None
    """Name or id of the judge that is replaced. Needed if the dataset has labels of several models."""
    held_out: float = Field(default=0.3, gt=0, lt=1)
    """Share of the queries with human grades that are left out of the training, for the calibration and the gate."""
    config: Path | None = None
    """TOML file with settings of trainer fit, such as epochs, batch_size and learning_rate. Default: objective bixse, 3
    epochs, 16 queries per step with at most 16 passages each.
    """
    passage_tokens: int = Field(default=180, ge=1)
    """Cut passages that the distilled judge scores to this many tokens. Query and passage together must fit the model.
    """
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the held-out queries and of the training."""
    write_anyway: bool = False
    """Write the judge even if it fails the gate. The manifest says that it failed."""
    verify: bool = True
    """Compare the dataset with its checksums. --no-verify skips this, which saves time on large folders."""

    def training(self) -> dict[str, Any]:
        """Return the settings of the training: the defaults, then the file, then the options.

        Raises `UsageError` for a file that cannot be read, or with a setting that it cannot decide.
        """
        fixed = {"model": self.model, "architecture": "cross-encoder", "seed": self.seed}
        found: dict[str, Any] = {}
        if self.config is not None:
            try:
                found = tomllib.loads(self.config.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UsageError(f"cannot read the settings in {self.config}: {error}") from None
        if other := next((name for name in fixed if found.get(name, fixed[name]) != fixed[name]), None):
            raise UsageError(
                f"{self.config}: {other} = {found[other]!r}, but the {other} here is {fixed[other]!r}; remove the "
                "setting, and give --model or --seed instead"
            )
        lengths = {"epochs", "max_steps"}
        usual = {name: value for name, value in TRAINING.items() if not (name in lengths and lengths & set(found))}
        return usual | found | fixed
