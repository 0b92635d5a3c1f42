"""Read and check the manifests of folders, including the facts that each kind of folder adds.

A copied folder comes from outside, so a manifest is checked whenever it is read: its types, its checksum, and the files
that a folder of its kind must have.
"""

import hashlib
import json
from collections.abc import Mapping
from fnmatch import filter as matching
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from labelkit.errors import ArtifactError
from labelkit.records import SCHEMA_VERSION
from labelkit.storage.names import inside

MANIFEST = "manifest.json"
AUDIT = "audit.json"
"""File with the findings of `labelkit audit` and the sha256 of the audited manifest."""
AGAIN = "run the command that made the folder again"


class Facts(BaseModel):
    """Counts and settings of a folder in addition to its rows. Unknown keys are kept unchanged."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    def as_json(self) -> dict[str, Any]:
        """Return the given facts as plain JSON, in the order of the fields."""
        document: dict[str, Any] = json.loads(json.dumps(self.model_dump(exclude_unset=True)))
        return document


class PoolFacts(Facts):
    """Facts of `labelkit pool`, or of `labelkit select`."""

    recipe: tuple[str, ...] = ()
    bm25: Mapping[str, str] = {}
    """Formula, tokenizer, stop words and stemmer of BM25; empty without BM25."""
    encoders: Mapping[str, str] = {}
    """Dense model of the Hub -> its commit."""
    queries_without_candidates: int = 0
    chosen: Mapping[str, int] = {}
    """Reason -> number of pairs that `labelkit select` chose for it."""
    of: int = 0
    """Number of judged pairs from which `labelkit select` chose."""
    relabel: Mapping[str, Any] = {}
    """Options by which `labelkit relabel` chose the pairs, and numbers of the labels that it left out."""


class ReviewFacts(Facts):
    """Facts about the pairs that an annotator was asked to grade."""

    by: str = ""
    unit: str = ""
    """Pairs shown together: pair, or query for all judged passages of a query."""
    seed: int = 0
    pairs: int = 0
    of: int = 0
    team: tuple[str, ...] = ()
    """Names of the annotators who share the pairs; empty for one annotator."""
    overlap: float = 0.0
    """Share of the pairs that every annotator of the team grades."""


class LabelsFacts(Facts):
    """Facts of `labelkit annotate` and `labelkit review`; imported labels have none."""

    passage_tokens: int | None = None
    passage_words: int | None = None
    """Length to which passages were cut, in tokens or in words."""
    cut_passages: int = 0
    stripped_passages: int = 0
    permutations: int = 1
    queries_in_windows: int = 0
    most_windows: int = 0
    votes: int = 1
    thinking_tokens: int = 0
    """Token limit of the reasoning before an answer."""
    sent: Mapping[str, Mapping[str, str | int]] = {}
    """Id of a judge -> options of its requests that are not the default, because its server refuses the default."""
    review: ReviewFacts | None = None
    failures: Mapping[str, int] = {}
    """Kind of reason -> number of pairs without a grade."""
    pending: int = 0
    """Number of pairs left unjudged because of the caps."""
    without_score: int = 0
    """Number of pairs with a grade but no score."""
    without_grade: int = 0
    """Number of pairs with a reranker's score but no grade."""
    rerankers: Mapping[str, str] = {}
    """Id of a judge that is a reranker -> family of its model, `unknown` if its name tells none."""
    journal: str = ""
    """State of the journal from which the tables were written, so that they are not written again without a reason."""


class Source(Facts):
    """Origin of the texts of a dataset; fields are None if unknown."""

    licence: str | None = None
    revision: str | None = None


class DatasetFacts(Facts):
    """Facts of `labelkit mix`, or of an imported dataset."""

    format: str | None = None
    positive_grade: int | None = None
    rules: Mapping[str, Any] = {}
    """Fields of `labelkit.datasets.policies.MixRules`."""
    weights: Mapping[str, float] = {}
    calibrated_judges: tuple[str, ...] = ()
    rerankers: Mapping[str, str] = {}
    """As in `LabelsFacts`."""
    scored_by: str | None = None
    """Id of the judge whose raw scores are the scores of all labels; None if each label has its own judge's score."""
    source: Source | None = None
    queries: int = 0
    queries_without_positives: int = 0
    positives: int = 0
    negatives: int = 0
    on_both_sides: int = 0
    ignored: int = 0
    conflicts: int = 0
    conflicts_between: Mapping[str, int] = {}
    judged_by_both: int = 0
    failed_judgements: int = 0
    positives_per_query: Mapping[str, float] = {}
    human_queries_set_aside: int = 0
    dropped: Mapping[str, int] = {}
    leaked_queries: int = 0
    mined: tuple[Mapping[str, Any], ...] = ()
    """Retriever, rules and counts of each run of `labelkit mine`."""
    relabelled: tuple[Mapping[str, Any], ...] = ()
    """Judges, rules and counts of each run of `labelkit relabel`."""

    @property
    def licence(self) -> str | None:
        """Licence of the texts; None if unknown."""
        return self.source.licence if self.source else None


