"""The settings of a bake-off, read from a TOML file of the user or of the package and overridden by flags."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from labelkit.errors import UnknownNameError, UsageError
from labelkit.options import Options
from labelkit.storage.names import missing
from trainer.config.fit_config import IN_A_FILE, OBJECTIVE_NAMES, ONE_POSITIVE, FitConfig, make_config, read_toml

PAPER = ("singlelh", "rand1lh", "jointlh", "summarglh", "lsepair")
"""The five objectives of arXiv 2602.12727."""
SHIPPED = Path(str(files("trainer") / "shipped"))
"""Folder of the settings files in the package."""


class BakeoffConfig(Options):
    """The settings of a bake-off: what is compared, and the settings that all runs share."""

    elsewhere: ClassVar[str] = IN_A_FILE

    objectives: tuple[str, ...] = Field(default=PAPER, min_length=1)
    """Objectives to compare. Default: the five of the paper."""
    regimes: dict[str, list[str | dict[str, Any]]] = Field(default={"all": ["all"]}, min_length=1)
    """Name of a regime -> its stages, as in `FitConfig.stages`."""
    seeds: int = Field(default=3, ge=1)
    """Number of runs with different seeds per objective and regime."""
    relevant_grade: int = Field(default=1, ge=1)
    """Lowest grade that counts as relevant in RR, AP and R."""
    keep_models: bool = False
    """Keep the model of every run. By default, a model is removed after it was measured."""
    fit: dict[str, Any]
    """Settings of `FitConfig` that all runs share."""

    @model_validator(mode="after")
    def _every_run_is_possible(self) -> Self:
        for name in self.objectives:
            if name not in OBJECTIVE_NAMES:
                raise UnknownNameError("objective", name, OBJECTIVE_NAMES)
        for name in ("objective", "stages", "labels", "seed"):
            if name in self.fit:
                raise UsageError(f"fit.{name} is varied by the bake-off; remove it from the settings")
        for regime in self.regimes:
            if not regime.isprintable() or not regime or set(regime) & set("/\\"):
                raise UsageError(
                    f"the regime name {regime!r} becomes part of a file name; leave out slashes and control characters"
                )
            for objective in self.objectives:
                self.fit_config(regime, objective, 0)
        return self

    def fit_config(self, regime: str, objective: str, seed: int) -> FitConfig:
        """Build the settings of one run; objectives that choose their positive themselves ignore `positives`."""
        settings = {"objective": objective, "stages": self.regimes[regime], "seed": seed}
        shared = {
            name: value for name, value in self.fit.items() if not (name == "positives" and objective in ONE_POSITIVE)
        }
        return make_config(shared | settings, {}, f"regime {regime}: ")


def read_bakeoff(source: str | None, flags: Mapping[str, Any], fit_flags: Mapping[str, Any]) -> BakeoffConfig:
    """Read settings from a TOML file, or from a file of the package by name, and override them by the given flags.

    Flags that are None are ignored. Raises `UsageError` for settings that are unknown, invalid or contradictory.
    """
    settings = read_toml(find_config(source)) if source is not None else {}
    given = {name: value for name, value in flags.items() if value is not None}
    own = {name: value for name, value in fit_flags.items() if value is not None}
    fit = dict(settings.get("fit", {}))
    for one, other in (("epochs", "max_steps"), ("max_steps", "epochs")):
        if one in own:
            fit.pop(other, None)
    try:
        return BakeoffConfig.model_validate(settings | given | {"fit": fit | own})
    except UnknownNameError:
        raise
    except UsageError as error:
        raise UsageError(f"{source}: {error}" if source is not None else str(error)) from None


def find_config(source: str) -> Path:
    """Find a settings file by its path, or a file of the package by its name. Raises `UsageError` for neither."""
    if Path(source).is_file():
        return Path(source)
    names = {path.name: path for path in sorted(SHIPPED.glob("*.toml"))}
    if source in names:
        return names[source]
    raise UsageError(
        f"the settings file {missing(Path(source))}; files of the package are: {', '.join(names) or 'none'}"
    )


def parse_objectives(texts: Sequence[str] | None) -> list[str] | None:
    """Split texts such as `lsepair, jointlh` into names."""
    return [name.strip() for text in texts for name in text.split(",")] if texts else None


def parse_regimes(texts: Sequence[str] | None) -> dict[str, list[str]] | None:
    """Parse texts such as `llm, human` to regimes: name -> stages, here `llm then human` -> two stages."""
    if not texts:
        return None
    stages = {text: [stage.strip() for stage in text.split(",")] for text in texts}
    return {" then ".join(each): each for each in stages.values()}
