"""The settings of a training run as one frozen record, read from a TOML file and overridden by flags."""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from labelkit.corpora.scales import ScaleText
from labelkit.errors import UnknownNameError, UsageError
from labelkit.options import Options
from trainer.config.architectures import DEFAULTS, PASSAGE_FLOPS, QUERY_FLOPS, without_effect
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
    "lsepair-graded",
    "jointlh-gain",
    "lambda",
    "bixse",
    "listwise-kl",
    "margin-mse",
)
"""The keys of `trainer.objectives.objectives.OBJECTIVES`, repeated so that reading settings does not import torch."""
TAUGHT = ("listwise-kl", "margin-mse")
"""Objectives that learn only from a teacher."""
ONE_POSITIVE = {"singlelh": "the best positive", "rand1lh": "one positive drawn again in each epoch"}
"""Objective -> the single positive that it always draws."""
TEMPERATURES = {"cosine": 0.05, "dot": 1.0}
"""Similarity -> default temperature. At temperature 1, cosine similarities give a nearly uniform softmax."""
TEMPERATURE_RATE = 100
"""Learning rate of the temperature relative to the encoder. With the encoder's own rate it would hardly change."""
LOGGERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""Name in `log_to` -> required package."""
OF_A_STAGE = (
    "labels",
    "min_grade",
    "min_probability",
    "objective",
    "objective_settings",
    "distil_weight",
    "teacher",
    "teacher_temperature",
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
    "hardness",
    "same_tower_negatives",
    "source_weights",
    "weight_by_probability",
)
"""Settings that a stage may change; all others apply to the whole run."""


IN_A_FILE = " or put {name} into the settings file"
"""End of the message for a missing setting."""


class FitConfig(Options):
    """The settings of a training run."""

    elsewhere: ClassVar[str] = IN_A_FILE

    model: str
    """A sentence-transformers or transformers model: a local folder or a name on the Hugging Face Hub."""
    architecture: Literal["dense", "cross-encoder", "sparse", "late-interaction"] = "dense"
    """Kind of model: dense (each text has an embedding), cross-encoder (a reranker, which reads query and passage
    together), sparse (SPLADE: a weight for each word), or late-interaction (ColBERT: a vector for each token).
    """
    trust_remote_code: bool = False
    """Run the code that comes with a model. Read that code first: it has all your permissions."""
    allow_leaks: bool = False
    """Train even if the dataset contains queries of the evaluation or of the dev set."""
    pooling: Literal["mean", "cls", "lasttoken", "max", "weightedmean"] | None = None
    """Pooling of token embeddings to one vector: mean, cls, lasttoken, max or weightedmean. Default: the pooling of the
    model, or mean for a plain transformer.
    """
    query_prompt: str | None = None
    """Text put before every query and saved with the model. Default: the prompt of the model."""
    passage_prompt: str | None = None
    """Text put before every passage and saved with the model. Default: the prompt of the model."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Rank of low-rank adapters that are trained instead of all weights, and merged into the saved model."""
    lora_alpha: int = Field(default=32, ge=1)
    """Scale of the adapters, which is divided by `lora_rank`."""
    lora_targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter."""

    labels: str = "all"
    """Sources of labels whose positives are used: human, llm, 'human + llm', '20% human + llm', all."""
    min_grade: int | None = Field(default=None, ge=0)
    """Minimum grade of a positive. Positives with a lower grade or none are neither positives nor negatives."""
    min_probability: float | None = Field(default=None, ge=0, le=1)
    """Minimum probability of a positive. Positives with a lower probability or none are neither positives nor
    negatives.
    """
    stages: tuple[dict[str, Any], ...] = ()
    """Curriculum: a list with the settings of each stage, or only its labels, as in `["llm", "human"]`.

    A stage may change the settings in `OF_A_STAGE`. Every stage has its own learning-rate schedule, optimizer and order
    of the data.
    """

    pool: Path | None = None
    """Pool folder whose unjudged passages are negatives of queries with too few judged negatives."""
    held_out: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=2)]] | None = None
    """Fold of queries to leave out: `[2, 5]` is the third of five. Folds depend only on the ids of the queries."""

    objective: str
    """Name of the objective: singlelh, rand1lh, jointlh, summarglh, lsepair, …; an unknown name lists all."""
    objective_settings: dict[str, float] = Field(default={})
    """Settings of the objective, such as `trim`; the docstring of the objective explains them."""
    distil_weight: float = Field(default=0.0, ge=0)
    """Weight of distillation in addition to the objective. The loss is increased by this weight times
    KL(softmax(teacher) || softmax(model)) over the passages of a query's group that the teacher scored.
    """
    teacher: Literal["score", "probability"] | None = None
    """Target of distillation: the raw scores of the labels, or the log-odds of their probabilities. Default: the scores
    if a reranker gave them to every used label, else the probabilities if every used label has one, else the scores.
    """
    teacher_temperature: float = Field(default=1.0, gt=0)
    """Divisor of the teacher's scores."""
    matryoshka_dims: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Sizes of embedding prefixes, as in `[128, 768]`; the loss is the mean of the losses of these prefixes."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the queries. Default: 1, unless max_steps is set."""
    max_steps: int | None = Field(default=None, ge=1)
    """Number of steps to take, instead of whole epochs."""
    batch_size: int = Field(default=32, ge=1)
    """Queries per step."""
    group_size: int = Field(default=8, ge=1)
    """Maximum number of passages drawn per query, positives and negatives together.

    Judged negatives fill the group, then unjudged passages of the query. The passages of other queries are additional
    negatives.
    """
    max_positives: int = Field(default=4, ge=1)
    """Maximum number of positives drawn per query. SingleLH and Rand1LH use one."""
    positives: Literal["new", "best", "grade"] | None = None
    """Positives drawn per query: new ones in each epoch (new, the default), the best ones (best), or new ones with
    probability proportional to the grade (grade).
    """
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate of a linear schedule that ends at 0."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of the optimizer."""
    temperature: float = Field(default=TEMPERATURES["cosine"], gt=0)
    """Divisor of similarities. Default: 0.05 for cosine, 1.0 for dot and for all architectures but dense."""
    learn_temperature: bool = False
    """Learn the temperature too, at `TEMPERATURE_RATE` times the learning rate."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """Similarity of two embeddings: cosine or dot. Default: cosine; dot for sparse and late-interaction."""
    in_batch_negatives: bool = True
    """True: unjudged passages of the batch are negatives of a query. False: only judged and mined negatives are.
    Default: true, and false for a cross-encoder, which scores a query only with its own group.
    """
    false_negative_margin: float | None = None
    """Margin of suspected positives: an unjudged passage is not a negative if its similarity exceeds the similarity of
    the query's best positive by more than this margin.
    """
    false_negative_ratio: float | None = Field(default=None, gt=0)
    """Ratio of suspected positives: an unjudged passage is not a negative if its similarity exceeds this ratio times
    the similarity of the query's best positive; 0.95 in arXiv 2407.15831.
    """
    hardness: float = Field(default=0.0, ge=0)
    """Factor h in the weight exp(h * cosine) of each negative, which gives hard negatives a greater share of the
    gradient; 5 in arXiv 2509.20354, 9 in arXiv 2503.04812.
    """
    same_tower_negatives: bool = False
    """Take the other queries of a batch as negatives of a query, and other passages as negatives of its positives, as
    arXiv 2308.03281 does.
    """
    query_flops_weight: float = Field(default=QUERY_FLOPS, ge=0)
    """Weight of the FLOPS regulariser on the queries of a sparse encoder. A higher weight leaves fewer words."""
    passage_flops_weight: float = Field(default=PASSAGE_FLOPS, ge=0)
    """Weight of the FLOPS regulariser on the passages of a sparse encoder. A higher weight leaves fewer words."""
    source_weights: dict[Literal["human", "llm", "imported"], Annotated[float, Field(gt=0)]] = Field(default={})
    """Source -> factor by which the weights of its positives in the dataset are multiplied. Default: 1."""
    weight_by_probability: bool = False
    """Multiply the weight of each positive by its probability, if its judge gave one."""

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Precision of the encoder: float32, bf16 or fp16. Weights and scores are float32 in any case."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    gradient_cache: bool = False
    """Keep the activations of only one mini-batch, for batches that do not fit into memory. Every text is encoded
    twice.
    """
    compile: bool = False
    """Compile the encoder. It saves time only in long runs, because every new shape may be compiled once."""
    mini_batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per mini-batch of the encoder. Default: 2,048 on a CPU, 16,384 on other devices. A lower value reduces
    padding, and memory with gradient_cache.
    """
    max_query_length: int | None = Field(default=None, ge=3)
    """Maximum tokens of a query, including special tokens and prompt. Default: the limit of the model."""
    max_passage_length: int | None = Field(default=None, ge=3)
    """Maximum tokens of a passage, including special tokens and prompt; with a cross-encoder, of query and passage
    together. Default: the limit of the model, which the saved model keeps.
    """
    workers: int | None = Field(default=None, ge=0)
    """Number of processes that prepare batches during the training. 0: the training process prepares each batch when it
    is needed. Default: 2 with a GPU, 0 on a CPU.
    """
    cache_tokens: bool = True
    """Tokenise every passage once before the first step, and keep the tokens on disk."""

    dev: str | None = None
    """Collection (split dev) or COLLECTION:SPLIT on which every epoch is measured, such as a folder or
    nanobeir:scifact. Each stage ends with its best weights.
    """
    scale: ScaleText | None = None
    """Scale of the grades of --dev and --eval, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such
    as no=0,partly=1,yes=3.
    """
    patience: int | None = Field(default=None, ge=1)
    """Number of consecutive epochs without improvement on the dev set after which a stage ends."""
    checkpoint_minutes: float = Field(default=10.0, ge=0)
    """Minutes between checkpoints, which a killed run may lose. 0: a checkpoint after every logged step."""
    log_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Experiment trackers that receive the losses; tensorboard writes its files to the folder of the model."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of new weights, of draws and of the order of the data."""

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
        filled = {**DEFAULTS.get(str(settings.get("architecture")), {}), **settings}
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
        """Build the settings of each stage, in order; a run without a curriculum has one stage."""
        if not self.stages:
            return (self,)
        shared = {name: value for name, value in self.model_dump(exclude_unset=True).items() if name != "stages"}
        return tuple(self._stage(number, shared, stage) for number, stage in enumerate(self.stages, start=1))

    def _stage(self, number: int, shared: Mapping[str, Any], own: Mapping[str, Any]) -> "FitConfig":
        for name in own:
            if name not in OF_A_STAGE:
                near = get_close_matches(name, OF_A_STAGE, n=1)
                hint = f"did you mean {near[0]}?" if near else f"settings of a stage are: {', '.join(OF_A_STAGE)}"
                raise UsageError(f"stage {number} cannot set {name!r}; {hint}")
        lengths = {"epochs", "max_steps"}
        kept = {k: v for k, v in shared.items() if not (k in lengths and lengths & set(own))}
        try:
            return FitConfig.model_validate(kept | dict(own))
        except UsageError as error:
            raise UsageError(f"stage {number}: {error}") from None

    def known_labels(self) -> Selection:
        """Collect the labels that any stage uses; labels of other sources are treated as missing."""
        known: Selection = {}
        for stage in self.stage_configs():
            for source, share in parse_labels(stage.labels).items():
                known[source] = max(share, known.get(source, 0.0))
        return known