class ExportFacts(Facts):
    """Facts of `labelkit export`."""

    format: str = ""
    lacks: tuple[str, ...] = ()
    left_out: Mapping[str, int] = {}
    dataset: DatasetFacts = DatasetFacts()
    relabelled: Mapping[str, Any] = {}
    """Judges, rules and counts of `labelkit relabel`, which wrote the files."""


class DataFacts(Facts):
    """Facts of `labelkit tidy`: file -> number of lines set aside."""

    set_aside: Mapping[str, int] = {}


class CorpusFacts(Facts):
    """Facts of `labelkit corpus`."""

    max_tokens: int = 0
    tokenizer: str | None = None
    """Tokenizer as the user named it; None for the counts without a tokenizer."""
    tokenizer_sha256: str | None = None
    converters: Mapping[str, str] = {}
    """Package that converts or splits documents -> its version."""
    documents: Mapping[str, int] = {}
    """Ending of the file name -> number of documents with passages."""
    left_out: Mapping[str, int] = {}
    """Kind of reason -> number of documents without passages."""
    skipped: Mapping[str, int] = {}
    """Kind of file that is no document -> number of such files."""
    repeated: Mapping[str, int] = {}
    """Exact, normalised or near -> number of passages that were left out because they repeat another passage."""


class QueriesFacts(Facts):
    """Facts of `labelkit queries`. A model's queries and grades are never called human."""

    queries_by: str = ""
    """Origin of the queries: llm for a model, log for a log of queries that people typed."""
    grades_by: str | None = None
    """Origin of the grades: llm for a judge; None if there are no grades."""
    models: Mapping[str, tuple[str, ...]] = {}
    """`writer` and `judge` -> names of the models, each as asked for and as the engine states it."""
    same_model: bool = False
    """Whether one model wrote and graded the queries."""
    registers: Mapping[str, Mapping[str, Any]] = {}
    """Register -> its share, the name and sha256 of its prompt, and its limit of word overlap."""
    settings: Mapping[str, Any] = {}
    """Options that decide which queries are written and kept."""
    retrievers: Mapping[str, Mapping[str, str] | str] = {}
    """Settings of BM25, and the commit of each dense model."""
    passages: int = 0
    """Number of passages for which queries were written."""
    left_out: Mapping[str, int] = {}
    """Reason -> number of passages, or of lines of a log, that were left out."""
    written: Mapping[str, int] = {}
    """Register -> number of queries that were asked for."""
    kept: Mapping[str, int] = {}
    """Register -> number of queries in the folder."""
    dropped: Mapping[str, Mapping[str, int]] = {}
    """Register -> reason -> number of queries that were dropped."""


class SplitFacts(Facts):
    """Facts of `labelkit split`."""

    by: str = ""
    shares: Mapping[str, float] = {}
    queries: Mapping[str, int] = {}
    """Split -> number of queries."""
    pairs: Mapping[str, int] = {}
    """Split -> number of judged pairs."""
    groups: int = 0
    """Number of groups of queries that are in one split."""
    near_duplicates: int = 0
    """Number of queries that are near-duplicates of an earlier query."""
    without_grades: int = 0


class ModelFacts(Facts):
    """Facts of `trainer fit`: configuration, versions of packages, a report per stage, and the evaluation."""

    config: Mapping[str, Any] = {}
    packages: Mapping[str, str] = {}
    stages: tuple[Mapping[str, Any], ...] = ()
    evaluation: Mapping[str, Any] | None = None


class JudgeFacts(Facts):
    """Facts of `labelkit distil`: provenance of a judge that was trained on the labels of other judges."""

    judge_id: str = ""
    """Id of the judge in labels that it makes with this method and reading."""
    method: str = ""
    reading: str | None = None
    taught_by: tuple[Mapping[str, Any], ...] = ()
    """Judges whose labels are in the dataset: id, name, kind, revision."""
    trained_on: Mapping[str, int] = {}
    """Numbers of queries, positives and negatives, without the held-out queries."""
    training: Mapping[str, Any] = {}
    """All settings of the training."""
    packages: Mapping[str, str] = {}
    gate: Mapping[str, Any] = {}
    """Rule and result of the gate, agreement of judge and teacher with people, quantiles of the judge's confidence."""


class SuspectsFacts(Facts):
    """Facts of `trainer suspects`."""

    config: Mapping[str, Any] = {}
    folds: int = 0


F = TypeVar("F", bound=Facts)


class Kind(str, Generic[F]):
    """The name of a kind of folder, with the class of its facts, patterns of the files that it must have, and names of
    files that later commands add to the folder and that can be made again with it.
    """

    facts: type[F]
    files: tuple[str, ...]
    added: tuple[str, ...]

    def __new__(cls, name: str, facts: type[F], files: tuple[str, ...] = (), *, added: tuple[str, ...] = ()) -> Self:
        """Make a kind of folder from its name, facts and file patterns."""
        kind = super().__new__(cls, name)
        kind.facts, kind.files, kind.added = facts, files, added
        return kind


