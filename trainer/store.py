"""A dataset folder as a trainer reads it: memory-mapped, a query by its row, a passage by its id.

Parquet is made to be read from end to end, and an epoch reads queries and passages in an order of its own. So the two
tables are laid out once as Arrow files in the cache folder, together with an index from ids to rows; after that a
dataset of any size opens at once and costs no memory. The copy is kept under the sha256 of the dataset's manifest, and
is made from files that were checked against it.
"""

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from labelkit import artifact
from labelkit.dataset import KIND, examples_from_table
from labelkit.encode import cache_folder
from labelkit.errors import DataError
from labelkit.schema import ROLES, Example
from trainer.batch import key_of

BLOCK = 65_536
"""Rows of a record batch."""
TABLES = ("train", "corpus")


class Passages(Mapping[str, str]):
    """Title and text of every passage by id, as an encoder reads them."""

    def __init__(self, corpus: pa.Table, keys: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self._ids, self._titles, self._texts = (corpus[name] for name in ("passage_id", "title", "text"))
        self._keys, self._rows = keys, rows  # sorted keys, and the row of each

    def row_of(self, passage_id: str) -> int:
        """The row of a passage in the corpus. Raises KeyError where it has none."""
        key = key_of(passage_id)
        place = int(np.searchsorted(self._keys, key))
        if place == len(self._keys) or self._keys[place] != key:
            raise KeyError(passage_id)
        return int(self._rows[place])

    def at(self, row: int) -> str:
        """The text in a row of the corpus."""
        return f"{self._titles[row]} {self._texts[row]}".strip()

    def __getitem__(self, passage_id: str) -> str:
        return self.at(self.row_of(passage_id))

    def __iter__(self) -> Iterator[str]:
        return (name.as_py() for name in self._ids)

    def __len__(self) -> int:
        return len(self._ids)


class Store:
    """Labelled queries by row, in the order of the dataset, and the texts of its passages by id."""

    def __init__(
        self,
        train: pa.Table,
        corpus: pa.Table,
        indices: dict[str, NDArray[Any]],
        manifest: dict[str, Any],
        key: str = "",
    ) -> None:
        self.train = train
        """The table of examples, as `labelkit.schema.EXAMPLE_SCHEMA` has it."""
        self.corpus = corpus
        self.manifest = manifest
        self.key = key
        """sha256 of the manifest; empty where the dataset is in memory only."""
        self.query_keys: NDArray[np.int64] = indices["query_keys"]
        """[rows]: `key_of` each query id."""
        self.labelled: NDArray[np.int64] = indices["labelled"]
        """Rows of the corpus that some query labels, in order."""
        self.passages = Passages(corpus, indices["passage_keys"], indices["passage_rows"])
        self._copies = indices["copies"]  # [2, duplicates]: row of a copy, row of the passage that stands for it

    def __len__(self) -> int:
        return len(self.query_keys)

    def example(self, row: int) -> Example:
        """The query of a row with its labels."""
        return next(examples_from_table(self.train.slice(row, 1)))

    @cached_property
    def same(self) -> dict[str, str]:
        """Passage id -> the first id with the same text, for labelled passages that repeat another's.

        Two ids with one text are one passage to the encoder: as positive and negative of a query they would cancel out.
        """
        copy, first = ([self.corpus["passage_id"][row].as_py() for row in rows] for rows in self._copies.tolist())
        return dict(zip(copy, first, strict=True))


def open_store(folder: Path) -> Store:
    """Open a dataset folder; the first time its tables are laid out in the cache.

    Raises `ArtifactError` for a folder that is not whole, `DataError` for a query id that stands twice or a label whose
    passage is not in the corpus.
    """
    manifest = artifact.read_manifest(folder, KIND, verify=False)
    key = artifact.file_sha256(folder / artifact.MANIFEST)
    kept = cache_folder() / "datasets" / key[:32]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):  # the processes of torchrun all come here
        if not kept.is_dir():
            artifact.read_manifest(folder, KIND)
            _lay_out_folder(folder, kept)
    indices = {path.stem: np.load(path, mmap_mode="r") for path in kept.glob("*.npy")}
    train, corpus = (_map(kept / f"{name}.arrow") for name in TABLES)
    return Store(train, corpus, indices, manifest, key)


