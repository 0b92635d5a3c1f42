"""Convert a dataset to the layout of the cache: memory-mapped Arrow tables, and arrays that map ids to rows.

Parquet files are efficient only when read from start to end, but an epoch reads queries and passages in random order.
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
"""Rows per record batch. Larger batches allocate new memory each time, and take 1.5 times as long to write."""
TABLES = ("train", OF_MODELS, OF_PEOPLE, "corpus")
ROUNDING = 1e-6
"""Largest amount by which a computed probability may exceed 1 because of rounding."""
VERSION = 4
"""Version of the layout. Increase it when the layout changes, so that cached datasets are rebuilt."""
HASH = "hash(text)"
"""SQL of a 64-bit hash of a text, stable only within a process. Among ten million texts, the probability of a collision
is 3e-6.
"""
KEY = "(('0x' || substr(md5(text), 1, 16))::UBIGINT >> 1)::BIGINT"
"""SQL of `trainer.objectives.batch.key_of` a text."""
Arrays = dict[str, NDArray[Any]]
"""File name without suffix -> array."""


class KeyedRows(NamedTuple):
    """Index from the keys of ids to the rows of a table."""

    keys: NDArray[np.int64]
    """[rows]: the key of each id, sorted."""
    rows: NDArray[np.int64]
    """[rows]: the table row of each key."""

    def row_of(self, key: int) -> int | None:
        """Return the row of a key, or None for an unknown key."""
        place = int(np.searchsorted(self.keys, key))
        return int(self.rows[place]) if place < len(self.keys) and self.keys[place] == key else None


class PoolRows(NamedTuple):
    """Corpus rows of the passages in the pool of each query of `train`."""

    starts: NDArray[np.int64]
    """[queries + 1]: start of each query's slice of `rows`."""
    rows: NDArray[np.int64]
    """[candidates]: corpus rows, ordered by query."""
    ranks: NDArray[np.int64]
    """[candidates]: best rank of each in its pool, from 1."""

    def of(self, query: int) -> list[tuple[int, int]]:
        """List the corpus rows of a query's pool and their ranks."""
        place = slice(self.starts[query], self.starts[query + 1])
        return list(zip(self.rows[place].tolist(), self.ranks[place].tolist(), strict=True))


@dataclass(frozen=True)
class Indices:
    """Arrays that map query and passage ids to rows."""

    query_keys: NDArray[np.int64]
    """[queries]: `key_of` each query id of `train`."""
    rows_in: Mapping[str, NDArray[np.int64]]
    """Table -> [queries]: row of each query of `train` in that table, or -1."""
    passages: KeyedRows
    """Index of the passages in the corpus."""
    labelled: NDArray[np.int64]
    """Sorted corpus rows of all passages that a query labels or has in its pool."""
    copies: NDArray[np.int64]
    """[2, duplicates]: corpus row of a duplicate, corpus row of the passage that replaces it."""
    pool: PoolRows

    @classmethod
    def of(cls, arrays: Arrays) -> "Indices":
        """Build the indices from the arrays of `make_indices` or of a cache folder."""
        return cls(
            query_keys=arrays["query_keys"],
            rows_in={name.removeprefix("rows_"): array for name, array in arrays.items() if name.startswith("rows_")},
            passages=KeyedRows(arrays["passage_keys"], arrays["passage_rows"]),
            labelled=arrays["labelled"],
            copies=arrays["copies"],
            pool=PoolRows(arrays["pool_starts"], arrays["pool_rows"], arrays["pool_ranks"]),
        )


def lay_out_dataset(folder: Path, target: Path) -> None:
    """Write the tables of a dataset folder and their indices to the folder `target`.

    Raises `ArtifactError` for an incomplete or damaged folder, `DataError` for invalid numbers and for the errors of
    `make_indices`.
    """
    names = [name for name in TABLES if name in folders.read_manifest(folder, DATASET).rows]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda name: _lay_out(folder / f"{name}.parquet", target / f"{name}.arrow"), names))
    labels, corpus = map_tables(target)
    for name, table in labels.items():
        _check_numbers(table, f"{folder / name}.parquet")
    save_arrays(make_indices(labels, corpus), target)


def _check_numbers(table: pa.Table, where: str) -> None:
    """Raise `DataError` for a weight that is not positive and finite, or a probability outside 0 to 1."""
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
                    f"{where}: {name} of query {query.as_py()!r} contain {values[place].as_py()}: weights must be "
                    "finite and above 0, probabilities between 0 and 1; mix the dataset again"
                )


