"""The settings of a training run: one frozen object, from a TOML file whose values flags override."""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from labelkit.errors import UnknownNameError, UsageError

OBJECTIVE_NAMES = (
    "singlelh",
    "rand1lh",
    "jointlh",
    "jointlh-sum",
    "summarglh",
    "lsepair",
    "lsepair-minpos",
    "lsepair-maxpos",
    "lsepair-hardneg",
    "lsepair-trimmed",
    "gce",
    "listwise-kl",
    "margin-mse",
)
"""The keys of `trainer.objectives.OBJECTIVES`, repeated so that reading settings loads no torch."""
TEMPERATURES = {"cosine": 0.05, "dot": 1.0}
"""Similarity -> temperature where none is set. Cosine without scaling flattens every distribution."""
TEMPERATURE_RATE = 100
"""A learnt temperature must be able to double within a run; at an encoder's learning rate it would hardly move."""


class FitConfig(BaseModel):
    """Everything that decides what a run computes, beside the dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """A sentence-transformers or transformers model: a local folder or a name on the Hugging Face Hub."""
    objective: str
    """A name of the table in `trainer.objectives`."""
    objective_settings: dict[str, float] = {}
    """Settings of that objective, such as `trim`; its docstring has their meaning and defaults."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the queries; 1 where neither this nor `max_steps` is set."""
    max_steps: int | None = Field(default=None, ge=1)
    """Take exactly this many steps instead, over as many epochs as that needs."""
    batch_size: int = Field(default=32, ge=1)
    """Queries a step."""
    group_size: int = Field(default=8, ge=1)
    """Passages drawn for a query at most, positives and negatives together."""
    max_positives: int = Field(default=4, ge=1)
    """Positives drawn for a query at most. SingleLH and Rand1LH use one."""
    learning_rate: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    """Peak of a linear schedule that ends at 0."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    temperature: float = Field(default=TEMPERATURES["cosine"], gt=0, allow_inf_nan=False)
    """What similarities are divided by. Where it is not set, the similarity's own of `TEMPERATURES`."""
    learn_temperature: bool = False
    """Learn the temperature too, at `TEMPERATURE_RATE` times the learning rate."""
    similarity: Literal["cosine", "dot"] = "cosine"
    in_batch_negatives: bool = True
    """Passages of a batch that nobody judged for a query are its negatives; otherwise only judged ones are."""
    false_negative_margin: float | None = Field(default=None, allow_inf_nan=False)
    """Unjudged passages more similar to the query than its best positive plus this are no negatives: they are taken
    for positives that were missed.
    """
    false_negative_ratio: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The same, more similar than this times the best positive's similarity; 0.95 in arXiv 2407.15831."""
    source_weights: dict[Literal["human", "llm", "imported"], Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    """Weights of positives by source, which multiply those of the dataset; 1 where none is set."""
    weight_by_probability: bool = False
    """Multiply the weight of a positive by the probability that its judge gave it, where it gave one."""
    gradient_cache: bool = False
    """Keep the activations of one mini-batch only, for batches that do not fit into memory; embeds every text twice."""
    mini_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens that the encoder reads at a time; where it is not set, 2,048 on a CPU and 16,384 elsewhere. Smaller saves
    padding, and memory with `gradient_cache`.
    """
    max_query_length: int | None = Field(default=None, ge=3)
    """Tokens of a query, special tokens and prompt included; the model's own limit where it is not set."""
    max_passage_length: int | None = Field(default=None, ge=3)
    """The same for passages. The saved model keeps its own limit."""
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, name: str) -> str:
        if name not in OBJECTIVE_NAMES:
            raise UnknownNameError("objective", name, OBJECTIVE_NAMES)
        return name

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_depend(cls, settings: dict[str, Any]) -> dict[str, Any]:
        filled = dict(settings)
        if filled.get("max_steps") is None and filled.get("epochs") is None:
            filled["epochs"] = 1
        if filled.get("similarity") in TEMPERATURES:
            filled.setdefault("temperature", TEMPERATURES[filled["similarity"]])
        return filled

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if self.epochs is not None and self.max_steps is not None:
            raise UsageError("epochs and max_steps both say how long to train; set one of them")
        if self.max_positives > self.group_size:
            raise UsageError(
                f"max_positives {self.max_positives} does not fit into group_size {self.group_size}; "
                "lower max_positives or raise group_size"
            )
        rules = [rule for rule in (self.false_negative_margin, self.false_negative_ratio) if rule is not None]
        if len(rules) > 1:
            raise UsageError(
                "false_negative_margin and false_negative_ratio are two rules for one thing; set one of them"
            )
        if rules and not self.in_batch_negatives:
            raise UsageError(
                "without in_batch_negatives every negative was judged and no false_negative rule applies; remove it"
            )
        return self


def read_config(path: Path | None, flags: Mapping[str, Any]) -> FitConfig:
    """Settings from a TOML file, overridden by the flags that are not None. Raises `UsageError` with the fix.

    A flag for `epochs` drops the file's `max_steps`, and the other way round.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    settings = _read_toml(path) if path is not None else {}
    for one, other in (("epochs", "max_steps"), ("max_steps", "epochs")):
        if one in given and other not in given:
            settings.pop(other, None)
    where = f"{path}: " if path is not None else ""
    try:
        return FitConfig.model_validate(settings | given)
    except ValidationError as error:
        raise UsageError(where + "; ".join(_explain(problem) for problem in error.errors())) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read the settings in {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def _explain(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = get_close_matches(name, FitConfig.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"settings are: {', '.join(FitConfig.model_fields)}"
        return f"unknown setting {name!r}; {hint}"
    if problem["type"] == "missing":
        return f"{name} is not set; give --{name.replace('_', '-')} or put {name} into the settings file"
    return f"{name} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
