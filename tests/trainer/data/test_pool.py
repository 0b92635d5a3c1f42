"""Negatives from a pool: what nobody judged fills a group, and nothing else of the pool does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from labelkit.datasets.mix import mix
from labelkit.datasets.options import MixOptions
from labelkit.errors import DataError, UsageError
from labelkit.pooling import pool
from labelkit.pooling.options import PoolOptions
from labelkit.records import Candidate, Origin, Query
from labelkit.storage import folders
from trainer.config.fit_config import FitConfig
from trainer.data.store import open_store
from trainer.data.training_sets import TrainingSet
from trainer.training.fit import fit

from ..conftest import WriteDataset, example, label, passage


def write_pool(folder: Path, pooled: Mapping[str, str]) -> Path:
    """A pool of query id -> the letters of its passages."""
    candidates = [
        Candidate(query_id=query_id, passage_id=name, sources=(Origin("run", rank, 1.0 / rank),))
        for query_id, names in pooled.items()
        for rank, name in enumerate(names, start=1)
    ]
    texts = {one.passage_id: passage(one.passage_id, "text") for one in candidates}
    with folders.writing(folder, pool.KIND, "test") as draft:
        queries = {name: Query(query_id=name, text=name) for name in pooled}
        pool.write_tables(draft, candidates, queries=queries, passages=texts)
    return folder


@pytest.fixture
def judged(write_dataset: WriteDataset) -> Path:
    """Query `q`: positives `p` and, of a person, `h`; negative `n`, ignored `i`; `c` has the text of `p`. Query `r`."""
    human = label("h", 2, "human")
    examples = [example("q", ["p", human], ["n"], ["i"]), example("r", ["r"])]
    return write_dataset(examples, [passage(name, "p" if name == "c" else name) for name in "abcdhinpr"])


def drawn(dataset: Path, folder: Path, epochs: int = 1, **settings: Any) -> list[str]:
    """The negatives of the first query, as letters, an epoch each."""
    config = FitConfig(model="unused", objective="lsepair", pool=folder, **settings)
    training_set = TrainingSet(open_store(dataset, folder), config)
    groups = [training_set[epoch, 0] for epoch in range(epochs)]
    return ["".join(sorted(one.passage_id for one in group.negatives)) for group in groups]


def test_what_nobody_judged_comes_after_the_judged_negatives(judged: Path, tmp_path: Path) -> None:
    folder = write_pool(tmp_path / "pool", {"other": "d", "q": "pabnich"})
    assert drawn(judged, folder) == ["abn"]
    assert set(drawn(judged, folder, epochs=20, group_size=4)) == {"an", "bn"}
    assert drawn(judged, folder, group_size=3, max_positives=2) == ["n"]
    assert drawn(judged, folder, labels="human") == ["abcin"], (
        "who is not asked has judged nothing; `p` and `c` are one text"
    )
    with pytest.raises(UsageError, match="pool has no effect without in_batch_negatives"):
        drawn(judged, folder, in_batch_negatives=False)


def test_a_query_that_the_pool_lacks_has_its_labels(judged: Path, tmp_path: Path) -> None:
    assert drawn(judged, write_pool(tmp_path / "pool", {"r": "ab"})) == ["n"]


def test_another_pool_is_read_anew_and_the_dataset_is_not_laid_out_again(judged: Path, tmp_path: Path) -> None:
    first, second = write_pool(tmp_path / "first", {"q": "a"}), write_pool(tmp_path / "second", {"q": "bd"})
    assert [drawn(judged, first), drawn(judged, second), drawn(judged, first)] == [["an"], ["bdn"], ["an"]]
    store = open_store(judged, second)
    assert [store.corpus["passage_id"][row].as_py() for row in store.labelled] == list("bdhinpr")


@pytest.mark.parametrize(
    ("pooled", "message"),
    [({"q": "ax"}, "passage 'x' is not in the dataset's corpus"), ({"other": "ab"}, "has no query of the dataset")],
)
def test_a_pool_of_other_data_is_refused(judged: Path, tmp_path: Path, pooled: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_store(judged, write_pool(tmp_path / "pool", pooled))


def test_human_labels_train_with_the_negatives_of_bm25(beir: Path, tiny_model: Path, tmp_path: Path) -> None:
    mix(tmp_path / "dataset", MixOptions(data=beir, human=beir / "qrels" / "test.tsv"))
    pool.make_pool(beir, tmp_path / "pool", PoolOptions(bm25=3))
    assert drawn(tmp_path / "dataset", tmp_path / "pool") == ["p5"]
    config = FitConfig(model=str(tiny_model), objective="lsepair", max_steps=2, pool=tmp_path / "pool")
    fit(tmp_path / "dataset", tmp_path / "model", config)
    manifest = json.loads((tmp_path / "model" / folders.MANIFEST).read_text())
    assert manifest["inputs"][str(tmp_path / "pool")] == folders.file_sha256(tmp_path / "pool" / folders.MANIFEST)
    assert manifest["facts"]["config"]["pool"] == str(tmp_path / "pool")
