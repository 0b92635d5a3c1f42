"""Define the records that pass through labelkit, and their Arrow schemas.

Queries and passages become `Candidate`s (pool), candidates become `Judgement`s (annotate, import), judgements become
`Example`s (mix). Each record is frozen and has one writer; a human label is a `Judgement` whose `Judge` is human.
"""

from typing import Final, Literal, NamedTuple, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1
MAX_GRADE = 3
"""Highest grade. Grades are 0 (unrelated), 1 (related, no answer), 2 (partial answer) and 3 (exact answer)."""


class Record(BaseModel):
    """Base of all records: frozen, without unknown fields, and without numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Query(Record):
    query_id: str
    text: str


class Passage(Record):
    passage_id: str
    title: str
    text: str

    @property
    def full_text(self) -> str:
        """Title and text as judges and encoders read them, with one space between them (the BEIR convention)."""
        return full_text(self.title, self.text)


def full_text(title: str, text: str) -> str:
    """Return title and text as one text, with one space between them."""
    return f"{title} {text}".strip()


class Origin(NamedTuple):
    """A source of a candidate: the name of a retriever, run or qrels, and its rank (from 1) and score there."""

    name: str
    rank: int
    score: float


class Candidate(Record):
    """A pair worth judging, with all sources that found it."""

    query_id: str
    passage_id: str
    sources: tuple[Origin, ...]


PairIds = tuple[str, str]
"""Query id and passage id."""


RERANK = "rerank"
"""Method of a judge that gives raw scores without grades."""
CALIBRATED = "calibrated"
"""Method of a judge that a calibration made from other judges; its scores are expected grades."""
CALIBRATED_RERANK = "calibrated-rerank"
"""Method of a judge that a calibration made from one reranker alone; its scores are the reranker's raw scores."""

RERANKERS = (RERANK, CALIBRATED_RERANK)
"""Methods of judges whose scores are the raw scores of one reranker."""


class Judge(Record):
    """The judge of a judgement, in enough detail to repeat it. `judge_id` is derived from the other fields."""

    judge_id: str
    kind: Literal["human", "llm", "imported"]
    name: str
    """Name of the judge for readers: the requested model, or the name given at import."""
    family: str | None = None
    """Families of the model by its name or configuration, such as `Qwen`; None if they are unknown."""
    model_answered: str | None = None
    """Model that the engine states to have run; None if it states none."""
    revision: str | None = None
    """Commit of the weights on the Hub, or the sha256 over configuration, tokenizer and weights of a local folder."""
    engine: str | None = None
    engine_version: str | None = None
    dtype: str | None = None
    chat_template_sha256: str | None = None
    method: str | None = None
    prompt_name: str | None = None
    prompt_version: str | None = None
    prompt_sha256: str | None = None
    label_grades: tuple[int, ...] | None = None
    """Grade of each label of the prompt, in the order of a judgement's `probs`."""
    scale: str | None = None
    """Mapping from the judge's own grades to 0 to 3, such as `1=0,2=1,3=3`; None if its grades are 0 to 3."""
    decoding: str | None = None
    """Decoding parameters as canonical JSON."""
    seed: int | None = None
    reading: str | None = None
    """Cutting of passages and tokenizer as canonical JSON; from the last run if runs differ."""


class Judgement(Record):
    """The judgement of one judge on one pair: a grade, or a reranker's score without a grade, or a failure."""

    query_id: str
    passage_id: str
    judge_id: str
    grade: int | None = None
    raw_grade: str | None = None
    """Grade or label as the judge gave it, if its scale is not 0 to 3."""
    score: float | None = None
    """Expected grade (graded, 0 to 3), log-odds of yes (binary, natural logarithm), or a reranker's raw score."""
    probs: tuple[float, ...] | None = None
    """Probabilities over the prompt's labels, in the prompt's order, renormalised to sum to 1."""
    label_mass: float | None = None
    """Total probability of all labels before it was renormalised, from 0 to 1."""
    failure: str | None = None
    """Reason for a missing answer; None if there is a grade or a score."""
    position: int | None = None
    permutation_seed: int | None = None
    reply_ref: str | None = None
    """Key of the reply in the journal."""
    tokens: int | None = None
    """Prompt and completion tokens that the engine counted for this pair."""
    cost: float | None = None
    """US dollars for this pair; None if no price is known."""

    @property
    def rank_score(self) -> float:
        """Score for ranking judgements: the judge's score, else its grade; 0 for a failure."""
        return self.score if self.score is not None else float(self.grade or 0)

    @property
    def score_only(self) -> bool:
        """Whether the judgement has a score from which `labelkit calibrate` must first make a grade."""
        return self.failure is None and self.grade is None

    @model_validator(mode="after")
    def _answer_or_failure(self) -> Self:
        answered = self.grade is not None or (self.score is not None and self.failure is None)
        if answered == (self.failure is not None):
            raise ValueError("a judgement needs either a grade, or a score without a grade, or a failure")
        if self.grade is not None and not 0 <= self.grade <= MAX_GRADE:
            raise ValueError(f"grade {self.grade} is outside 0..{MAX_GRADE}")
        return self


class JudgementRow(NamedTuple):
    """A judgement as a row of a table, in the order of the columns of `JUDGEMENT_SCHEMA`.

    It is made where a judge's verdicts are computed, millions at a time, so that it is not validated.
    """

    query_id: str
    passage_id: str
    judge_id: str
    grade: int | None
    raw_grade: str | None
    score: float | None
    probs: tuple[float, ...] | None
    label_mass: float | None
    failure: str | None
    position: int | None
    permutation_seed: int | None
    reply_ref: str | None
    tokens: int | None
    cost: float | None

    @property
    def score_only(self) -> bool:
        """Whether the judgement has a score from which `labelkit calibrate` must first make a grade."""
        return self.failure is None and self.grade is None


