"""How a dataset lies in the cache: tables as Arrow files that can be mapped, and arrays that find rows by id.

Parquet is made to be read from end to end, and an epoch reads queries and passages in an order of its own.
"""

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from labelkit.errors import DataError
from labelkit.records import ROLES
from labelkit.storage import folders, tables
from labelkit.storage.dataset import OF_MODELS, OF_PEOPLE
from labelkit.storage.manifest import DATASET, POOL

BLOCK = 8192
"""Rows of a record batch. Larger ones take memory that is new at every batch, and so half as long again to write."""
TABLES = ("train", OF_MODELS, OF_PEOPLE, "corpus")
ROUNDING = 1e-6
"""By this much a probability that was computed may be above 1."""
VERSION = 3
"""Of what is laid out; another one makes it anew."""
HASH = "hash(text)"
"""64 bits, good for this process alone. Two of ten million texts share one with a chance of 3 in a million."""
KEY = "(('0x' || substr(md5(text), 1, 16))::UBIGINT >> 1)::BIGINT"
"""`trainer.objectives.batch.key_of` a text, in DuckDB's words."""
Arrays = dict[str, NDArray[Any]]
"""Arrays by the name of their file."""


class KeyedRows(NamedTuple):
    """Rows of a table by the 64-bit key of their id."""

    keys: NDArray[np.int64]
    """[rows], sorted."""
    rows: NDArray[np.int64]
    """[rows]: the row of each key."""

    def row_of(self, key: int) -> int | None:
        """The row of a key; None where it has none."""
        place = int(np.searchsorted(self.keys, key))
        return int(self.rows[place]) if place < len(self.keys) and self.keys[place] == key else None


class PoolRows(NamedTuple):
    """Rows of the corpus that each query of `train` has in its pool."""

    starts: NDArray[np.int64]
    """[queries + 1]: where the rows of each query begin in `rows`."""
    rows: NDArray[np.int64]

    def of(self, query: int) -> list[int]:
        """Those of one query."""
        found: list[int] = self.rows[self.starts[query] : self.starts[query + 1]].tolist()
        return found


@dataclass(frozen=True)
class Indices:
    """The arrays that find what belongs to a query or a passage id."""

    query_keys: NDArray[np.int64]
    """[queries]: `key_of` each query id of `train`."""
    rows_in: Mapping[str, NDArray[np.int64]]
    """Table -> [queries]: where each query of `train` stands in it, or -1."""
    passages: KeyedRows
    """Of the corpus."""
    labelled: NDArray[np.int64]
    """Rows of the corpus that some query labels or has in its pool, in order."""
    copies: NDArray[np.int64]
    """[2, duplicates]: row of a copy, row of the passage that stands for it."""
    pool: PoolRows

    @classmethod
    def of(cls, arrays: Arrays) -> "Indices":
        """The arrays that `make_indices` made, or that lie in a folder of the cache."""
        return cls(
            query_keys=arrays["query_keys"],
            rows_in={name.removeprefix("rows_"): array for name, array in arrays.items() if name.startswith("rows_")},
            passages=KeyedRows(arrays["passage_keys"], arrays["passage_rows"]),
            labelled=arrays["labelled"],
            copies=arrays["copies"],
            pool=PoolRows(arrays["pool_starts"], arrays["pool_rows"]),
        )


def lay_out_dataset(folder: Path, target: Path) -> None:
    """The tables of a dataset folder and their indices. Raises `ArtifactError` where the folder is not whole, and what
    `make_indices` raises.
    """
    names = [name for name in TABLES if name in folders.read_manifest(folder, DATASET).rows]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda name: _lay_out(folder / f"{name}.parquet", target / f"{name}.arrow"), names))
    labels, corpus = map_tables(target)
    for name, table in labels.items():
        _check_numbers(table, f"{folder / name}.parquet")
    save_arrays(make_indices(labels, corpus), target)


