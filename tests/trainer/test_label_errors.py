"""Planted mistakes come first, and no model judges what it was trained on."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from labelkit.corpora.runs import read_run
from labelkit.errors import UsageError
from labelkit.storage import folders
from trainer.commands.app import main
from trainer.config.fit_config import FitConfig
from trainer.data.store import open_store
from trainer.data.training_sets import TrainingSet, fold_of
from trainer.label_errors import suspects

from .conftest import WORDS, WriteDataset, example, label, passage

QUERIES = 20


@pytest.fixture
def words_model(tmp_path: Path) -> Path:
    """Embeds a text as the mean of one axis a word."""
    vocabulary = {"[UNK]": 0} | {word: number for number, word in enumerate(WORDS, 1)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    embedding = StaticEmbedding(tokenizer, embedding_weights=torch.eye(len(vocabulary)))
    SentenceTransformer(modules=[embedding]).save_pretrained(str(tmp_path / "words"))
    return tmp_path / "words"


@pytest.fixture
def planted(write_dataset: WriteDataset) -> Path:
    """Each query shares a word with its positive; in q03 a negative does and the positive does not."""
    passages = [passage(f"p{n:02d}", f"{WORDS[n]} {WORDS[n + 20]}") for n in range(QUERIES)]
    passages += [passage(f"n{n:02d}", f"{WORDS[n + 40]}") for n in range(QUERIES)]
    examples = [
        example(
            f"q{n:02d}",
            positives=[label(f"p{n:02d}", 2, "llm" if n % 2 else "human")] if n != 3 else [label("n03", 2, "llm")],
            negatives=[f"n{n:02d}"] if n != 3 else ["p03"],
            query=WORDS[n],
        )
        for n in range(QUERIES)
    ]
    return write_dataset(examples, passages)


def test_planted_mistakes_are_doubted_most(words_model: Path, planted: Path, tmp_path: Path) -> None:
    config = FitConfig(model=str(words_model), objective="lsepair", max_steps=2, batch_size=4, learning_rate=1e-4)
    made = suspects(planted, tmp_path / "out", config, folds=4, show=2 * QUERIES, command="test")
    found = made.worst
    assert made.labels == len(found) == 2 * QUERIES
    assert {(one.query_id, one.passage_id, one.side) for one in found[:2]} == {
        ("q03", "p03", "negative"),
        ("q03", "n03", "positive"),
    }
    assert found[1].doubt > 0.4 > 0.1 > found[2].doubt
    above = sum(one.doubt > 0.5 for one in found if (one.source, one.side) == ("llm", "negative"))
    assert made.by_source["llm negative"] == (20, above)
    rows = list(csv.DictReader((tmp_path / "out" / "suspects.tsv").open(newline=""), delimiter="\t"))
    assert [(row["query_id"], float(row["doubt"])) for row in rows] == [(one.query_id, one.doubt) for one in found]
    assert set(read_run(tmp_path / "out" / "suspects.run")["q03"]) == {"p03", "n03"}
    assert folders.read_manifest(tmp_path / "out", "suspects").rows == {"suspects": 2 * QUERIES}
    assert not (tmp_path / "out.folds").exists()
    for other, folds_of_it in ((config.model_copy(update={"seed": 1}), 4), (config, 3)):
        with pytest.raises(UsageError, match=r"out contains the suspects of another run, with (seed|folds) = "):
            suspects(planted, tmp_path / "out", other, folds=folds_of_it, command="test")


def test_folds_split_the_queries_and_what_is_held_out_is_not_trained_on(planted: Path) -> None:
    store = open_store(planted)
    folds = fold_of(store.query_keys, 4)
    assert set(folds) == {0, 1, 2, 3}
    for fold in range(4):
        config = FitConfig(model="m", objective="lsepair", held_out=(fold, 4))
        trained = set(TrainingSet(store, config).rows)
        assert trained == set(np.flatnonzero(folds != fold))


def test_the_command(
    words_model: Path,
    planted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    flags = ["--model", str(words_model), "--objective", "lsepair", "--max-steps", "1", "--folds", "2", "--show", "3"]
    monkeypatch.setattr(sys, "argv", ["trainer", "suspects", str(planted), "-o", str(tmp_path / "out"), *flags])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (None, 0)
    printed = capsys.readouterr()
    assert "most doubted labels" in printed.out
    assert "negative, grade 0, llm" in printed.out
    assert "fold 2/2" in printed.err
    assert "llm negative: 1 of 20 labels with a doubt above 0.5" in printed.err
