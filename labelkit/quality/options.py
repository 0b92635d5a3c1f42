"""Options of `labelkit agree`, `bias`, `calibrate`, `select`, `report`, `redteam`, and of a cascade."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from labelkit.engines import DEFAULT
from labelkit.errors import UsageError
from labelkit.judging.defences import defences_of
from labelkit.judging.options import AnnotateOptions
from labelkit.options import SEEDS, Options

DEFENCES = ("none", "strip", "strip,second-look")
"""Defences that are compared where none is named."""


class AgreeOptions(Options):
    """Who is compared besides the judges of the labels, and how the comparison is broken down."""

    human: tuple[Path, ...] = ()
    """Human qrels; several for several people."""
    run: tuple[Path, ...] = ()
    """TREC runs of systems, to compare how they are ranked."""
    by: tuple[str, ...] = ()
    """Break down by length, source, position, overlap or language."""
    data: Path | None = None
    """BEIR folder, for --by length, overlap, language."""
    pool: Path | None = None
    """Pool that was judged, for --by source."""


class BiasOptions(Options):
    """What the biases of a judge are measured on."""

    data: Path | None = None
    """BEIR folder with the texts; a dataset has them."""
    human: Path | None = None
    """Human qrels: passages are compared with others of the same human grade."""
    authors: Path | None = None
    """TSV of passage id and author, for self-preference."""
    again: tuple[Path, ...] = ()
    """Labels folder in which the same judge judged some pairs again: drift."""


class CalibrateOptions(Options):
    """Human grades that scores are fitted to, or a calibration that is applied."""

    human: Path | None = None
    """Human qrels to fit to."""
    apply: Path | None = None
    """A calibration to apply to these labels."""
    data: Path | None = None
    """BEIR folder, where retrieval scores are features."""
    bm25: bool = False
    """BM25 is a feature."""
    dense: tuple[str, ...] = ()
    """A dense model whose similarity is a feature."""
    line: float = Field(default=0.5, ge=0, le=1)
    """Probability from which a pair is a positive in the estimates."""
    selection: Path | None = None
    """Pool of labelkit select: the estimates use its random share alone."""
    renamed: dict[str, str] = Field(default={})
    """With --apply: these labels are by the judge that the calibration calls NAME; JUDGE=NAME where there are several
    judges.
    """
    apply_anyway: bool = False
    """Apply a calibration although it agreed with people less than its judge."""

    @field_validator("renamed", mode="before")
    @classmethod
    def _typed_names(cls, renamed: object) -> object:
        typed = isinstance(renamed, list | tuple)
        return dict(judge_as(str(item)) for item in renamed) if typed else renamed  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _either_fit_or_apply(self) -> Self:
        if (self.human is None) == (self.apply is None):
            raise UsageError("give either --human QRELS to fit, or --apply FILE to use a calibration")
        if self.apply is None and (self.renamed or self.apply_anyway):
            raise UsageError("--as and --apply-anyway go with --apply FILE")
        return self


class SelectOptions(Options):
    """The pairs that are chosen from, and how many are."""

    pool: Path
    """Pool that was judged."""
    budget: int = Field(ge=1)
    """Pairs to choose."""
    random_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the chosen pairs that is drawn at random, which keeps estimates unbiased."""
    human: Path | None = None
    """Human qrels: pairs that they grade are left out."""
    calibration: Path | None = None
    """Calibration that says how sure the judges are."""
    data: Path | None = None
    """BEIR folder, where the calibration uses retrieval scores."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the random share."""


class ReportOptions(Options):
    """What a report shows besides labels or dataset."""

    human: tuple[Path, ...] = ()
    """Human qrels; a dataset has its own."""
    data: Path | None = None
    """BEIR folder with the texts; a dataset has them."""
    calibration: Path | None = None
    """File of labelkit calibrate."""
    attacks: tuple[Path, ...] = ()
    """attacks.json of labelkit redteam; may be repeated."""


class RedteamOptions(Options):
    """The judge that is attacked, and the pairs, attacks and defences."""

    human: Path
    """Human qrels: pairs of grade 0 are attacked."""
    model: str
    """Local folder, Hub id, or the name the server knows."""
    engine: str = DEFAULT
    """local, vllm, openai, openai-batch, ray or scripted."""
    prompt: tuple[str, ...] = ()
    """Prompt to attack; may be repeated. Default: graded and binary."""
    defence: tuple[str, ...] = ()
    """Defence to compare, such as strip, or strip,nonce together; may be repeated. Default: none, strip, and strip with
    second-look.
    """
    attack: tuple[str, ...] = ()
    """Attack class; may be repeated. Default: all."""
    pairs: int = Field(default=100, ge=1)
    """Pairs of human grade 0 to attack."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the draw of pairs."""
    revision: str | None = None
    """Commit or tag of a Hub model."""
    base_url: tuple[str, ...] = ()
    """Address of an OpenAI-compatible server; may be repeated."""
    tokenizer: str | None = None
    """tokenizer.json, its folder or Hub id, for a model behind a server."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names or files of the prompts."""
        return self.prompt or ("graded", "binary")

    @property
    def defences(self) -> list[tuple[str, ...]]:
        """Defences that are applied together, for each part of the comparison."""
        return [defences_of(item.split(","), once=True) for item in self.defence or DEFENCES]


class CascadeOptions(Options):
    """The strong judge of a cascade, and how much it is asked. What is not set here is as for the cheap judge."""

    model: str
    """A stronger model, for the pairs that --model is unsure of."""
    share: float = Field(default=0.2, ge=0, le=1)
    """Share of the pairs that the stronger model judges; a quarter of it is drawn at random."""
    engine: str | None = None
    """Engine of the stronger model; default: --engine."""
    base_url: tuple[str, ...] = ()
    """Address of the stronger model; default: --base-url."""
    method: str | None = None
    """Method of the stronger model; default: --method."""
    prompt: str | None = None
    """Prompt of the stronger model; default: --prompt, or the shipped one of another method."""

    def judge(self, cheap: AnnotateOptions) -> AnnotateOptions:
        """The strong judge as options of `annotate`; it judges all pairs that it is given."""
        same = self.method in (None, cheap.method)
        return cheap.but(
            model=self.model,
            revision=None,
            limit=None,
            engine=self.engine or cheap.engine,
            base_url=self.base_url or cheap.base_url,
            method=self.method or cheap.method,
            prompt=self.prompt or (cheap.prompt if same else None),
        )


def judge_as(item: str) -> tuple[str, str]:
    """The two parts of `JUDGE=NAME`: a judge of the labels ("" is the only one), and its name in the calibration."""
    judge, _, name = item.rpartition("=")
    return judge, name
