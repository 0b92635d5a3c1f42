"""Options of `labelkit mix`, `audit`, `show` and `replay`."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from labelkit.errors import UsageError
from labelkit.options import SEEDS, Address, Options


class MixRules(Options):
    """Thresholds by which judgements become labels, and the labels that a query keeps."""

    policy: str = "human-first"
    """How the judgements of a pair become its label."""
    positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest human grade that makes a positive; 1 for binary qrels."""
    by: str = "probability"
    """Compare LLM labels with the thresholds by probability (by grade where there is none) or by grade."""
    llm_positive: float = Field(default=0.7, ge=0.5, le=1)
    """P(grade >= 2) from which an LLM label is positive."""
    llm_negative: float = Field(default=0.3, ge=0, le=0.5)
    """P(grade >= 2) up to which an LLM label is negative; between the two thresholds it is unsure."""
    llm_positive_grade: int = Field(default=2, ge=1, le=3)
    """Grade from which an LLM label is positive, by grade and for labels without probabilities."""
    llm_negative_grade: int = Field(default=0, ge=0, le=2)
    """Grade up to which an LLM label is negative. 1 is "related, no answer", which an LLM says of positives and
    negatives alike.
    """
    agree: int = Field(default=2, ge=1)
    """Policy agreement: judges that must agree."""
    human_fraction: float = Field(default=1.0, ge=0, le=1)
    """Use human labels for this share of the queries that have any."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the draw of the queries whose human labels are used."""
    max_positives: int | None = Field(default=None, ge=1)
    """Keep at most this many positives per query, best first; the others are ignored."""
    max_negatives: int | None = Field(default=None, ge=1)
    """Keep at most this many negatives per query, those of the highest grade first."""
    drop: tuple[str, ...] = ()
    """Finding of the audit whose labels are ignored and whose queries are left out; may be repeated."""
    allow_leaks: bool = False
    """Continue although training queries repeat queries of --eval."""

    @field_validator("drop")
    @classmethod
    def _in_one_order(cls, drop: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(drop)))

    @property
    def rules(self) -> dict[str, Any]:
        """The rules alone, as the manifest of a dataset keeps them."""
        return {name: getattr(self, name) for name in MixRules.model_fields}


class MixOptions(MixRules):
    """The judgements of a dataset, and the rules by which they become labels."""

    data: Address
    """BEIR folder with the texts."""
    human: Path | None = None
    """Human qrels, or a labels folder of people's grades."""
    llm: tuple[Path, ...] = ()
    """Labels folder; may be repeated."""
    weight: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Policy weighted: JUDGE=WEIGHT, by name or id, such as gpt-4o=2; 1 for all others."""
    calibration: Path | None = None
    """File of `labelkit calibrate`: its probabilities replace those of its judges."""
    apply_anyway: bool = False
    """Apply a calibration although it agreed with people less than its judge."""
    eval: tuple[Path, ...] = ()
    """BEIR folder that training must not know; may be repeated."""
    eval_split: str = "test"
    """Split of the --eval folders."""
    license: str | None = None
    """License of the texts; default: from dataset_info.json in the BEIR folder."""
    revision: str | None = None
    """Revision of the texts; default: from dataset_info.json in the BEIR folder."""
    verify: bool = True
    """Check input folders byte for byte; --no-verify skips it, for huge ones."""

    @field_validator("weight", mode="before")
    @classmethod
    def _typed_weights(cls, weight: object) -> object:
        typed = isinstance(weight, Iterable) and not isinstance(weight, dict)
        return dict(with_weight(str(text)) for text in weight) if typed else weight  # type: ignore[attr-defined]

    @property
    def sources(self) -> list[Path]:
        """The sources of judgements, people first."""
        return [*([self.human] if self.human else []), *self.llm]


class AuditOptions(Options):
    """What a dataset is held against."""

    eval: tuple[Path, ...] = ()
    """BEIR folder that training must not know; may be repeated."""
    eval_split: str = "test"
    """Split of the --eval folders."""
    model: tuple[str, ...] = ()
    """Retriever that is to be trained or measured; may be repeated."""
    verify: bool = True
    """Check input folders byte for byte; --no-verify skips it, for huge ones."""


class ShowOptions(Options):
    """The labels that are shown."""

    query: str
    """Id of a query."""
    passage: str | None = None
    """Id of a passage of the query: show its label alone."""


class ReplayOptions(Options):
    """The labels that are replayed, and where their texts are."""

    sample: int = Field(default=100, ge=1)
    """Labels to replay, drawn at random."""
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the draw of labels."""
    pool: Path | None = None
    """Pool of a labels folder, if not where it was when they were made."""
    tokenizer: str | None = None
    """tokenizer.json, its folder or Hub id, if not where it was when they were made."""


def with_weight(text: str) -> tuple[str, float]:
    """The two parts of `JUDGE=WEIGHT`."""
    name, _, weight = text.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not name or not 0 < value < math.inf:
        raise UsageError(f"--weight {text}: expected JUDGE=WEIGHT with a weight above 0, such as gpt-4o=2")
    return name, value