def _contradictions(config: FitConfig) -> list[tuple[bool, str]]:
    """List all rules on combinations of settings: whether a rule is broken, and its error message."""
    rules = [rule for rule in (config.false_negative_margin, config.false_negative_ratio) if rule is not None]
    return [
        *without_effect(config.architecture, {name: getattr(config, name) for name in type(config).model_fields}),
        (
            config.epochs is not None and config.max_steps is not None,
            "epochs and max_steps both set the length of the training; set only one of them",
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
            "false_negative_margin and false_negative_ratio exclude each other; set only one of them",
        ),
        (
            bool(rules) and not config.in_batch_negatives,
            "false_negative_margin and false_negative_ratio have no effect without in_batch_negatives, because every "
            "negative is judged; remove them",
        ),
        (
            config.hardness > 0 and config.similarity != "cosine",
            "hardness weights negatives by their cosine similarity; set similarity to cosine or remove hardness",
        ),
        (
            bool(rules) and config.same_tower_negatives,
            "false_negative_margin and false_negative_ratio do not apply to same_tower_negatives; remove one of them",
        ),
        (
            config.distil_weight == 0 and config.objective not in TAUGHT and config.teacher is not None,
            "nothing learns from the teacher; set distil_weight above 0 or remove teacher",
        ),
        (
            config.pool is not None and not config.in_batch_negatives,
            "pool has no effect without in_batch_negatives, because only judged passages are negatives; remove pool",
        ),
        (
            config.gradient_checkpointing and config.gradient_cache,
            "gradient_checkpointing saves no memory with gradient_cache; remove gradient_checkpointing",
        ),
        (
            config.held_out is not None and config.held_out[0] >= config.held_out[1],
            f"held_out {config.held_out}: folds are numbered from 0, so the first number must be below the second",
        ),
        (config.patience is not None and config.dev is None, "patience needs a dev folder; set dev"),
        (
            config.max_steps is not None and config.patience is not None,
            "patience needs whole epochs and has no effect with max_steps; set epochs instead of max_steps",
        ),
    ]


def read_config(path: Path | None, flags: Mapping[str, Any]) -> FitConfig:
    """Read settings from a TOML file and override them by the flags that are not None.

    Raises `UsageError` for settings that are unknown, invalid or contradictory.
    """
    where = f"{path}: " if path is not None else ""
    return make_config(read_toml(path) if path is not None else {}, flags, where)


def make_config(settings: Mapping[str, Any], flags: Mapping[str, Any], where: str) -> FitConfig:
    """Override settings by the flags that are not None, and validate them. `where` begins the message of an error.

    A flag for `epochs` removes `max_steps` from the settings, and vice versa. The same applies to `labels` and
    `stages`.
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
    """Read a TOML file. Raises `UsageError` for a file that cannot be read or parsed."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read the settings in {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
