"""The memory-mapped dataset and the cached tokens give what the files and the tokenizer give."""

import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer

from labelkit.errors import ArtifactError, DataError
from labelkit.records import EXAMPLE_SCHEMA
from labelkit.storage import folders
from labelkit.storage.cache_folder import cache_folder
from labelkit.storage.dataset import OF_MODELS, examples_to_table, read_dataset, write_tables
from trainer.config.fit_config import FitConfig
from trainer.data.collate import Collator
from trainer.data.layout import KEY, hashes
from trainer.data.store import open_store
from trainer.data.token_cache import Reading, passage_texts, query_texts, token_cache
from trainer.data.training_sets import TrainingSet
from trainer.objectives.batch import key_of
from trainer.training.fit import make_collator

from ..conftest import WriteDataset, example, passage


def test_the_store_gives_the_examples_and_texts_of_the_dataset(toy_dataset: Path) -> None:
    whole, store = read_dataset(toy_dataset), open_store(toy_dataset)
    assert [store.example(row) for row in range(len(store))] == whole.examples
    assert {name: store.passages[name] for name in whole.corpus} == {
        name: one.full_text for name, one in whole.corpus.items()
    }
    assert sorted(store.passages) == sorted(whole.corpus)
    assert len(store.passages) == len(whole.corpus)
    with pytest.raises(KeyError):
        store.passages["nobody"]


def test_it_is_laid_out_once_and_only_from_files_that_are_whole(toy_dataset: Path) -> None:
    open_store(toy_dataset)
    (kept,) = (cache_folder() / "datasets").glob("*/train.arrow")
    written = kept.stat().st_mtime_ns
    open_store(toy_dataset)
    assert kept.stat().st_mtime_ns == written

    content = (toy_dataset / "corpus.parquet").read_bytes()
    manifest = (toy_dataset / folders.MANIFEST).read_text()
    (toy_dataset / folders.MANIFEST).write_text(manifest + " ")  # another dataset, as far as the cache knows
    (toy_dataset / "corpus.parquet").write_bytes(content[:-9] + b"x" + content[-8:])
    with pytest.raises(ArtifactError, match=r"corpus\.parquet changed since it was written"):
        open_store(toy_dataset)


def test_keys_of_columns_are_the_keys_of_their_texts_in_their_order() -> None:
    names = ["", "é", "日本", *(f"p{number}" for number in range(10_000))]
    column = pa.chunked_array([names[:5], names[5:7000], names[7000:]])
    assert hashes(column, KEY).tolist() == [key_of(name) for name in names]
    assert hashes(pa.chunked_array([], pa.string()), KEY).tolist() == []


def test_tables_of_stages_are_laid_out_too_with_the_rows_of_their_queries(tmp_path: Path) -> None:
    said = {"train": [example("a", ["x"]), example("b", ["y"])], OF_MODELS: [example("b", ["z"])]}
    with folders.writing(tmp_path / "staged", "dataset", "test") as draft:
        write_tables(
            draft,
            examples=said["train"],
            corpus=[passage(name, name) for name in "xyz"],
            queries=[],
            judgements=(),
            judges=(),
        )
        draft.write_batches(OF_MODELS, EXAMPLE_SCHEMA, examples_to_table(said[OF_MODELS]).to_batches())
    store = open_store(tmp_path / "staged")
    assert store.examples(0, {"llm"}) == said["train"][:1]
    assert store.examples(1, {"llm"}, {"human", "llm"}) == [said["train"][1], *said[OF_MODELS]]
    assert [store.passages.at(row).strip() for row in store.labelled] == ["x", "y", "z"]


def test_copies_are_found_across_titles_and_the_first_id_stands_for_them(write_dataset: WriteDataset) -> None:
    passages = [passage("b", "same"), passage("a", "same"), passage("c", "other"), passage("d", "same")]
    folder = write_dataset([example("q", ["b"], ["c", "d"])], passages)
    assert open_store(folder).same == {"d": "b"}, "`a` has the text too, but nobody labelled it"


