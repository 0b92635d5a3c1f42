"""Classes that the writers and readers of all formats share.

Writers stream a dataset folder and look passages up on disk. Readers collect the contents of a file into the records of
a dataset.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from labelkit.corpora.scales import read_scale
from labelkit.errors import ArtifactError, DataError
from labelkit.records import PASSAGE_SCHEMA, Example, Judge, Judgement, Label, Passage, Query
from labelkit.storage import folders

BATCH = 1 << 14
"""Number of rows in memory at once while a table is read."""


class Written(NamedTuple):
    """The result of a writer."""

    rows: dict[str, int]
    """File -> number of rows."""
    left_out: dict[str, int]
    """Kind of item that the format could not store -> number of items in this dataset."""


class ExportedLabel(NamedTuple):
    """A label as the writers read it."""

    passage_id: str
    grade: int | None
    probability: float | None
    score: float | None
    """On the scale of the judge."""


class LabelledQuery(NamedTuple):
    """A query with its labels as (passage id, grade, probability, score), in the dataset's order."""

    query_id: str
    query: str
    positives: list[ExportedLabel]
    negatives: list[ExportedLabel]
    ignored: int
    """Number of ignored passages."""


class View:
    """A dataset folder for writers: tables are read in batches, passages by id from disk. Open it with `with`."""

    def __init__(self, folder: Path, scratch: Path, *, raw: bool = False) -> None:
        self.folder = folder
        self.raw = raw
        """Whether the scores of the labels are the raw scores of one reranker."""
        self._scratch = scratch
        self._places: dict[str, int] = {}
        self._texts: list[tuple[pa.Array, pa.Array]] = []

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(dir=self._scratch, prefix=".corpus-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._texts.clear()
        self._temporary.cleanup()

    def batches(self, table: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield batches of rows of a table of the dataset."""
        path = self.folder / f"{table}.parquet"
        try:
            with pq.ParquetFile(path.absolute(), page_checksum_verification=True) as file:
                yield from file.iter_batches(batch_size=BATCH, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from None

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table of the dataset."""
        for batch in self.batches(table):
            yield from batch.to_pylist()

    def groups(self) -> Iterator[LabelledQuery]:
        """Yield every query with its labels."""
        suffixes = ("ids", "grades", "probabilities", "scores")
        names = [f"{role}_{suffix}" for role in ("positive", "negative") for suffix in suffixes]
        there = set(self._columns("train"))  # datasets of earlier versions have no scores
        for batch in self.batches(
            "train", [name for name in ("query_id", "query", *names, "ignored_ids") if name in there]
        ):
            columns = {name: batch.column(name).to_pylist() for name in ("query_id", "query", *names) if name in there}
            ignored = batch.column("ignored_ids").value_lengths().to_pylist()
            for row in range(batch.num_rows):
                sides = [
                    [
                        ExportedLabel(*values)
                        for values in zip(
                            *(columns[f"{role}_{suffix}"][row] for suffix in suffixes[:3]),
                            columns[f"{role}_scores"][row] if f"{role}_scores" in there else repeat(None),
                            strict=f"{role}_scores" in there,
                        )
                    ]
                    for role in ("positive", "negative")
                ]
                yield LabelledQuery(
                    columns["query_id"][row], columns["query"][row], sides[0], negatives=sides[1], ignored=ignored[row]
                )

    def _columns(self, table: str) -> list[str]:
        path = self.folder / f"{table}.parquet"
        try:
            names: list[str] = pq.read_schema(path.absolute()).names
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from None
        return names

    def passages(self) -> Iterator[tuple[str, str, str]]:
        """Yield (id, title, text) of every passage of the corpus."""
        for batch in self.batches("corpus"):
            yield from zip(*(batch.column(name).to_pylist() for name in PASSAGE_SCHEMA.names), strict=True)

    def passage(self, passage_id: str) -> Passage:
        """Return a passage. The first call copies all texts to a temporary file, where they are found by row."""
        if not self._texts:
            self._lay_out()
        place = self._places.get(passage_id)
        if place is None:
            raise DataError(f"{self.folder} labels passage {passage_id!r}, which is not in its corpus")
        titles, texts = self._texts[place // BATCH]
        row = place % BATCH
        return Passage.model_construct(passage_id=passage_id, title=titles[row].as_py(), text=texts[row].as_py())

    def _lay_out(self) -> None:
        path = Path(self._temporary.name) / "corpus.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, PASSAGE_SCHEMA) as writer:
            # A batch may have fewer than BATCH rows at the end of a row group of the file.
            for number, batch in enumerate(self.batches("corpus")):
                writer.write_batch(batch)
                first = number * BATCH
                self._places.update(zip(batch.column(0).to_pylist(), range(first, first + len(batch)), strict=True))
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            self._texts.append((batch.column(1), batch.column(2)))


class Found(NamedTuple):
    """A dataset in the format of another tool, as records."""

    examples: list[Example]
    corpus: dict[str, Passage]
    judgements: list[Judgement]
    judge: Judge


class Grading(NamedTuple):
    """How a reader understands the grades of a file."""

    positive_grade: int = 2
    """Lowest grade of a positive."""
    scale: str | None = None
    """Text of the scale of the grades (`labelkit.corpora.scales`); None for grades from 0 to 3."""


class Gathered(NamedTuple):
    """The label of a pair in a file: side, grade, score, and grade on the scale of the file."""

    side: str
    grade: int | None
    score: float | None
    raw_grade: str | None = None

    @property
    def known_grade(self) -> int | None:
        """The grade of the pair; without one, 2 for a positive, 0 for a negative, and None for a pair on both sides."""
        return self.grade if self.grade is not None else {"positive": 2, "negative": 0}.get(self.side)

    def as_label(self, passage_id: str, judge: Judge, *, probable: bool) -> Label:
        """Make the label of a pair; `probable` says that the scores of the file are probabilities."""
        return Label(
            passage_id=passage_id,
            grade=self.known_grade,
            source=judge.kind,
            judge_id=judge.judge_id,
            probability=self.score if probable else None,
            score=self.score,
        )

    def as_judgement(self, query_id: str, passage_id: str, judge: Judge) -> Judgement:
        return Judgement(
            query_id=query_id,
            passage_id=passage_id,
            judge_id=judge.judge_id,
            grade=self.known_grade,
            raw_grade=self.raw_grade,
            failure=None if self.known_grade is not None else "positive and negative of the same query",
            score=self.score,
        )


class Collector:
    """Collects queries, passages and labels of a file, in any order and with repetitions."""

    def __init__(self) -> None:
        self.queries: dict[str, str] = {}
        self.passages: dict[str, Passage] = {}
        self._labels: dict[str, dict[str, Gathered]] = {}

    def query(self, query_id: str | None, text: str, where: str) -> str:
        """Add a query; without an id, one is made from its text. Returns the id."""
        query_id = query_id or name_of("q", text)
        if self.queries.setdefault(query_id, text) != text:
            raise DataError(f"{where}: query {query_id!r} has two different texts")
        return query_id

    def passage(self, passage_id: str | None, title: str, text: str, where: str) -> str:
        """Add a passage; without an id, one is made from its text. Returns the id."""
        passage_id = passage_id or name_of("p", text)
        passage = Passage.model_construct(passage_id=passage_id, title=title, text=text)
        if self.passages.setdefault(passage_id, passage) != passage:
            raise DataError(f"{where}: passage {passage_id!r} has two different texts")
        return passage_id

    def label(
        self,
        query_id: str,
        passage_id: str,
        side: str,
        *,
        grade: int | None = None,
        score: float | None = None,
        raw_grade: str | None = None,
    ) -> None:
        """Add a passage to the `positive` or `negative` side of a query; a passage on both sides becomes `ignored`."""
        labels = self._labels.setdefault(query_id, {})
        before = labels.get(passage_id)
        if before is None:
            labels[passage_id] = Gathered(side, grade, score, raw_grade=raw_grade)
        elif (before.side, before.grade, before.score) != (side, grade, score):
            labels[passage_id] = Gathered(
                side if side == before.side else "ignored",
                before.grade if grade is None else grade,
                before.score if score is None else score,
                raw_grade=before.raw_grade if grade is None else raw_grade,
            )

    def side(self, query_id: str, passage_id: str) -> str | None:
        """Return the current side of a passage; None if it has none."""
        label = self._labels.get(query_id, {}).get(passage_id)
        return label.side if label else None

    def keep_labelled(self) -> None:
        """Remove queries without labels, which belong to other splits."""
        self.queries = {query_id: text for query_id, text in self.queries.items() if query_id in self._labels}

    def found(self, judge: Judge, where: Path) -> Found:
        """Convert everything to records. Raises `DataError` if a label refers to a query or passage without a text.

        Without grades, positives get grade 2 and negatives grade 0, as with the binary method.
        """
        if not self._labels:
            raise DataError(f"{where} has no labels")
        scores = [label.score for labels in self._labels.values() for label in labels.values()]
        # One score outside 0 to 1 shows that the others are no probabilities either, such as logits of a reranker.
        probable = all(score is None or 0 <= score <= 1 for score in scores)
        examples, judgements = [], []
        for query_id, text in sorted((self.queries | dict.fromkeys(self._labels.keys() - self.queries.keys())).items()):
            if text is None:
                raise DataError(f"{where}: query {query_id!r} has labels but no text")
            sides: dict[str, list[Label]] = {"positive": [], "negative": [], "ignored": []}
            for passage_id, label in self._labels.get(query_id, {}).items():
                if passage_id not in self.passages:
                    raise DataError(f"{where}: passage {passage_id!r} (query {query_id!r}) has no text")
                sides[label.side].append(label.as_label(passage_id, judge, probable=probable))
                judgements.append(label.as_judgement(query_id, passage_id, judge))
            examples.append(
                Example(
                    query_id=query_id,
                    query=text,
                    positives=tuple(sides["positive"]),
                    negatives=tuple(sides["negative"]),
                    ignored=tuple(sides["ignored"]),
                )
            )
        judgements.sort(key=lambda row: (row.query_id, row.passage_id))
        corpus = {passage_id: self.passages[passage_id] for passage_id in sorted(self.passages)}
        return Found(examples, corpus, judgements, judge=judge)


def name_of(letter: str, text: str) -> str:
    """Make the id of a text without one, from its hash; equal texts get the same id."""
    return f"{letter}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def queries_of(found: Found) -> list[Query]:
    """Return the queries of an imported dataset."""
    return [Query(query_id=example.query_id, text=example.query) for example in found.examples]


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines to a file as UTF-8, each with LF at its end. Returns the number of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
            count += 1
    return count


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write objects to a file as JSONL. Returns the number of lines."""
    return write_lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def judge_of(paths: Iterable[Path], name: str, scale: str | None = None) -> Judge:
    """Make the judge of imported labels: its revision is the sha256 of the files. Another scale makes another judge."""
    digests = [folders.file_sha256(path) for path in sorted(paths)]
    revision = "sha256:" + hashlib.sha256(" ".join(digests).encode()).hexdigest()
    mapping = read_scale(scale).mapping if scale else None
    digest = hashlib.sha256(" ".join(filter(None, ("imported", name, revision, mapping))).encode()).hexdigest()
    judge_id = f"imported-{name}-{digest[:16]}"
    return Judge(judge_id=judge_id, kind="imported", name=name, revision=revision, scale=mapping)
