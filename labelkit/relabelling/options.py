"""Options of `labelkit relabel`."""

from typing import Any, Self

from pydantic import Field, model_validator

from labelkit.corpora.scales import ScaleText
from labelkit.datasets.options import MixRules
from labelkit.datasets.policies import policy_named
from labelkit.options import Options


class RelabelOptions(Options):
    """The labels of a training set that are judged, and the thresholds from which a judgment changes a label."""

    positives: bool = False
    """Judge positives, too. A positive that is judged irrelevant is ignored. Default: negatives only."""
    overturn_human: bool = False
    """Judge labels by people, too, and change them as other labels. Default: labels by people are not changed."""
    by: str = "probability"
    """Value of a judgment that is compared with the thresholds: probability, or grade. Without a probability the grade
    is compared.
    """
    llm_positive: float = Field(default=0.7, ge=0.5, le=1)
    """Lowest P(grade >= 2) of a relevant passage: a negative from this value becomes a positive."""
    llm_negative: float = Field(default=0.3, ge=0, le=0.5)
    """Highest P(grade >= 2) of an irrelevant passage: a negative above this value is ignored, a positive up to it is
    ignored with --positives.
    """
    llm_positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest grade of a relevant passage, with --by grade and for judgments without probabilities."""
    llm_negative_grade: int = Field(default=0, ge=0, le=2)
    """Highest grade of an irrelevant passage, with --by grade and for judgments without probabilities."""
    format: str | None = None
    """Format of files of another tool: tevatron, tevatron-classic, dpr, flag-embedding, st-triplet, st-ntuple or
    st-labeled-list. Default: recognised by the files.
    """
    split: str | None = None
    """Split of files of another tool, such as train, if there are several."""
    positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest grade of a positive in st-labeled-list; use 1 for labels 0 and 1."""
    scale: ScaleText | None = None
    """Scale of the labels in st-labeled-list, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3.
    """

    @model_validator(mode="after")
    def _possible_thresholds(self) -> Self:
        policy_named(self.thresholds)
        return self

    @property
    def thresholds(self) -> MixRules:
        """The thresholds as rules of a mix."""
        names = ("by", "llm_positive", "llm_negative", "llm_positive_grade", "llm_negative_grade")
        return MixRules(**{name: getattr(self, name) for name in names})

    @property
    def judged(self) -> dict[str, Any]:
        """The options that decide which pairs are judged, as the manifest of a pool stores them."""
        return self.model_dump(mode="json", exclude=set(MixRules.model_fields) - {"positive_grade"})

    @property
    def rules(self) -> dict[str, Any]:
        """The options that decide which labels change, as the manifest of a dataset stores them."""
        return self.model_dump(mode="json", exclude={"format", "split", "positive_grade", "scale"})