def _check_numbers(table: pa.Table, where: str) -> None:
    """Raise `DataError` for a weight that is not above 0 and finite, or a probability that does not lie in 0 to 1."""
    for batch in table.to_batches():
        for name in (f"{role}_{what}" for role in ROLES for what in ("weights", "probabilities")):
            values = batch.column(name).flatten()
            if name.endswith("weights"):
                good = pc.and_(pc.is_finite(values), pc.greater(values, 0))
            else:
                good = pc.and_(pc.greater_equal(values, 0), pc.less_equal(values, 1 + ROUNDING))
            if (place := pc.index(pc.fill_null(good, True), False).as_py()) >= 0:
                query = batch.column("query_id")[pc.list_parent_indices(batch.column(name))[place].as_py()]
                raise DataError(
                    f"{where}: {name} of query {query.as_py()!r} hold {values[place].as_py()}: weights are finite and "
                    "above 0, probabilities lie between 0 and 1; mix the dataset again"
                )


def lay_out_pool(
    folder: Path, labels: Mapping[str, pa.Table], corpus: pa.Table, labelled: NDArray[np.int64], target: Path
) -> None:
    """Which passages a pool folder has for each query of `train`: `pool_starts`, `pool_rows`; and what changes with
    them, `labelled` and `copies`. Raises `ArtifactError` for a pool that is not whole, `DataError` for one of other
    data.
    """
    folders.read_manifest(folder, POOL)
    with tables.session(target / "duck") as db:
        for name, ids in (("query", labels["train"]["query_id"]), ("passage", corpus["passage_id"])):
            db.register(name, pa.table({f"{name}_id": ids, name: np.arange(len(ids))}))
        candidates = tables.parquet(folder / "candidates.parquet")
        db.execute(
            f"CREATE TABLE pool AS SELECT query, passage, passage_id FROM {candidates} JOIN query USING (query_id) "
            "LEFT JOIN passage USING (passage_id)"
        )
        if unknown := tables.row(db, "SELECT passage_id FROM pool WHERE passage IS NULL ORDER BY ALL"):
            raise DataError(
                f"{folder}: passage {unknown[0]!r} is not in the dataset's corpus; make the pool of the folder that it "
                "was mixed from"
            )
        found = db.sql("SELECT query, passage FROM pool ORDER BY ALL").to_arrow_table()
    if not len(found):
        raise DataError(f"{folder} has no query of the dataset; make the pool of the folder that it was mixed from")
    queries, rows = found["query"].to_numpy(), found["passage"].to_numpy()
    used = np.union1d(labelled, rows)
    arrays = {
        "pool_starts": np.searchsorted(queries, np.arange(len(labels["train"]) + 1)),
        "pool_rows": rows,
        "labelled": used,
        "copies": _copies(corpus, used, hashes(_texts(corpus))),
    }
    save_arrays(arrays, target)


def make_indices(labels: Mapping[str, pa.Table], corpus: pa.Table) -> Arrays:
    """The arrays of `Indices`: `query_keys`, `rows_TABLE`, `passage_keys` and `passage_rows`, `labelled`, `copies`, and
    the arrays of an empty pool. Raises `DataError` for a query id that stands twice or a label of an unknown passage.
    """
    train = labels["train"]
    with ThreadPoolExecutor() as threads:
        labelled = threads.submit(labelled_rows, labels.values(), corpus)
        texts = threads.submit(hashes, _texts(corpus))
        query_keys, passage_keys = (hashes(ids, KEY) for ids in (train["query_id"], corpus["passage_id"]))
        order = np.argsort(passage_keys)
        rows = {f"rows_{name}": _places(train["query_id"], table["query_id"]) for name, table in labels.items()}
    if len(np.unique(query_keys)) < len(query_keys):
        repeated = next(row for row in pc.value_counts(train["query_id"]).to_pylist() if row["counts"] > 1)
        raise DataError(f"query id {repeated['values']!r} stands twice in the dataset's train table")
    return rows | {
        "query_keys": query_keys,
        "passage_keys": passage_keys[order],
        "passage_rows": order,
        "labelled": labelled.result(),
        "copies": _copies(corpus, labelled.result(), texts.result()),
        "pool_starts": np.zeros(len(train) + 1, dtype=np.int64),
        "pool_rows": np.zeros(0, dtype=np.int64),
    }


