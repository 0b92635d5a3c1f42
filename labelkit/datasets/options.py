"""Options of `labelkit mix`, `mine`, `audit`, `show` and `replay`."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from labelkit.corpora.benchmarks import expanded
from labelkit.corpora.options import CollectionOptions, CollectionPlace, ColumnOptions
from labelkit.corpora.scales import ScaleText
from labelkit.errors import UnknownNameError, UsageError
from labelkit.options import SEEDS, Address, Options


class MixRules(Options):
    """Rules that turn judgements into labels, and limits on the labels of a query."""

    policy: str = "human-first"
    """Policy that turns the judgments of a pair into its label."""
    positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest human grade of a positive; use 1 for binary qrels."""
    by: str = "probability"
    """Value of an LLM judgment that is compared with the thresholds: probability, or grade. Without a probability the
    grade is compared.
    """
    llm_positive: float = Field(default=0.7, ge=0.5, le=1)
    """Lowest P(grade >= 2) of an LLM judgment for a positive."""
    llm_negative: float = Field(default=0.3, ge=0, le=0.5)
    """Highest P(grade >= 2) of an LLM judgment for a negative. Pairs between --llm-negative and --llm-positive are
    ignored.
    """
    llm_positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest LLM grade of a positive, with --by grade and for judgments without probabilities."""
    llm_negative_grade: int = Field(default=0, ge=0, le=2)
    """Highest LLM grade of a negative, with --by grade and for judgments without probabilities. LLMs give grade 1
    ("related, no answer") to relevant and irrelevant passages alike.
    """
    agree: int = Field(default=2, ge=1)
    """With --policy agreement: number of judges that must agree on a label."""
    human_fraction: float = Field(default=1.0, ge=0, le=1)
    """Share of the queries with human labels whose human labels are used."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the random choice of queries for --human-fraction."""
    max_positives: int | None = Field(default=None, ge=1)
    """Keep at most this many positives per query, the most relevant first. The others are ignored."""
    max_negatives: int | None = Field(default=None, ge=1)
    """Keep at most this many negatives per query, the hardest (highest grade) first. The others are left out."""
    drop: tuple[str, ...] = ()
    """Audit finding to remove, such as twins: its labels are ignored, its queries are left out. May be repeated."""
    allow_leaks: bool = False
    """Write the dataset even if training queries repeat queries of --eval."""

    @field_validator("drop")
    @classmethod
    def _in_one_order(cls, drop: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(drop)))

    @property
    def rules(self) -> dict[str, Any]:
        """The fields of `MixRules`, as the manifest of a dataset stores them."""
        return {name: getattr(self, name) for name in MixRules.model_fields}


class EvaluationSetOptions(Options):
    """The evaluation sets that a dataset must not repeat."""

    eval: tuple[CollectionPlace, ...] = ()
    """Collection of an evaluation set that must not leak into training, in any form that DATA has, or nanobeir for all
    of NanoBEIR. May be repeated.
    """
    eval_split: str | None = None
    """Qrels split of the --eval collections. Default: test; train for the collections of NanoBEIR."""
    eval_scale: ScaleText | None = None
    """Scale of the grades of the --eval collections, if it is not 0 to 3."""

    @field_validator("eval", mode="before")
    @classmethod
    def _collections_of_a_benchmark(cls, places: object) -> object:
        return expanded(places) if isinstance(places, list | tuple) else places


class MixOptions(MixRules, EvaluationSetOptions, CollectionOptions):
    """The texts and judgements of a dataset, and the rules that turn judgements into labels."""

    data: CollectionPlace
    """Collection with the texts: a folder in any layout that is read, or s3://, gs://, hf:// or irds:."""
    human: Address | None = None
    """Human grades: a labels folder, a qrels file, or an export of Argilla or Label Studio."""
    scale: ScaleText | None = None
    """Scale of the grades in the qrels file of --human, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each
    label, such as no=0,partly=1,yes=3. The original grade is kept beside the mapped one.
    """
    llm: tuple[Path, ...] = ()
    """Labels folder with judgments of language models. May be repeated."""
    weight: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """With --policy weighted: weight of a judge as JUDGE=WEIGHT, with its name or id, such as gpt-4o=2. Other judges
    have weight 1. May be repeated.
    """
    calibration: Path | None = None
    """File written by labelkit calibrate. Its calibrated judgments replace the judgments of its judges."""
    apply_anyway: bool = False
    """Apply a calibration even if its grades agreed with people less than the judge's own grades."""
    license: str | None = None
    """Licence of the texts. Default: the licence in dataset_info.json of the collection."""
    revision: str | None = None
    """Revision of the texts. Default: the revision in dataset_info.json of the collection."""
    verify: bool = True
    """Compare input folders with their checksums. --no-verify skips this, which saves time on large folders."""

    @field_validator("weight", mode="before")
    @classmethod
    def _typed_weights(cls, weight: object) -> object:
        typed = isinstance(weight, Iterable) and not isinstance(weight, dict)
        return dict(with_weight(str(text)) for text in weight) if typed else weight  # type: ignore[attr-defined]

    @property
    def sources(self) -> list[Path]:
        """The files and folders with judgements, human grades first."""
        return [*([self.human] if self.human else []), *self.llm]


