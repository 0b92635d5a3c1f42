"""A dataset folder as a trainer reads it: memory-mapped, a query by its row, a passage by its id.

Parquet is made to be read from end to end, and an epoch reads queries and passages in an order of its own. So the
tables of labels and the corpus are laid out once as Arrow files in the cache folder, together with an index from ids to
rows; after that a dataset of any size opens at once and costs no memory. The copy is kept under the sha256 of the
dataset's manifest, and is made from files that were checked against it.
"""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from labelkit.dataset import KIND, OF_MODELS, OF_PEOPLE, examples_from_table
from labelkit.encode import cache_folder
from labelkit.errors import DataError, UsageError
from labelkit.schema import ROLES, Example
from trainer.batch import key_of

BLOCK = 8192
"""Rows of a record batch."""
TABLES = ("train", OF_MODELS, OF_PEOPLE, "corpus")
LAYOUT = 3
"""Of the files in the cache; another one makes them anew."""
HASH = "hash(text)"
"""64 bits, good for this process alone. Two of ten million texts share one with a chance of 3 in a million."""
KEY = "(('0x' || substr(md5(text), 1, 16))::UBIGINT >> 1)::BIGINT"
"""`key_of` a text, in DuckDB's words."""


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
        labels: Mapping[str, pa.Table],
        corpus: pa.Table,
        indices: dict[str, NDArray[Any]],
        manifest: dict[str, Any],
        key: str = "",
    ) -> None:
        self.labels = labels
        """Tables of examples, as `labelkit.schema.EXAMPLE_SCHEMA` has them: `train`, and, where the dataset keeps them
        apart, what models and what people said.
        """
        self.corpus = corpus
        self.manifest = manifest
        self.key = key
        """sha256 of the manifest; empty where the dataset is in memory only."""
        self.query_keys: NDArray[np.int64] = indices["query_keys"]
        """[rows]: `key_of` each query id of `train`."""
        self.rows_in = {name: indices[f"rows_{name}"] for name in labels}
        """Table -> [rows]: where each query of `train` stands in it, or -1."""
        self.labelled: NDArray[np.int64] = indices["labelled"]
        """Rows of the corpus that some query labels, in order."""
        self.passages = Passages(corpus, indices["passage_keys"], indices["passage_rows"])
        self._copies = indices["copies"]  # [2, duplicates]: row of a copy, row of the passage that stands for it

    def __len__(self) -> int:
        return len(self.query_keys)

    def example(self, row: int) -> Example:
        """The query of a row with its labels in `train`."""
        return next(examples_from_table(self.labels["train"].slice(row, 1)))

    def examples(self, row: int, *groups: Collection[str]) -> list[Example]:
        """The same, and as it stands in the tables of these groups of sources."""
        tables = dict.fromkeys(["train", *map(self.table_of, groups)])
        places = {name: int(self.rows_in[name][row]) for name in tables}
        found = (self.labels[name].slice(place, 1) for name, place in places.items() if place >= 0)
        return [next(examples_from_table(each)) for each in found]

    def table_of(self, sources: Collection[str]) -> str:
        """The table that has all the labels of these sources: in `train` a model's label of what a person judged too is
        lost. Raises `UsageError` where they are lost and no other table has them.
        """
        if "human" in sources and len(sources) > 1:
            return "train"
        name = OF_PEOPLE if "human" in sources else OF_MODELS
        if name in self.labels:
            return name
        facts = self.manifest.get("facts", {})
        human_first = facts.get("rules", {}).get("policy") == "human-first"
        if facts.get("judged_by_both") and not (name == OF_PEOPLE and human_first):
            raise UsageError(
                f"{facts['judged_by_both']} pairs were judged by people and by models, and the dataset keeps one label "
                f"of each, so that it cannot say what {' and '.join(sorted(sources))} alone said; mix it again with "
                "--policy staged"
            )
        return "train"

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
    kept = cache_folder() / "datasets" / f"{key[:32]}-{LAYOUT}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):  # the processes of torchrun all come here
        if not kept.is_dir():
            artifact.read_manifest(folder, KIND)
            _lay_out_folder(folder, [name for name in TABLES if name in manifest["rows"]], kept)
    indices = {path.stem: np.load(path, mmap_mode="r") for path in kept.glob("*.npy")}
    return Store(*_map_tables(kept), indices, manifest, key)


def _lay_out_folder(folder: Path, names: Sequence[str], kept: Path) -> None:
    """Some tables at once; the folder takes its name when all of it is on disk."""
    aside = kept.with_name(f"{kept.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _lay_out(folder / f"{name}.parquet", aside / f"{name}.arrow"), names))
        for name, values in make_indices(*_map_tables(aside)).items():
            np.save(aside / f"{name}.npy", values)
        list(pool.map(artifact.sync_file, aside.iterdir()))
    aside.rename(kept)
    artifact.sync_directory(kept.parent)


def make_store(labels: Mapping[str, pa.Table], corpus: pa.Table) -> Store:
    """The same over tables in memory."""
    return Store(labels, corpus, make_indices(labels, corpus), {})


def make_indices(labels: Mapping[str, pa.Table], corpus: pa.Table) -> dict[str, NDArray[Any]]:
    """What finds rows by id: `query_keys`, `rows_TABLE`, `passage_keys` and `passage_rows`, `labelled`, `copies`."""
    train = labels["train"]
    with ThreadPoolExecutor() as pool:
        labelled = pool.submit(labelled_rows, labels.values(), corpus)
        texts = pool.submit(hashes, _texts(corpus))
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
        pq.ParquetFile(source, memory_map=True, page_checksum_verification=True) as file,
        pa.OSFile(str(target), "wb") as sink,
        pa.ipc.new_file(sink, file.schema_arrow) as writer,
    ):
        for batch in file.iter_batches(BLOCK):
            writer.write_batch(batch)


def _map_tables(laid_out: Path) -> tuple[dict[str, pa.Table], pa.Table]:
    """The tables of labels by name, and the corpus."""
    paths = laid_out.glob("*.arrow")
    tables = {path.stem: pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths}
    corpus = tables.pop("corpus")
    return tables, corpus