def lay_out_pool(
    folder: Path, labels: Mapping[str, pa.Table], corpus: pa.Table, labelled: NDArray[np.int64], target: Path
) -> None:
    """Write the arrays of a pool folder: `pool_starts`, `pool_rows`, `pool_ranks`, and `labelled` and `copies` with the
    pool.

    Raises `ArtifactError` for an incomplete or damaged pool, `DataError` for a pool of other queries or passages.
    """
    folders.read_manifest(folder, POOL)
    with tables.session(target / "duck") as db:
        for name, ids in (("query", labels["train"]["query_id"]), ("passage", corpus["passage_id"])):
            db.register(name, pa.table({f"{name}_id": ids, name: np.arange(len(ids))}))
        candidates = tables.parquet(folder / "candidates.parquet")
        db.execute(
            "CREATE TABLE pool AS SELECT query, passage, passage_id, "
            "list_min(list_transform(sources, lambda x: x.rank))::BIGINT AS rank "
            f"FROM {candidates} JOIN query USING (query_id) LEFT JOIN passage USING (passage_id)"
        )
        if unknown := tables.row(db, "SELECT passage_id FROM pool WHERE passage IS NULL ORDER BY ALL"):
            raise DataError(
                f"{folder}: passage {unknown[0]!r} is not in the dataset's corpus; make the pool from the data folder "
                "that the dataset was mixed from"
            )
        found = db.sql("SELECT query, passage, rank FROM pool ORDER BY ALL").to_arrow_table()
    if not len(found):
        raise DataError(
            f"{folder} has no query of the dataset; make the pool from the data folder that the dataset was mixed from"
        )
    queries, rows = found["query"].to_numpy(), found["passage"].to_numpy()
    used = np.union1d(labelled, rows)
    arrays = {
        "pool_starts": np.searchsorted(queries, np.arange(len(labels["train"]) + 1)),
        "pool_rows": rows,
        "pool_ranks": found["rank"].to_numpy(),
        "labelled": used,
        "copies": _copies(corpus, used, hashes(_texts(corpus))),
    }
    save_arrays(arrays, target)


def make_indices(labels: Mapping[str, pa.Table], corpus: pa.Table) -> Arrays:
    """Build the arrays of `Indices`, with an empty pool, from tables of labels and the corpus.

    Keys: `query_keys`, `rows_TABLE`, `passage_keys`, `passage_rows`, `labelled`, `copies`, `pool_starts`, `pool_rows`.
    Raises `DataError` for a duplicated query id or a label of an unknown passage.
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
        raise DataError(f"query id {repeated['values']!r} is duplicated in the dataset's train table")
    return rows | {
        "query_keys": query_keys,
        "passage_keys": passage_keys[order],
        "passage_rows": order,
        "labelled": labelled.result(),
        "copies": _copies(corpus, labelled.result(), texts.result()),
        "pool_starts": np.zeros(len(train) + 1, dtype=np.int64),
        "pool_rows": np.zeros(0, dtype=np.int64),
        "pool_ranks": np.zeros(0, dtype=np.int64),
    }


def labelled_rows(labels: Collection[pa.Table], corpus: pa.Table) -> NDArray[np.int64]:
    """List the sorted corpus rows of all labelled passages. Raises `DataError` for a passage outside the corpus."""
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
    """Find the row of each id `[n]` in `among`; -1 for an unknown id."""
    found: NDArray[np.int64] = pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy().astype(np.int64)
    return found


def _report_unknown(labels: Collection[pa.Table], corpus: pa.Table) -> None:
    """Raise `DataError` with the first labelled passage that is not in the corpus."""
    known = set(corpus["passage_id"].to_pylist())
    columns = [f"{role}_ids" for role in ROLES]
    for row in (row for table in labels for row in table.select(["query_id", *columns]).to_pylist()):
        for name in (name for column in columns for name in row[column]):
            if name not in known:
                raise DataError(f"query {row['query_id']!r} labels passage {name!r}, which is not in the corpus")


def _copies(corpus: pa.Table, rows: NDArray[np.int64], texts: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Find duplicated texts `[2, duplicates]` among `rows`: a row, and the row with the same text and the first id."""
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
    """Join title and text of every row, one block in memory at a time."""

    def blocks() -> Iterator[pa.RecordBatch]:
        for batch in corpus.select(["title", "text"]).to_batches():
            whole = pc.binary_join_element_wise(batch["title"], batch["text"], " ", null_handling="replace")
            yield pa.record_batch([pc.utf8_trim_whitespace(whole)], schema)

    schema = pa.schema({"text": pa.string()})
    return pa.RecordBatchReader.from_batches(schema, blocks())


def hashes(texts: pa.ChunkedArray | pa.RecordBatchReader, hashed: str = HASH) -> NDArray[Any]:
    """Compute `HASH` or `KEY` of each text, `[n]`."""
    with duckdb.connect() as db:  # threads cannot share a connection
        db.register("texts", pa.table({"text": texts}) if isinstance(texts, pa.ChunkedArray) else texts)
        found: NDArray[Any] = db.sql(f"SELECT {hashed} AS hash FROM texts").to_arrow_table()["hash"].to_numpy()
    return found


def _lay_out(source: Path, target: Path) -> None:
    """Convert a Parquet file to an Arrow file that can be memory-mapped."""
    with (
        pq.ParquetFile(source.absolute(), memory_map=True, page_checksum_verification=True) as file,
        pa.OSFile(str(target), "wb") as sink,
        pa.ipc.new_file(sink, file.schema_arrow) as writer,
    ):
        for batch in file.iter_batches(BLOCK):
            writer.write_batch(batch)


def save_arrays(arrays: Arrays, folder: Path) -> None:
    """Write each array to the file NAME.npy."""
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


def map_arrays(folder: Path) -> Arrays:
    """Open the arrays of a folder, memory-mapped."""
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def map_tables(laid_out: Path) -> tuple[dict[str, pa.Table], pa.Table]:
    """Open the tables of labels by name, and the corpus, memory-mapped."""
    paths = laid_out.glob("*.arrow")
    tables = {path.stem: pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths}
    corpus = tables.pop("corpus")
    return tables, corpus