AGAINST = {"lowest": "min", "mean": "avg"}
"""Value of `MineOptions.against` -> SQL aggregate over the scores of a query's positives."""


class Window(NamedTuple):
    """The first and the last rank, from 1, at which negatives are mined."""

    first: int
    last: int


class MineOptions(Options):
    """The retriever from whose ranking hard negatives are mined, and the rules that leave candidates out."""

    ranks: str
    """Ranks at which negatives are mined, as FIRST-LAST, such as 10-50. Known positives count in the ranks."""
    pool: Path | None = None
    """Pool folder whose ranking is mined."""
    retriever: str | None = None
    """With --pool: name of the retriever in the pool, such as bm25. Needed if the pool has several."""
    run: Path | None = None
    """TREC run that is mined."""
    model: str | None = None
    """Dense retriever that searches the corpus of the dataset: a sentence-transformers folder or Hub id."""
    trust_remote_code: bool = False
    """Allow a model to run its own Python code and to load pickle files. Only for models that you trust."""
    max_share: float | None = Field(default=None, ge=0, le=1)
    """Keep only candidates whose score is at most this share of the positive's score; 0.95 in arXiv 2407.15831.
    Needs a retriever whose scores are above 0.
    """
    against: str = "lowest"
    """Score of the positives to which --max-share and --judge-share refer: lowest or mean of the query's positives."""
    judge: Path | None = None
    """Labels folder of one judge, such as a reranker, that judged candidates and positives. Only candidates that it
    judged and that stay below --judge-share are kept.
    """
    judge_share: float = Field(default=0.95, ge=0, le=1)
    """With --judge: leave out candidates from this share of the positive's P(grade >= 2), score or grade."""
    max_negatives: int | None = Field(default=None, ge=1)
    """Add at most this many negatives per query, the highest ranks first."""
    draw: bool = False
    """With --max-negatives: draw the negatives of a query at random from all candidates that the rules keep."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of --draw."""
    verify: bool = True
    """Compare input folders with their checksums. --no-verify skips this, which saves time on large folders."""

    @field_validator("ranks")
    @classmethod
    def _a_window(cls, ranks: str) -> str:
        found = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", ranks.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--ranks {ranks}: expected FIRST-LAST with 1 <= FIRST <= LAST, such as 10-50")
        return ranks.strip()

    @model_validator(mode="after")
    def _one_ranking(self) -> Self:
        if sum(place is not None for place in (self.pool, self.run, self.model)) != 1:
            raise UsageError("give one ranking to mine: --pool POOL, --run FILE or --model MODEL")
        if self.retriever is not None and self.pool is None:
            raise UsageError("--retriever names a retriever of --pool; give --pool, or leave it out")
        if self.draw and self.max_negatives is None:
            raise UsageError("--draw draws the negatives that --max-negatives allows: give --max-negatives, too")
        if self.against not in AGAINST:
            raise UnknownNameError("score of the positives", self.against, AGAINST)
        return self

    @property
    def window(self) -> Window:
        """The ranks at which negatives are mined."""
        first, _, last = self.ranks.partition("-")
        return Window(int(first), int(last))

    @property
    def rules(self) -> dict[str, Any]:
        """The given options that decide which negatives are mined, as the manifest of a dataset stores them."""
        given = self.model_dump(mode="json", exclude_defaults=True, exclude={"trust_remote_code", "verify"})
        return {"against": self.against} | given


class AuditOptions(EvaluationSetOptions, ColumnOptions):
    """Evaluation sets and models that a dataset is compared with."""

    model: tuple[str, ...] = ()
    """Retriever that will be trained or evaluated with the dataset, to find judges of the same model family. May be
    repeated.
    """
    verify: bool = True
    """Compare input folders with their checksums. --no-verify skips this, which saves time on large folders."""


class ShowOptions(Options):
    """The query or pair whose labels are shown."""

    query: str
    """Id of the query to show."""
    passage: str | None = None
    """Id of a passage: show only the label of this passage."""


class ReplayOptions(Options):
    """The sample of labels to replay, and the places of their texts and tokenizer."""

    sample: int = Field(default=100, ge=1)
    """Number of randomly chosen labels to replay."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the random choice of labels."""
    pool: Path | None = None
    """Pool folder that was judged, if it has moved since annotate."""
    tokenizer: str | None = None
    """Tokenizer of the judge, if it has moved since annotate: tokenizer.json, its folder or a Hub id."""


def with_weight(text: str) -> tuple[str, float]:
    """Split `JUDGE=WEIGHT` into the judge and its weight. Raises `UsageError` for any other text."""
    name, _, weight = text.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not name or not 0 < value < math.inf:
        raise UsageError(f"--weight {text}: expected JUDGE=WEIGHT with a weight above 0, such as gpt-4o=2")
    return name, value
