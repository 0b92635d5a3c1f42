"""The settings of a training run: one frozen object, from a TOML file whose values flags override."""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from labelkit.errors import UnknownNameError, UsageError
from labelkit.options import Options
from trainer.config.label_selection import Selection, parse_labels

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
"""The keys of `trainer.objectives.objectives.OBJECTIVES`, repeated so that reading settings loads no torch."""
ONE_POSITIVE = {"singlelh": "the best", "rand1lh": "one drawn anew each epoch"}
"""Objectives that say themselves which positive is drawn."""
TEMPERATURES = {"cosine": 0.05, "dot": 1.0}
"""Similarity -> temperature where none is set. Cosine without scaling flattens every distribution."""
TEMPERATURE_RATE = 100
"""A learnt temperature must be able to double within a run; at an encoder's learning rate it would hardly move."""
LOGGERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""Name in `log_to` -> package that it needs."""
OF_A_STAGE = (
    "labels",
    "min_grade",
    "min_probability",
    "objective",
    "objective_settings",
    "positives",
    "epochs",
    "max_steps",
    "batch_size",
    "group_size",
    "max_positives",
    "learning_rate",
    "warmup_ratio",
    "weight_decay",
    "in_batch_negatives",
    "false_negative_margin",
    "false_negative_ratio",
    "source_weights",
    "weight_by_probability",
)
"""Settings that a stage may set for itself; the others hold for the whole run."""


IN_A_FILE = " or put {name} into the settings file"
"""Where a required setting can be set besides its flag."""


class FitConfig(Options):
    """Everything that decides what a run computes, beside the dataset."""

    elsewhere: ClassVar[str] = IN_A_FILE

    model: str
    """A sentence-transformers or transformers model: a local folder or a name on the Hugging Face Hub."""
    trust_remote_code: bool = False
    """Run the code that comes with a model. Read it first: it can do whatever you can."""
    allow_leaks: bool = False
    """Train although there are queries of the evaluation in it."""
    pooling: Literal["mean", "cls", "lasttoken", "max", "weightedmean"] | None = None
    """mean, cls, lasttoken, max or weightedmean: how the tokens of a text become one vector. Where it is not set, the
    model's own, mean for a plain transformer.
    """
    query_prompt: str | None = None
    """What is put before every query; saved with the model. Where it is not set, the model's own."""
    passage_prompt: str | None = None
    """What is put before every passage; saved with the model. Where it is not set, the model's own."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Train low-rank adapters of this rank instead of all weights; they are merged into the saved model."""
    lora_alpha: int = Field(default=32, ge=1)
    """Adapters are scaled by this over their rank."""
    lora_targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter."""

    labels: str = "all"
    """Whose labels make positives: human, llm, 'human + llm', '20% human + llm', all."""
    min_grade: int | None = Field(default=None, ge=0)
    """Positives of a lower grade, and of none, are ignored: neither positives nor negatives."""
    min_probability: float | None = Field(default=None, ge=0, le=1)
    """Positives whose judge gave a lower probability are ignored: neither positives nor negatives."""
    stages: tuple[dict[str, Any], ...] = ()
    """A curriculum: the settings of each stage in turn, or its labels alone, as in `["llm", "human"]`.

    A stage may set what `OF_A_STAGE` names. Every stage starts a learning-rate schedule, an optimizer and a data order
    of its own.
    """

    pool: Path | None = None
    """Pool whose unjudged passages are negatives where judged ones are too few."""
    held_out: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=2)]] | None = None
    """Leave out the queries of a fold, `[2, 5]` for the third of five; folds depend on the queries' ids alone."""

    objective: str
    """singlelh, rand1lh, jointlh, summarglh, lsepair, …; an unknown name lists all."""
    objective_settings: dict[str, float] = Field(default={})
    """Settings of that objective, such as `trim`; its docstring has their meaning and defaults."""
    matryoshka_dims: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Train the first so many dimensions of an embedding to work alone; the loss is the mean over them."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the queries; 1 where neither epochs nor max_steps is set."""
    max_steps: int | None = Field(default=None, ge=1)
    """Take exactly this many steps, over as many epochs as that needs, instead of whole epochs."""
    batch_size: int = Field(default=32, ge=1)
    """Queries per step."""
    group_size: int = Field(default=8, ge=1)
    """Passages drawn for a query at most, positives and negatives together.

    Judged negatives fill the group up, then passages of the query that nobody judged; the passages of other queries
    come on top.
    """
    max_positives: int = Field(default=4, ge=1)
    """Positives drawn for a query at most. SingleLH and Rand1LH use one."""
    positives: Literal["new", "best", "grade"] | None = None
    """Positives of a query that are drawn: new ones each epoch (the default), the best ones, or new ones in proportion
    to the grade.
    """
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak of a linear schedule that ends at 0."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of the optimizer."""
    temperature: float = Field(default=TEMPERATURES["cosine"], gt=0)
    """Similarities are divided by this: 0.05 for cosine and 1.0 for dot where it is not set."""
    learn_temperature: bool = False
    """Learn the temperature too, at `TEMPERATURE_RATE` times the learning rate."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """Similarity of two embeddings: cosine or dot."""
    in_batch_negatives: bool = True
    """Passages of a batch that nobody judged for a query are its negatives; otherwise only judged ones are."""
    false_negative_margin: float | None = None
    """Unjudged passages more similar to the query than its best positive plus this margin are no negatives: they are
    taken for positives that were missed.
    """
    false_negative_ratio: float | None = Field(default=None, gt=0)
    """Unjudged passages more similar to the query than this times the similarity of its best positive are no negatives;
    0.95 in arXiv 2407.15831.
    """
    source_weights: dict[Literal["human", "llm", "imported"], Annotated[float, Field(gt=0)]] = Field(default={})
    """Weights of positives by source, which multiply those of the dataset; 1 where none is set."""
    weight_by_probability: bool = False
    """Multiply the weight of a positive by the probability that its judge gave it, where it gave one."""

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """The encoder computes in float32, bf16 or fp16; weights and scores stay in float32."""
    gradient_checkpointing: bool = False
    """Keep fewer activations and compute them again: less memory, about a third slower."""
    gradient_cache: bool = False
    """Keep the activations of one mini-batch only, for batches that do not fit into memory; every text is encoded
    twice.
    """
    compile: bool = False
    """Compile the encoder. Pays where a run is long: lengths vary, and each new shape may be compiled once."""
    mini_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens that the encoder reads at a time; where it is not set, 2,048 on a CPU and 16,384 elsewhere. Smaller saves
    padding, and memory with `gradient_cache`.
    """
    max_query_length: int | None = Field(default=None, ge=3)
    """Tokens of a query, special tokens and prompt included; the model's own limit where it is not set."""
    max_passage_length: int | None = Field(default=None, ge=3)
    """Tokens of a passage, special tokens and prompt included; the model's own limit where it is not set. The saved
    model keeps its own limit.
    """
    workers: int | None = Field(default=None, ge=0)
    """Processes that prepare batches during the training; 0 prepares each batch when it is needed. Where it is not set,
    2 with a GPU and 0 on a CPU.
    """
    cache_tokens: bool = True
    """Tokenise every text that may be drawn once, before the first step, and keep the tokens on disk."""

    dev: str | None = None
    """BEIR folder (split dev) or FOLDER:SPLIT on which every epoch is measured; a stage ends with the weights that were
    best there.
    """
    patience: int | None = Field(default=None, ge=1)
    """End a stage after this many epochs in a row without gain on the dev set."""
    checkpoint_minutes: float = Field(default=10.0, ge=0)
    """How much work a killed run may lose. 0: after every logged step."""
    log_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the losses are logged too; files of tensorboard lie in the model's folder."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of new weights, of the draws and of the order of the data."""

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, name: str) -> str:
        if name not in OBJECTIVE_NAMES:
            raise UnknownNameError("objective", name, OBJECTIVE_NAMES)
        return name

    @field_validator("stages", mode="before")
    @classmethod
    def _texts_are_labels(cls, stages: Any) -> Any:
        if not isinstance(stages, list | tuple):
            return stages
        return [{"labels": stage} if isinstance(stage, str) else stage for stage in stages]

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
        for wrong, words in _contradictions(self):
            if wrong:
                raise UsageError(words)
        parse_labels(self.labels)
        self.stage_configs()
        return self

    def stage_configs(self) -> "tuple[FitConfig, ...]":
        """The settings of each stage, in turn; those of a run without a curriculum are its own."""
        if not self.stages:
            return (self,)
        shared = {name: value for name, value in self.model_dump(exclude_unset=True).items() if name != "stages"}
        return tuple(self._stage(number, shared, stage) for number, stage in enumerate(self.stages, start=1))

    def _stage(self, number: int, shared: Mapping[str, Any], own: Mapping[str, Any]) -> "FitConfig":
        for name in own:
            if name not in OF_A_STAGE:
                near = get_close_matches(name, OF_A_STAGE, n=1)
                hint = f"did you mean {near[0]}?" if near else f"a stage may set: {', '.join(OF_A_STAGE)}"
                raise UsageError(f"stage {number} cannot set {name!r}; {hint}")
        lengths = {"epochs", "max_steps"}
        kept = {k: v for k, v in shared.items() if not (k in lengths and lengths & set(own))}
        try:
            return FitConfig.model_validate(kept | dict(own))
        except UsageError as error:
            raise UsageError(f"stage {number}: {error}") from None

    def known_labels(self) -> Selection:
        """The labels that any stage uses; what other sources said is treated as if they had never been asked."""
        known: Selection = {}
        for stage in self.stage_configs():
            for source, share in parse_labels(stage.labels).items():
                known[source] = max(share, known.get(source, 0.0))
        return known