@pytest.mark.parametrize("left", [False, True])
def test_cached_tokens_are_those_of_the_models_own_preprocessing(
    tiny_model: Path, toy_dataset: Path, left: bool
) -> None:
    model = SentenceTransformer(str(tiny_model), device="cpu", prompts={"document": "word9 word8 "})
    model.tokenizer.padding_side = "left" if left else "right"
    settings = FitConfig(model="m", objective="lsepair", max_passage_length=4 if left else None, epochs=9)
    training_set = TrainingSet(open_store(toy_dataset), settings)
    collator = make_collator(model, training_set)
    assert isinstance(collator, Collator)
    names = [f"p{n:02d}" for n in (17, 3, 9, 22, 0)]
    assert collator.cached is not None
    cached = collator.passage_tokens(names)
    direct = collator.passage_text_tokens([training_set.passages[name] for name in names])
    assert cached.keys() == direct.keys()
    for name, value in direct.items():
        assert torch.equal(cached[name], value) if isinstance(value, torch.Tensor) else cached[name] == value
    groups = [training_set[0, row] for row in (2, 0, 1)]
    assert collator.cached_queries is not None
    cached, direct = collator.query_tokens(groups), collator.query_text_tokens([group.query for group in groups])
    assert cached.keys() == direct.keys()
    for name, value in direct.items():
        assert torch.equal(cached[name], value) if isinstance(value, torch.Tensor) else cached[name] == value


def test_a_preprocessing_that_does_more_than_pad_is_not_cached(tiny_model: Path, toy_dataset: Path) -> None:
    model, store = SentenceTransformer(str(tiny_model), device="cpu"), open_store(toy_dataset)

    def odd(texts: list[str]) -> dict[str, Any]:
        tokens = model.preprocess(texts)
        return tokens | {"input_ids": tokens["input_ids"] + len(texts)}

    def more(texts: list[str]) -> dict[str, Any]:
        return model.preprocess(texts) | {"pixels": torch.zeros(len(texts))}

    for texts in (passage_texts(store), query_texts(store)):
        assert token_cache(texts, Reading(odd, model.tokenizer), key="") is None
        assert token_cache(texts, Reading(more, model.tokenizer), key="") is None
        assert token_cache(texts, Reading(model.preprocess, None), key="") is None
    assert not (cache_folder() / "tokens").exists()


def test_a_run_that_reads_little_of_a_dataset_does_not_tokenise_all_of_it(tiny_model: Path, toy_dataset: Path) -> None:
    model, store = SentenceTransformer(str(tiny_model), device="cpu"), open_store(toy_dataset)
    settings = FitConfig(model="m", objective="lsepair", batch_size=2, group_size=4, max_steps=1)
    collator = make_collator(model, TrainingSet(store, settings))
    assert isinstance(collator, Collator)
    assert collator.cached is None


@pytest.mark.parametrize(
    ("column", "number"),
    [("positive_weights", math.nan), ("negative_weights", 0.0), ("positive_probabilities", math.nan)],
)
def test_weights_and_probabilities_that_are_none_are_refused(
    toy_dataset: Path, tmp_path: Path, column: str, number: float
) -> None:
    rows = folders.read_table(toy_dataset, "train").to_pylist()
    rows[3][column] = [number] * len(rows[3][column])
    shutil.copytree(toy_dataset, tmp_path / "wrong")
    with folders.writing(tmp_path / "wrong", "dataset", "test") as draft:
        draft.write_table("train", pa.Table.from_pylist(rows, schema=EXAMPLE_SCHEMA))
        for name in ("corpus", "queries", "judgements", "judges"):
            draft.write_table(name, folders.read_table(toy_dataset, name))
    with pytest.raises(DataError, match=f"train.parquet: {column} of query 'q03' contain {number}: weights must be"):
        open_store(tmp_path / "wrong")
