"""Options of `labelkit agree`, `bias`, `calibrate`, `select`, `report` and `redteam`, and of a cascade."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from labelkit.corpora.scales import ScaleText
from labelkit.engines import DEFAULT
from labelkit.engines.option_use import unused_options
from labelkit.errors import UsageError
from labelkit.judging.defences import defences_of
from labelkit.judging.options import AnnotateOptions
from labelkit.options import SEEDS, Address, Options
from labelkit.pooling.languages import code_of

DEFENCES = ("none", "strip", "strip,second-look")
"""Defences that are compared by default."""


class AgreeOptions(Options):
    """Human grades, system runs and breakdowns of a comparison of judges."""

    human: tuple[Address, ...] = ()
    """Human grades: a labels folder, a qrels file of one annotator, or an export of Argilla or Label Studio. May be
    repeated.
    """
    scale: ScaleText | None = None
    """Scale of the grades of --human, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3.
    """
    run: tuple[Path, ...] = ()
    """TREC run of a retrieval system. With at least three, the rankings of the systems by each judge are compared. May
    be repeated.
    """
    by: tuple[str, ...] = ()
    """Break the agreement down by length, source, position, overlap or language. May be repeated."""
    data: Path | None = None
    """BEIR folder with the texts, needed for --by length, overlap and language."""
    pool: Path | None = None
    """Pool that was judged, needed for --by source."""


class BiasOptions(Options):
    """Texts, human grades and repeated judgements from which biases are measured."""

    data: Path | None = None
    """BEIR folder with the texts. Not needed for a dataset, which contains them."""
    human: Address | None = None
    """Human grades: a labels folder, a qrels file, or an export of Argilla or Label Studio. With them, only passages
    with the same human grade are compared.
    """
    scale: ScaleText | None = None
    """Scale of the grades of --human, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3.
    """
    authors: Path | None = None
    """TSV file of passage ids and authors, to measure whether a judge prefers passages that it wrote."""
    again: tuple[Path, ...] = ()
    """Labels folder in which the same judge judged some pairs again, to measure drift. May be repeated."""


class CalibrateOptions(Options):
    """Human grades to which scores are fitted, or a calibration that is applied."""

    human: Address | None = None
    """Human grades to which the scores are fitted: a labels folder, a qrels file, or an export of Argilla or Label
    Studio. If several people graded a pair, the median counts.
    """
    scale: ScaleText | None = None
    """Scale of the grades of --human, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3.
    """
    apply: Path | None = None
    """Calibration file to apply to the labels, instead of fitting one."""
    data: Path | None = None
    """BEIR folder with the texts, needed for retrieval scores (--bm25, --dense)."""
    bm25: bool = False
    """Use the BM25 score of a pair as a feature."""
    language: str | None = None
    """Language of the texts, such as german or de, whose stop words and stemmer BM25 uses. Default: English stop words
    and no stemmer.
    """
    dense: tuple[str, ...] = ()
    """Dense model whose similarity score of a pair is used as a feature. May be repeated."""
    line: float = Field(default=0.5, ge=0, le=1)
    """Threshold of P(grade >= 2) from which a pair counts as positive in the estimates of precision and recall."""
    selection: Path | None = None
    """Pool written by labelkit select. Only its random sample is used to estimate precision and recall."""
    renamed: dict[str, str] = Field(default={})
    """With --apply: name in the calibration of the judge that made these labels. With several judges, JUDGE=NAME for
    each. May be repeated.
    """
    apply_anyway: bool = False
    """Apply a calibration even if its grades agreed with people less than the judge's own grades."""

    @field_validator("language")
    @classmethod
    def _known_language(cls, name: str | None) -> str | None:
        return None if name is None else code_of(name)

    @field_validator("renamed", mode="before")
    @classmethod
    def _typed_names(cls, renamed: object) -> object:
        typed = isinstance(renamed, list | tuple)
        return dict(judge_as(str(item)) for item in renamed) if typed else renamed  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _either_fit_or_apply(self) -> Self:
        if self.human is not None and self.apply is not None:
            raise UsageError("give either --human GRADES to fit a calibration, or --apply FILE to apply one")
        if self.apply is None and (self.renamed or self.apply_anyway):
            raise UsageError("--as and --apply-anyway can be used only together with --apply FILE")
        return self


class SelectOptions(Options):
    """The pairs from which a selection is made, and its size."""

    pool: Path
    """Pool that was judged, from which the pairs are chosen."""
    budget: int = Field(ge=1)
    """Number of pairs to choose."""
    random_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the chosen pairs that is drawn at random. Only these give unbiased estimates."""
    human: Address | None = None
    """Human grades: a labels folder, a qrels file, or an export of Argilla or Label Studio. Pairs that already have a
    human grade are not chosen.
    """
    scale: ScaleText | None = None
    """Scale of the grades of --human, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3.
    """
    calibration: Path | None = None
    """Calibration file whose probabilities decide which pairs are unsure. Default: the mean of the judges."""
    data: Path | None = None
    """BEIR folder with the texts, needed if the calibration uses retrieval scores."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the random sample."""


class ReportOptions(Options):
    """Inputs of a report besides the labels or the dataset."""

    human: tuple[Address, ...] = ()
    """Human grades: a labels folder, a qrels file of one annotator, or an export of Argilla or Label Studio. Not needed
    for a dataset with human grades. May be repeated.
    """
    scale: ScaleText | None = None
    """Scale of the grades of --human, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3.
    """
    data: Path | None = None
    """BEIR folder with the texts. Not needed for a dataset, which contains them."""
    calibration: Path | None = None
    """File written by labelkit calibrate, to show in the report."""
    attacks: tuple[Path, ...] = ()
    """File attacks.json written by labelkit redteam, to show in the report. May be repeated."""