def _contradictions(config: FitConfig) -> list[tuple[bool, str]]:
    """Each rule: is it broken, and what to say then."""
    rules = [rule for rule in (config.false_negative_margin, config.false_negative_ratio) if rule is not None]
    return [
        (
            config.epochs is not None and config.max_steps is not None,
            "epochs and max_steps both say how long to train; set one of them",
        ),
        (
            config.max_positives > config.group_size,
            f"max_positives {config.max_positives} does not fit into group_size {config.group_size}; "
            "lower max_positives or raise group_size",
        ),
        (
            config.objective in ONE_POSITIVE and config.positives is not None,
            f"{config.objective} always takes {ONE_POSITIVE.get(config.objective)}; remove positives",
        ),
        (
            len(rules) > 1,
            "false_negative_margin and false_negative_ratio are two rules for one thing; set one of them",
        ),
        (
            bool(rules) and not config.in_batch_negatives,
            "without in_batch_negatives every negative was judged and no false_negative rule applies; remove it",
        ),
        (
            config.pool is not None and not config.in_batch_negatives,
            "without in_batch_negatives only judged passages are negatives and none of a pool is drawn; remove pool",
        ),
        (
            config.gradient_checkpointing and config.gradient_cache,
            "gradient_cache keeps one mini-batch only, so gradient_checkpointing saves nothing; remove it",
        ),
        (
            config.held_out is not None and config.held_out[0] >= config.held_out[1],
            f"held_out {config.held_out}: folds are counted from 0; the first number must be below the second",
        ),
        (config.patience is not None and config.dev is None, "patience needs a dev folder; set dev"),
        (
            config.max_steps is not None and config.patience is not None,
            "patience counts epochs, max_steps takes exactly so many steps; set epochs instead",
        ),
    ]


def read_config(path: Path | None, flags: Mapping[str, Any]) -> FitConfig:
    """Settings from a TOML file, overridden by the flags that are not None. Raises `UsageError` with the fix."""
    where = f"{path}: " if path is not None else ""
    return make_config(read_toml(path) if path is not None else {}, flags, where)


def make_config(settings: Mapping[str, Any], flags: Mapping[str, Any], where: str) -> FitConfig:
    """Settings overridden by the flags that are not None; `where` begins the error.

    A flag for `epochs` drops the settings' `max_steps`, and the other way round; one for `labels` their `stages`.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    settings = dict(settings)
    for one, other in (("epochs", "max_steps"), ("max_steps", "epochs"), ("labels", "stages"), ("stages", "labels")):
        if one in given and other not in given:
            settings.pop(other, None)
    try:
        return FitConfig.model_validate(settings | given)
    except UnknownNameError:
        raise
    except UsageError as error:
        raise UsageError(f"{where}{error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises `UsageError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read the settings in {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