POOL = Kind("pool", PoolFacts, ("candidates.parquet", "queries.parquet", "passages.parquet"))
LABELS = Kind("labels", LabelsFacts, ("judgements.parquet", "judges.parquet"))
DATASET = Kind(
    "dataset",
    DatasetFacts,
    ("train.parquet", "corpus.parquet", "queries.parquet", "judgements.parquet", "judges.parquet"),
    added=(AUDIT,),
)
EXPORT = Kind("export", ExportFacts, ("README.md",))
DATA = Kind("data", DataFacts, ("corpus.jsonl", "queries.jsonl", "set_aside.jsonl"))
CORPUS = Kind("corpus", CorpusFacts, ("corpus.jsonl", "sources.jsonl", "repeated.jsonl", "left_out.jsonl"))
QUERIES = Kind("queries", QueriesFacts, ("corpus.jsonl", "queries.jsonl", "dropped.jsonl"))
SPLIT = Kind("split", SplitFacts, ("corpus.jsonl", "queries.jsonl", "splits.tsv"))
MODEL = Kind("model", ModelFacts, ("*.safetensors",))
JUDGE = Kind("judge", JudgeFacts, ("calibration.json", "model/*.safetensors"))
SUSPECTS = Kind("suspects", SuspectsFacts, ("suspects.tsv", "suspects.run"))
CHECKPOINT = Kind("checkpoint", Facts, ("weights.safetensors", "trainer_state.json"))
TOKENS = Kind("tokens", Facts, ("tokens.arrow",))
KINDS: dict[str, Kind[Any]] = {
    kind: kind
    for kind in (
        *(POOL, LABELS, DATASET, EXPORT, DATA, CORPUS, QUERIES, SPLIT, MODEL, JUDGE, SUSPECTS),
        *(CHECKPOINT, TOKENS),
    )
}


def kind_named(name: str) -> Kind[Any]:
    """Return the kind of folder by its name; an unknown kind may have any facts and needs no files."""
    return KINDS.get(name) or Kind(name, Facts)


class Manifest(BaseModel, Generic[F]):
    """The content of a folder's `manifest.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int
    kind: str
    command: str
    """Command that made the folder."""
    labelkit_version: str
    inputs: Mapping[str, str]
    """Path or name of an input from which the folder was made -> sha256."""
    rows: Mapping[str, int]
    """Table or file -> number of rows."""
    facts: F
    files: Mapping[str, str]
    """Path inside the folder -> sha256."""
    sha256: str = ""
    """`document_sha256` of the manifest."""

    def as_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON, in the order of a manifest file."""
        return self.model_dump() | {"facts": self.facts.as_json()}

    def sealed(self) -> Self:
        """Return the manifest with its own checksum."""
        return self.model_copy(update={"sha256": document_sha256(self.as_json())})

    def as_text(self) -> str:
        """Return the manifest as the text of a manifest file."""
        return json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n"


def document_sha256(document: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest as plain JSON, without its field `sha256`."""
    rest = {name: value for name, value in document.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def parse_manifest(path: Path) -> Manifest[Any]:
    """Read and check a manifest file. Raises `ArtifactError` with the first fault on one line."""
    try:
        content = path.read_bytes()
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); {AGAIN}") from None
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise ArtifactError(f"{path} is not a manifest of labelkit; {AGAIN}")
    if "sha256" not in document:
        raise ArtifactError(f"{path} was written by an earlier release; {AGAIN}")
    folder, found = path.parent, document.get("schema_version")
    if found != SCHEMA_VERSION:
        raise ArtifactError(f"{folder} has schema version {found!r}; this labelkit reads {SCHEMA_VERSION}")
    kind = kind_named(document["kind"])
    try:
        manifest: Manifest[Any] = Manifest[kind.facts].model_validate_json(content)  # type: ignore[name-defined]
    except ValidationError as error:
        raise ArtifactError(f"{path} is not a manifest of labelkit ({first_fault(error)}); {AGAIN}") from None
    for name in manifest.files:
        inside(folder, name)
    if manifest.sha256 != document_sha256(document):
        raise ArtifactError(f"{path} changed since it was written; {AGAIN}")
    if lost := missing_files(manifest, kind):
        raise ArtifactError(f"{path} lists no {lost}, which every folder with a {kind} has; {AGAIN}")
    return manifest


def first_fault(error: ValidationError) -> str:
    """Return the place and the reason of the first validation error."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, fault["loc"]))
    return f"{place if place.isprintable() else ascii(place)}: {fault['msg']}"


def missing_files(manifest: Manifest[Any], kind: Kind[Any]) -> str:
    """Return the first file that a manifest should list and does not; empty if it lists all."""
    names = list(manifest.files)
    wanted = (pattern for pattern in kind.files if not matching(names, pattern))
    counted = {*names, *(Path(name).stem for name in names if "/" not in name)}
    return next(wanted, None) or next((f"file of {name!r}" for name in manifest.rows if name not in counted), "")