def _lay_out_folder(folder: Path, kept: Path) -> None:
    """Both tables at once; the folder takes its name when all of it is on disk."""
    aside = kept.with_name(f"{kept.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _lay_out(folder / f"{name}.parquet", aside / f"{name}.arrow"), TABLES))
        for name, values in make_indices(*(_map(aside / f"{table}.arrow") for table in TABLES)).items():
            np.save(aside / f"{name}.npy", values)
        list(pool.map(artifact.sync_file, aside.iterdir()))
    aside.rename(kept)
    artifact.sync_directory(kept.parent)


def make_store(train: pa.Table, corpus: pa.Table) -> Store:
    """The same over tables in memory."""
    return Store(train, corpus, make_indices(train, corpus), {})


def make_indices(train: pa.Table, corpus: pa.Table) -> dict[str, NDArray[Any]]:
    """What finds rows by id: `query_keys`, `passage_keys` and `passage_rows`, `copies`."""
    with ThreadPoolExecutor() as pool:
        finding = pool.submit(labelled_rows, train, corpus)  # Arrow's work, beside Python's
        query_keys, passage_keys = _keys(train["query_id"]), _keys(corpus["passage_id"])
    labelled = finding.result()
    if len(np.unique(query_keys)) < len(query_keys):
        repeated = next(row for row in pc.value_counts(train["query_id"]).to_pylist() if row["counts"] > 1)
        raise DataError(f"query id {repeated['values']!r} stands twice in the dataset's train table")
    order = np.argsort(passage_keys, kind="stable")
    return {
        "query_keys": query_keys,
        "passage_keys": passage_keys[order],
        "passage_rows": order,
        "labelled": labelled,
        "copies": _copies(corpus, labelled),
    }


def labelled_rows(train: pa.Table, corpus: pa.Table) -> NDArray[np.int64]:
    """Sorted rows of the passages that some query labels. Raises `DataError` where one is not in the corpus."""
    labelled = np.zeros(len(corpus), dtype=bool)
    for role in ROLES:
        ids = train[f"{role}_ids"]
        rows = pc.index_in(pc.list_flatten(ids), value_set=corpus["passage_id"])
        if rows.null_count:
            _report_unknown(train, role, corpus)
        labelled[rows.to_numpy()] = True
    return np.flatnonzero(labelled)


def _report_unknown(train: pa.Table, role: str, corpus: pa.Table) -> None:
    known = set(corpus["passage_id"].to_pylist())
    for row in train.select(["query_id", f"{role}_ids"]).to_pylist():
        for name in row[f"{role}_ids"]:
            if name not in known:
                raise DataError(f"query {row['query_id']!r} labels passage {name!r}, which is not in the corpus")


def _copies(corpus: pa.Table, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """[2, duplicates]: rows whose text another of `rows` has too, and that one of them whose id comes first."""
    digests = np.concatenate([_hashes(texts) for texts in _texts(corpus, rows)] or [np.zeros(0, dtype=np.uint64)])
    _, group, sizes = np.unique(digests, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(sizes[group] > 1)
    names = corpus["passage_id"].take(rows[shared]).to_pylist()
    first: dict[int, int] = {}
    pairs = []
    for _, place in sorted(zip(names, shared.tolist(), strict=True)):
        original = first.setdefault(int(group[place]), place)
        if original != place:
            pairs.append((rows[place], rows[original]))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2).T


def _texts(corpus: pa.Table, rows: NDArray[np.int64]) -> Iterator[pa.Array]:
    """Title and text of sorted rows as one, a block in memory at a time."""
    start = 0
    for batch in corpus.select(["title", "text"]).to_batches():
        inside = rows[slice(*np.searchsorted(rows, (start, start + len(batch))))] - start
        part = batch.take(pa.array(inside))
        whole = pc.binary_join_element_wise(part["title"], part["text"], " ", null_handling="replace")
        yield pc.utf8_trim_whitespace(whole)
        start += len(batch)


def _hashes(texts: pa.Array) -> NDArray[np.uint64]:
    """[n]: a hash of 64 bits of each text, good for this process alone. Two of ten million texts share one with a
    chance of 3 in a million.
    """
    table = pa.table({"text": texts})
    found: NDArray[np.uint64] = duckdb.from_arrow(table).project("hash(text) AS hash").fetchnumpy()["hash"]
    return found


def _keys(ids: pa.ChunkedArray) -> NDArray[np.int64]:
    """[n]: `key_of` each id."""
    each = (key_of(name) for chunk in ids.chunks for name in chunk.to_pylist())
    return np.fromiter(each, dtype=np.int64, count=len(ids))


def _lay_out(source: Path, target: Path) -> None:
    """A Parquet file as an Arrow file that can be mapped."""
    with (
        pq.ParquetFile(source, page_checksum_verification=True) as file,
        pa.OSFile(str(target), "wb") as sink,
        pa.ipc.new_file(sink, file.schema_arrow) as writer,
    ):
        for batch in file.iter_batches(BLOCK):
            writer.write_batch(batch)


def _map(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
