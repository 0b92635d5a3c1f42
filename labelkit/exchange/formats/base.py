"""Classes that the writers of all formats share. They stream a dataset folder and look passages up on disk."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from labelkit.errors import ArtifactError, DataError
from labelkit.records import PASSAGE_SCHEMA, Passage

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

    def has(self, table: str) -> bool:
        """Return whether the folder has a table."""
        return (self.folder / f"{table}.parquet").is_file()

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