class Label(Record):
    """The label of one passage of an example: its grade and the source of the grade."""

    passage_id: str
    grade: int | None
    """Grade of the pair; None if the judge failed on it or the pair is unjudged."""
    source: Literal["human", "llm", "imported", "mined"]
    """Kind of the judge, or `mined` for an unjudged negative that a retriever found."""
    judge_id: str
    """Id of the judge; for a mined negative, `mined-` and the name of the retriever."""
    weight: float = Field(default=1.0, gt=0)
    probability: float | None = None
    """Probability that the passage is relevant; None if the judge gave none."""
    score: float | None = None
    """Score of the judge or reranker on its own scale, such as a logit; None if it gave none."""


class Example(Record):
    """A query with its labelled passages. Ignored pairs are neither positives nor negatives."""

    query_id: str
    query: str
    positives: tuple[Label, ...]
    negatives: tuple[Label, ...]
    ignored: tuple[Label, ...]


LABEL_COLUMNS = {
    "ids": ("passage_id", pa.string()),
    "grades": ("grade", pa.int8()),
    "sources": ("source", pa.string()),
    "judges": ("judge_id", pa.string()),
    "weights": ("weight", pa.float32()),
    "probabilities": ("probability", pa.float32()),
    "scores": ("score", pa.float64()),
}
"""Suffix of the parallel list columns of an example -> (field of `Label`, Arrow type of an element)."""

ROLES = {"positive": "positives", "negative": "negatives", "ignored": "ignored"}
"""Prefix of the parallel list columns of an example -> field of `Example`."""

QUERY_SCHEMA = pa.schema([("query_id", pa.string()), ("text", pa.string())])
PASSAGE_SCHEMA = pa.schema([("passage_id", pa.string()), ("title", pa.string()), ("text", pa.string())])
CANDIDATE_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("passage_id", pa.string()),
        (
            "sources",
            pa.list_(pa.struct([("name", pa.string()), ("rank", pa.int32()), ("score", pa.float64())])),
        ),
    ]
)
JUDGE_TYPES = {"seed": pa.int64(), "label_grades": pa.list_(pa.int8())}
JUDGE_SCHEMA = pa.schema([(name, JUDGE_TYPES.get(name, pa.string())) for name in Judge.model_fields])
JUDGEMENT_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("passage_id", pa.string()),
        ("judge_id", pa.string()),
        ("grade", pa.int8()),
        ("raw_grade", pa.string()),
        ("score", pa.float64()),
        ("probs", pa.list_(pa.float64())),
        ("label_mass", pa.float64()),
        ("failure", pa.string()),
        ("position", pa.int32()),
        ("permutation_seed", pa.int64()),
        ("reply_ref", pa.string()),
        ("tokens", pa.int64()),
        ("cost", pa.float64()),
    ]
)
EXAMPLE_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("query", pa.string())]
    + [
        (f"{role}_{suffix}", pa.list_(arrow_type))
        for role in ROLES
        for suffix, (_, arrow_type) in LABEL_COLUMNS.items()
    ]
)
MINED: Final = "mined"
"""Source of a negative that `labelkit mine` added, and name of the table with the ranks of these negatives."""
MINED_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("passage_id", pa.string()),
        ("judge_id", pa.string()),
        ("retriever", pa.string()),
        ("revision", pa.string()),
        ("rank", pa.int32()),
        ("score", pa.float64()),
        ("positive_score", pa.float64()),
        ("filter_judge_id", pa.string()),
        ("filter_value", pa.float64()),
        ("filter_positive_value", pa.float64()),
    ]
)
"""Schema of the origin of mined negatives: the retriever with its rank and score, and the judge that filtered them.

`positive_score` and `filter_positive_value` are the lowest or mean values of the query's positives; NULL if unknown.
"""
RELABELLED: Final = "relabelled"
"""Name of the table with the labels that `labelkit relabel` changed."""
RELABELLED_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("passage_id", pa.string()),
        ("run", pa.int32()),
        ("action", pa.string()),
        ("rule", pa.string()),
        ("judge_id", pa.string()),
        ("grade", pa.int8()),
        ("probability", pa.float32()),
        ("score", pa.float64()),
        ("old_role", pa.string()),
        ("old_source", pa.string()),
        ("old_judge_id", pa.string()),
        ("old_grade", pa.int8()),
        ("old_probability", pa.float32()),
        ("old_score", pa.float64()),
        ("old_weight", pa.float32()),
    ]
)
"""Schema of the changed labels: the judgment and the rule that changed a label, and the label before.

`run` counts the runs of `relabel` from 1; `action` is promote (to a positive) or ignore.
"""
PROMPT_SCHEMA = pa.schema([("prompt_sha256", pa.string()), ("content", pa.string())])
"""Schema of the judges' prompts: the content of their files."""
REPLY_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("reply", pa.string()),
        ("tries", pa.int32()),
        ("tokens", pa.int64()),
        ("cost", pa.float64()),
        ("answered_at", pa.string()),
    ]
)
"""Schema of the replies behind judgements, by the key in the judgements: the last reply to each request as JSON, the
number of replies, their total cost in tokens and US dollars, and the time of the last one (UTC).
"""
