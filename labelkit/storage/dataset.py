"""Write and read multi-positive datasets on disk.

The folder contains `train`, `corpus`, `queries`, `judgements` and `judges` as Parquet, a `README.md` whose metadata
makes `datasets.load_dataset(folder, "train")` work, and a manifest. An example is one row with parallel list columns
(ids, grades, sources, judges, weights, probabilities, scores) for its positives, negatives and ignored passages; the
texts of passages are only in `corpus`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labelkit.errors import ArtifactError
from labelkit.records import (
    EXAMPLE_SCHEMA,
    JUDGE_SCHEMA,
    JUDGEMENT_SCHEMA,
    LABEL_COLUMNS,
    PASSAGE_SCHEMA,
    QUERY_SCHEMA,
    ROLES,
    Example,
    Judge,
    Judgement,
    Label,
    Passage,
    Query,
    Record,
)
from labelkit.storage import folders
from labelkit.storage.manifest import AUDIT as AUDIT
from labelkit.storage.manifest import DATASET, DatasetFacts, Manifest
from labelkit.storage.remote import local

KIND = DATASET
CONFIGS = ("train", "corpus", "queries", "judgements", "judges")
OF_MODELS, OF_PEOPLE = "stage_llm", "stage_human"
"""Tables like `train` with labels of models only and of people only, in datasets of the mixing policy `staged`."""


class Dataset(NamedTuple):
    """A dataset in memory, in the order in which it was written: examples by query id, passages by id."""

    examples: list[Example]
    corpus: dict[str, Passage]
    manifest: Manifest[DatasetFacts]


def read_dataset(folder: Path | str, *, verify: bool = True) -> Dataset:
    """Read a dataset folder into memory; it may be at s3://, gs:// or hf://.

    With `verify`, all files are compared with their checksums. Raises `ArtifactError` if the folder is unfinished or
    damaged.
    """
    folder = local(str(folder))
    manifest = folders.read_manifest(folder, KIND, verify=verify)
    examples = list(examples_from_table(folders.read_table(folder, "train")))
    passages = folders.read_table(folder, "corpus").to_pylist()
    return Dataset(examples, {row["passage_id"]: Passage(**row) for row in passages}, manifest)


def read_audit(folder: Path) -> dict[str, Any] | None:
    """Return the audit of a dataset; None if it was never audited or has been rebuilt since. Raises `ArtifactError`."""
    path = folder / AUDIT
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        current = found["dataset"] == folders.file_sha256(folder / folders.MANIFEST)
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{path} is damaged; run labelkit audit {folder} again") from None
    return found if current else None


def known_leaks(folder: Path) -> int:
    """Return the number of training queries that repeat an evaluation query, by the audit or by `mix --allow-leaks`.

    It is 0 if neither has searched for leaks.
    """
    if audited := read_audit(folder):
        return sum(one["found"] or 0 for one in audited["findings"] if one["name"] == "leaked-queries")
    return folders.read_manifest(folder, KIND, verify=False).facts.leaked_queries


def write_tables(
    draft: folders.Draft,
    *,
    examples: Iterable[Example],
    corpus: Iterable[Passage],
    queries: Iterable[Query],
    judgements: Iterable[Judgement],
    judges: Iterable[Judge],
) -> None:
    """Write the five tables of a dataset to a draft, in the order of the given records."""
    draft.write_table("train", examples_to_table(examples))
    draft.write_table("corpus", records_to_table(corpus, PASSAGE_SCHEMA))
    draft.write_table("queries", records_to_table(queries, QUERY_SCHEMA))
    draft.write_table("judgements", records_to_table(judgements, JUDGEMENT_SCHEMA))
    draft.write_table("judges", records_to_table(judges, JUDGE_SCHEMA))


def records_to_table(records: Iterable[Record], schema: pa.Schema) -> pa.Table:
    """Return flat records as a table."""
    return pa.Table.from_pylist(list(map(vars, records)), schema=schema)


ROWS = 2048
"""Rows of a `RowWriter` that become an Arrow table at a time."""


def rows_to_table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Return rows, whose values are in the order of the schema, as a table.

    Raises `ValueError` for a number that is not finite, which no label may have.
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    for array, field in zip(arrays, schema, strict=True):
        values = array.flatten() if pa.types.is_list(field.type) else array
        if pa.types.is_floating(values.type) and pc.any(pc.invert(pc.is_finite(values))).as_py():
            raise ValueError(f"column {field.name} has a number that is not finite")
    return pa.table(arrays, schema=schema)


class RowWriter:
    """Writes rows to a Parquet file, with at most one row group in memory. Use it in `with`.

    Rows soon become Arrow tables, because many thousands of Python objects slow the garbage collector down.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path.absolute(), schema, **folders.PARQUET)
        self._rows: list[Sequence[Any]] = []
        self._tables: list[pa.Table] = []
        self._waiting = self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._convert()
            self._write(self._waiting)
        self._writer.close()

    def add(self, *rows: Sequence[Any]) -> None:
        """Append rows, whose values are in the order of the schema."""
        self.count += len(rows)
        self._waiting += len(rows)
        self._rows += rows
        if len(self._rows) >= ROWS or self._waiting >= folders.ROW_GROUP:
            self._convert()
        if self._waiting >= folders.ROW_GROUP:
            self._write(folders.ROW_GROUP)

    def _convert(self) -> None:
        self._tables.append(rows_to_table(self._rows, self._schema))
        self._rows = []

    def _write(self, count: int) -> None:
        """Write the first rows of the tables."""
        table = pa.concat_tables(self._tables)
        self._writer.write_table(table.slice(0, count).combine_chunks(), folders.ROW_GROUP)
        self._tables, self._waiting = [table.slice(count)], self._waiting - count


def examples_to_table(examples: Iterable[Example]) -> pa.Table:
    """Return examples as a table with parallel list columns."""
    return pa.Table.from_pylist([_example_row(example) for example in examples], schema=EXAMPLE_SCHEMA)


def examples_from_table(table: pa.Table) -> Iterator[Example]:
    """Yield the examples of a table made by `examples_to_table`."""
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            labels = {field: _labels_of(row, role) for role, field in ROLES.items()}
            yield Example(query_id=row["query_id"], query=row["query"], **labels)


def _example_row(example: Example) -> dict[str, Any]:
    row: dict[str, Any] = {"query_id": example.query_id, "query": example.query}
    for role, field in ROLES.items():
        labels = getattr(example, field)
        for suffix, (attribute, _) in LABEL_COLUMNS.items():
            row[f"{role}_{suffix}"] = [getattr(label, attribute) for label in labels]
    return row


def _labels_of(row: Mapping[str, Any], role: str) -> tuple[Label, ...]:
    names = [attribute for attribute, _ in LABEL_COLUMNS.values()]
    count = len(row[f"{role}_ids"])
    # A dataset that an earlier version wrote has no column of scores.
    columns = [row.get(f"{role}_{suffix}", [None] * count) for suffix in LABEL_COLUMNS]
    return tuple(Label(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True))
