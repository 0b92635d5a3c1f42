"""A dataset folder as a trainer reads it: memory-mapped, a query by its row, a passage by its id.

The first time a dataset is opened it is laid out in the cache folder; after that one of any size opens at once and
costs no memory. The copy is kept under the sha256 of the dataset's manifest, and is made from files that were checked
against it.
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
from labelkit.records import Example
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
    """Title and text of every passage by id, as an encoder reads them."""

    def __init__(self, corpus: pa.Table, rows: KeyedRows) -> None:
        self._ids, self._titles, self._texts = (corpus[name] for name in ("passage_id", "title", "text"))
        self._rows = rows

    def row_of(self, passage_id: str) -> int:
        """The row of a passage in the corpus. Raises KeyError where it has none."""
        row = self._rows.row_of(key_of(passage_id))
        if row is None:
            raise KeyError(passage_id)
        return row

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
        indices: Indices,
        manifest: Manifest[DatasetFacts] | None = None,
        keys: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.labels = labels
        """Tables of examples, as `labelkit.records.EXAMPLE_SCHEMA` has them: `train`, and, where the dataset keeps them
        apart, what models and what people said.
        """
        self.corpus = corpus
        self.manifest = manifest
        """That of the dataset folder; None where all is in memory only."""
        self.facts = manifest.facts if manifest else DatasetFacts()
        self.keys = keys
        """`dataset`, and `pool` where there is one -> sha256 of the manifest; empty where all is in memory only."""
        self.indices = indices
        self.passages = Passages(corpus, indices.passages)

    @property
    def query_keys(self) -> NDArray[np.int64]:
        """[queries]: `key_of` each query id of `train`."""
        return self.indices.query_keys

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Rows of the corpus that some query labels or has in its pool, in order."""
        return self.indices.labelled

    def __len__(self) -> int:
        return len(self.query_keys)

    def example(self, row: int) -> Example:
        """The query of a row with its labels in `train`."""
        return next(examples_from_table(self.labels["train"].slice(row, 1)))

    def examples(self, row: int, *groups: Collection[str]) -> list[Example]:
        """The same, and as it stands in the tables of these groups of sources."""
        tables = dict.fromkeys(["train", *map(self.table_of, groups)])
        places = {name: int(self.indices.rows_in[name][row]) for name in tables}
        found = (self.labels[name].slice(place, 1) for name, place in places.items() if place >= 0)
        return [next(examples_from_table(each)) for each in found]

    def pool(self, row: int) -> list[str]:
        """Ids of the passages that the query of a row has in its pool, judged or not."""
        return [self.corpus["passage_id"][place].as_py() for place in self.indices.pool.of(row)]

    def table_of(self, sources: Collection[str]) -> str:
        """The table that has all the labels of these sources: in `train` a model's label of what a person judged too is
        lost. Raises `UsageError` where they are lost and no other table has them.
        """
        if "human" in sources and len(sources) > 1:
            return "train"
        name = OF_PEOPLE if "human" in sources else OF_MODELS
        if name in self.labels:
            return name
        human_first = self.facts.rules.get("policy") == "human-first"
        if self.facts.judged_by_both and not (name == OF_PEOPLE and human_first):
            raise UsageError(
                f"{self.facts.judged_by_both} pairs were judged by people and by models, and the dataset keeps one "
                f"label of each, so that it cannot say what {' and '.join(sorted(sources))} alone said; mix it again "
                "with --policy staged"
            )
        return "train"

    @cached_property
    def same(self) -> dict[str, str]:
        """Passage id -> the first id with the same text, for labelled passages that repeat another's.

        Two ids with one text are one passage to the encoder: as positive and negative of a query they would cancel out.
        """
        copy, first = (
            [self.corpus["passage_id"][row].as_py() for row in rows] for rows in self.indices.copies.tolist()
        )
        return dict(zip(copy, first, strict=True))


def open_store(folder: Path, pool: Path | None = None) -> Store:
    """Open a dataset folder, with the pool folder whose unjudged passages may be negatives. The first time they are
    laid out in the cache.

    Raises `ArtifactError` for a folder that is not whole, `DataError` for a query id that stands twice, a label whose
    passage is not in the corpus or a pool of other data.
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
    """The folder of the cache that is made once of what has these keys; it takes its name when all of it is on disk."""
    kept = cache_folder() / "datasets" / "-".join([*(key[:32] for key in keys.values()), str(VERSION)])
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.making"):  # the processes of torchrun all come here
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
    """The same over tables in memory."""
    return Store(labels, corpus, Indices.of(make_indices(labels, corpus)))
