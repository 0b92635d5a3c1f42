"""Memory-mapped access to a dataset folder: queries by row, passages by id.

When a dataset is opened for the first time, it is copied to the cache folder in a layout that can be memory-mapped.
Later, a dataset of any size opens immediately and takes no memory. The copy is named after the sha256 of the dataset's
manifest, and is made from files whose checksums agree with the manifest.
"""

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray

from labelkit.errors import UsageError
from labelkit.records import MINED, Example
from labelkit.storage import folders
from labelkit.storage.atomic import sync_directory, sync_file
from labelkit.storage.cache_folder import cache_folder
from labelkit.storage.dataset import OF_MODELS, OF_PEOPLE, examples_from_table
from labelkit.storage.manifest import DATASET, POOL, DatasetFacts, Manifest
from trainer.data.layout import (
    VERSION,
    Indices,
    KeyedRows,
    lay_out_dataset,
    lay_out_pool,
    make_indices,
    map_arrays,
    map_tables,
)
from trainer.objectives.batch import key_of


class Passages(Mapping[str, str]):
    """Mapping from passage id to the text that an encoder reads, title and text joined."""

    def __init__(self, corpus: pa.Table, rows: KeyedRows) -> None:
        self._ids, self._titles, self._texts = (corpus[name] for name in ("passage_id", "title", "text"))
        self._rows = rows

    def row_of(self, passage_id: str) -> int:
        """Return the corpus row of a passage. Raises `KeyError` for an unknown id."""
        row = self._rows.row_of(key_of(passage_id))
        if row is None:
            raise KeyError(passage_id)
        return row

    def at(self, row: int) -> str:
        """Return the title and text in a corpus row."""
        return f"{self._titles[row]} {self._texts[row]}".strip()

    def __getitem__(self, passage_id: str) -> str:
        return self.at(self.row_of(passage_id))

    def __iter__(self) -> Iterator[str]:
        return (name.as_py() for name in self._ids)

    def __len__(self) -> int:
        return len(self._ids)


class Store:
    """Labelled queries by row, in the order of the dataset, and texts of its passages by id."""

    def __init__(
        self,
        labels: Mapping[str, pa.Table],
        corpus: pa.Table,
        indices: Indices,
        manifest: Manifest[DatasetFacts] | None = None,
        keys: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.labels = labels
        """Table name -> examples with the columns of `labelkit.records.EXAMPLE_SCHEMA`: `train`, and separate tables of
        model labels and of human labels if the dataset has them.
        """
        self.corpus = corpus
        self.manifest = manifest
        """Manifest of the dataset folder; None for a store in memory."""
        self.facts = manifest.facts if manifest else DatasetFacts()
        self.keys = keys
        """`dataset`, and `pool` if a pool is used -> sha256 of its manifest; empty for a store in memory."""
        self.indices = indices
        self.passages = Passages(corpus, indices.passages)

    @property
    def query_keys(self) -> NDArray[np.int64]:
        """`key_of` each query id of `train`, `[queries]`."""
        return self.indices.query_keys

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Sorted corpus rows of all passages that a query labels or has in its pool."""
        return self.indices.labelled

    def __len__(self) -> int:
        return len(self.query_keys)

    def example(self, row: int) -> Example:
        """Return the query of a row with its labels in `train`."""
        return next(examples_from_table(self.labels["train"].slice(row, 1)))

    def examples(self, row: int, *groups: Collection[str]) -> list[Example]:
        """Return the query of a row with its labels in `train` and in the tables of some groups of sources."""
        tables = dict.fromkeys(["train", *map(self.table_of, groups)])
        places = {name: int(self.indices.rows_in[name][row]) for name in tables}
        found = (self.labels[name].slice(place, 1) for name, place in places.items() if place >= 0)
        return [next(examples_from_table(each)) for each in found]

    def pool(self, row: int) -> dict[str, int]:
        """Look up the passage ids in the pool of a row's query, judged or not, and their best ranks."""
        return {self.corpus["passage_id"][place].as_py(): rank for place, rank in self.indices.pool.of(row)}

    def table_of(self, sources: Collection[str]) -> str:
        """Return the name of the table with all labels of some sources.

        If a person and a model judged the same pair, `train` contains only one of the two labels. Raises `UsageError`
        if labels of these sources are lost in that way and no other table has them.
        """
        sources = set(sources) - {MINED}  # mined negatives are in `train` alone
        if not sources or ("human" in sources and len(sources) > 1):
            return "train"
        name = OF_PEOPLE if "human" in sources else OF_MODELS
        if name in self.labels:
            return name
        human_first = self.facts.rules.get("policy") == "human-first"
        if self.facts.judged_by_both and not (name == OF_PEOPLE and human_first):
            raise UsageError(
                f"{self.facts.judged_by_both} pairs were judged by people and by models, and the dataset has only one "
                f"label for each of them: some labels of {' and '.join(sorted(sources))} are lost; mix it again with "
                "--policy staged"
            )
        return "train"

    @cached_property
    def same(self) -> dict[str, str]:
        """Mapping from the id of each labelled passage with a duplicated text to the first id with that text.

        The encoder cannot distinguish two passages with the same text. As positive and negative of a query they would
        cancel out.
        """
        copy, first = (
            [self.corpus["passage_id"][row].as_py() for row in rows] for rows in self.indices.copies.tolist()
        )
        return dict(zip(copy, first, strict=True))


def open_store(folder: Path, pool: Path | None = None) -> Store:
    """Open a dataset folder, and optionally a pool folder whose unjudged passages may be negatives.

    Both are copied to the cache when they are opened for the first time. Raises `ArtifactError` for an incomplete or
    damaged folder, `DataError` for a duplicated query id, a label of a passage outside the corpus, or a pool of other
    queries or passages.
    """
    manifest = folders.read_manifest(folder, DATASET, verify=False)
    keys = {"dataset": folders.file_sha256(folder / folders.MANIFEST)}
    kept = _kept(keys, partial(lay_out_dataset, folder))
    (labels, corpus), arrays = map_tables(kept), map_arrays(kept)
    if pool is not None:
        folders.read_manifest(pool, POOL, verify=False)
        keys["pool"] = folders.file_sha256(pool / folders.MANIFEST)
        arrays |= map_arrays(_kept(keys, partial(lay_out_pool, pool, labels, corpus, arrays["labelled"])))
    return Store(labels, corpus, Indices.of(arrays), manifest=manifest, keys=keys)


def _kept(keys: Mapping[str, str], make: Callable[[Path], None]) -> Path:
    """Return the cache folder for some manifest keys, after making it if it does not exist.

    The folder gets its final name when all its files are on disk.
    """
    kept = cache_folder() / "datasets" / "-".join([*(key[:32] for key in keys.values()), str(VERSION)])
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.making"):  # all processes of torchrun open the same dataset
        if not kept.is_dir():
            aside = kept.with_name(f"{kept.name}.unfinished")
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            make(aside)
            with ThreadPoolExecutor() as threads:
                list(threads.map(sync_file, aside.iterdir()))
            aside.rename(kept)
            sync_directory(kept.parent)
    return kept


def make_store(labels: Mapping[str, pa.Table], corpus: pa.Table) -> Store:
    """Build a store from tables in memory."""
    return Store(labels, corpus, Indices.of(make_indices(labels, corpus)))