def labelled_rows(labels: Collection[pa.Table], corpus: pa.Table) -> NDArray[np.int64]:
    """Sorted rows of the passages that some query labels. Raises `DataError` where one is not in the corpus."""
    lists = [pc.list_flatten(table[f"{role}_ids"]) for table in labels for role in ROLES]
    ids = pa.chunked_array([chunk for each in lists for chunk in each.chunks], pa.string())
    wanted, known = np.sort(hashes(ids, f"DISTINCT {HASH}")), hashes(corpus["passage_id"])
    order = np.argsort(known)
    places = np.searchsorted(known, wanted, sorter=order)
    found = order[places[places < len(order)]]
    if not np.array_equal(known[found], wanted):
        _report_unknown(labels, corpus)
    return np.sort(found)


def _places(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> NDArray[np.int64]:
    """[n]: the row of each id in `among`, or -1."""
    found: NDArray[np.int64] = pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy().astype(np.int64)
    return found


def _report_unknown(labels: Collection[pa.Table], corpus: pa.Table) -> None:
    known = set(corpus["passage_id"].to_pylist())
    columns = [f"{role}_ids" for role in ROLES]
    for row in (row for table in labels for row in table.select(["query_id", *columns]).to_pylist()):
        for name in (name for column in columns for name in row[column]):
            if name not in known:
                raise DataError(f"query {row['query_id']!r} labels passage {name!r}, which is not in the corpus")


def _copies(corpus: pa.Table, rows: NDArray[np.int64], texts: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[2, duplicates]: rows whose text another of `rows` has too, and that one of them whose id comes first."""
    _, group, sizes = np.unique(texts[rows], return_inverse=True, return_counts=True)
    shared = np.flatnonzero(sizes[group] > 1)
    names = corpus["passage_id"].take(rows[shared]).to_pylist()
    first: dict[int, int] = {}
    pairs = []
    for _, place in sorted(zip(names, shared.tolist(), strict=True)):
        original = first.setdefault(int(group[place]), place)
        if original != place:
            pairs.append((rows[place], rows[original]))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2).T


def _texts(corpus: pa.Table) -> pa.RecordBatchReader:
    """Title and text of every row as one, a block in memory at a time."""

    def blocks() -> Iterator[pa.RecordBatch]:
        for batch in corpus.select(["title", "text"]).to_batches():
            whole = pc.binary_join_element_wise(batch["title"], batch["text"], " ", null_handling="replace")
            yield pa.record_batch([pc.utf8_trim_whitespace(whole)], schema)

    schema = pa.schema({"text": pa.string()})
    return pa.RecordBatchReader.from_batches(schema, blocks())


def hashes(texts: pa.ChunkedArray | pa.RecordBatchReader, hashed: str = HASH) -> NDArray[Any]:
    """[n]: what `HASH` or `KEY` makes of each text."""
    with duckdb.connect() as db:  # threads do not share one
        db.register("texts", pa.table({"text": texts}) if isinstance(texts, pa.ChunkedArray) else texts)
        found: NDArray[Any] = db.sql(f"SELECT {hashed} AS hash FROM texts").to_arrow_table()["hash"].to_numpy()
    return found


def _lay_out(source: Path, target: Path) -> None:
    """A Parquet file as an Arrow file that can be mapped."""
    with (
        pq.ParquetFile(source.absolute(), memory_map=True, page_checksum_verification=True) as file,
        pa.OSFile(str(target), "wb") as sink,
        pa.ipc.new_file(sink, file.schema_arrow) as writer,
    ):
        for batch in file.iter_batches(BLOCK):
            writer.write_batch(batch)


def save_arrays(arrays: Arrays, folder: Path) -> None:
    """Each array as a file of its name."""
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


def map_arrays(folder: Path) -> Arrays:
    """The arrays, memory-mapped."""
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def map_tables(laid_out: Path) -> tuple[dict[str, pa.Table], pa.Table]:
    """The tables of labels by name, and the corpus."""
    paths = laid_out.glob("*.arrow")
    tables = {path.stem: pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths}
    corpus = tables.pop("corpus")
    return tables, corpus