class RedteamOptions(Options):
    """The judge to attack, and the pairs, attacks and defences of the test."""

    human: Address
    """Human grades: a labels folder, a qrels file, or an export of Argilla or Label Studio. Only pairs with grade 0 are
    attacked.
    """
    model: str
    """Model of the judge: local folder, Hub id, or model name on the server."""
    engine: str = DEFAULT
    """Engine that runs the model: local, vllm, openai, openai-batch, ray or scripted."""
    scale: ScaleText | None = None
    """Scale of the grades of --human, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3.
    """
    prompt: tuple[str, ...] = ()
    """Prompt to attack: name of a shipped prompt, or a TOML file. May be repeated. Default: graded and binary."""
    defence: tuple[str, ...] = ()
    """Defence to compare, or several applied together and separated by commas, such as strip,nonce. May be repeated.
    Default: none; strip; strip,second-look.
    """
    attack: tuple[str, ...] = ()
    """Attack class to try. May be repeated. Default: all classes."""
    pairs: int = Field(default=100, ge=1)
    """Number of pairs with human grade 0 to attack."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the random choice of pairs."""
    revision: str | None = None
    """Commit or tag of a Hub model. Default: the newest commit."""
    base_url: tuple[str, ...] = ()
    """Address of an OpenAI-compatible server, which often ends in /v1. Repeat it to share the work among several
    servers. Default: https://api.openai.com/v1."""
    tokenizer: str | None = None
    """Tokenizer of a model behind a server: tokenizer.json, its folder or a Hub id."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names or files of the prompts."""
        return self.prompt or ("graded", "binary")

    @property
    def defences(self) -> list[tuple[str, ...]]:
        """The combinations of defences to compare; each combination is applied together."""
        return [defences_of(item.split(","), once=True) for item in self.defence or DEFENCES]


class TuneOptions(Options):
    """The human grades to which a prompt is tuned, and the proposals that are tried."""

    human: Path
    """Human qrels. Half of their queries choose the prompt, the other half reports it."""
    scale: ScaleText | None = None
    """Scale of the grades of --human, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3.
    """
    proposer: str | None = None
    """Model that proposes wordings. Default: the judge itself."""
    proposer_engine: str | None = None
    """Engine of the proposer. Default: --engine."""
    proposer_base_url: tuple[str, ...] = ()
    """Server address of the proposer. Default: --base-url."""
    wordings: int = Field(default=4, ge=0, le=100)
    """Number of wordings to propose."""
    examples: int = Field(default=4, ge=0, le=50)
    """Number of labelled pairs that a prompt shows as examples; they are taken from the half that chooses. 0 tries no
    examples.
    """
    detect: float = Field(default=0.2, ge=0.01, le=1)
    """Difference in kappa (grade >= 2) that the labels must be able to detect with a probability of 80%. With fewer
    labels, nothing is sent.
    """

    @model_validator(mode="after")
    def _something_to_try(self) -> Self:
        if not self.wordings and not self.examples:
            raise UsageError("--wordings 0 and --examples 0 leave nothing to try")
        return self

    def proposing(self, judge: AnnotateOptions) -> AnnotateOptions:
        """Return the options of the proposer: the judge's options with another model, engine or address."""
        if self.proposer is None:
            return judge
        engine = self.proposer_engine or judge.engine
        fields = type(judge).model_fields
        unused = unused_options(engine, fields, worker=judge.worker_engine)
        kept = judge.but(engine=engine, **{name: fields[name].default for name in unused})
        addresses = self.proposer_base_url or kept.base_url
        return kept.but(model=self.proposer, revision=None, tokenizer=None, base_url=addresses)


class CascadeOptions(Options):
    """The strong judge of a cascade, and the share of pairs that it judges. Unset fields have the value of the cheap
    judge.
    """

    model: str
    """Stronger model for the pairs of which the cheap judge (--model) is unsure."""
    share: float = Field(default=0.2, ge=0, le=1)
    """Share of the pairs that the stronger model judges. A quarter of these pairs is drawn at random, to compare the
    two judges.
    """
    engine: str | None = None
    """Engine of the stronger model. Default: --engine."""
    base_url: tuple[str, ...] = ()
    """Server address of the stronger model. Default: --base-url."""
    method: str | None = None
    """Method of the stronger model. Default: --method."""
    prompt: str | None = None
    """Prompt of the stronger model. Default: --prompt, or the shipped prompt if the methods differ."""

    def judge(self, cheap: AnnotateOptions) -> AnnotateOptions:
        """Return the options of `annotate` for the strong judge; it judges all pairs of its pool."""
        same = self.method in (None, cheap.method)
        engine = self.engine or cheap.engine
        # The cheap judge's options that the strong judge's engine does not use stay with the cheap judge.
        fields = type(cheap).model_fields
        unused = unused_options(engine, fields, worker=cheap.worker_engine)
        kept = cheap.but(engine=engine, **{name: fields[name].default for name in unused})
        return kept.but(
            model=self.model,
            revision=None,
            limit=None,
            base_url=self.base_url or kept.base_url,
            method=self.method or cheap.method,
            prompt=self.prompt or (cheap.prompt if same else None),
        )


def judge_as(item: str) -> tuple[str, str]:
    """Split `JUDGE=NAME` into a judge of the labels ("" for the only judge) and its name in the calibration."""
    judge, _, name = item.rpartition("=")
    return judge, name
