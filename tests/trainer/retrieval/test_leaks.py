"""The hashes of the training queries in a model folder, with which a later evaluation recognises them."""

from pathlib import Path

import numpy as np
import pytest

from labelkit.errors import ArtifactError
from trainer.config.fit_config import FitConfig
from trainer.data.store import open_store
from trainer.data.training_sets import make_training_sets
from trainer.retrieval.leaks import TRAINED, training_queries_in, write_training_queries
from trainer.retrieval.search import read_collection


def test_only_queries_that_were_trained_on_are_counted(toy_dataset: Path, beir: Path, tmp_path: Path) -> None:
    """The queries of a fold that was held out, and a query without positives, are no training queries."""
    model = tmp_path / "model"
    model.mkdir()
    store = open_store(toy_dataset)
    texts = store.labels["train"]["query"].to_pylist()
    sets = make_training_sets(store, FitConfig(model="m", objective="lsepair", held_out=(0, 3)))
    trained = {texts[row] for row in sets[0].rows.tolist()}
    write_training_queries(model, sets)
    counted = {}
    for text in dict.fromkeys(texts):
        (beir / "queries.jsonl").write_text(f'{{"_id": "q0", "text": "{text}"}}\n{{"_id": "q1", "text": "unknown"}}\n')
        counted[text] = training_queries_in(str(model), read_collection(beir, "test"))
    assert counted == {text: int(text in trained) for text in texts}
    assert 0 < len(trained) < 12


def test_a_model_without_hashes_does_not_tell_and_damaged_ones_are_named(beir: Path, tmp_path: Path) -> None:
    collection = read_collection(beir, "test")
    assert training_queries_in(None, collection) is None
    assert training_queries_in("organisation/model", collection) is None
    np.save(tmp_path / TRAINED, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match=f"{TRAINED} is damaged"):
        training_queries_in(str(tmp_path), collection)
