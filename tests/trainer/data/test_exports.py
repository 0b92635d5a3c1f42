"""Peers read what `labelkit export` writes: sentence-transformers trains on it."""

from pathlib import Path

import pytest
from datasets import load_dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from labelkit.exchange.exporting import export
from labelkit.exchange.options import ExportOptions
from trainer.config.fit_config import FitConfig
from trainer.training.fit import fit


@pytest.mark.parametrize(("name", "columns"), [("st-ntuple", 6), ("st-triplet", 3)])
def test_sentence_transformers_trains_on_an_export(
    toy_dataset: Path, tiny_model: Path, tmp_path: Path, name: str, columns: int
) -> None:
    export(toy_dataset, tmp_path / "export", ExportOptions(to=name))
    rows = load_dataset(str(tmp_path / "export"), "train", split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows.column_names) == columns
    model = SentenceTransformer(str(tiny_model), device="cpu")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=8, learning_rate=1e-2,
        report_to=[], use_cpu=True, save_strategy="no",
    )  # fmt: skip
    loss = MultipleNegativesRankingLoss(model)
    found = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss).train()
    assert 0 < found.training_loss < 10
    assert any(not value.equal(before[key]) for key, value in model.state_dict().items())


QUERIES = {"tevatron": 12, "st-labeled-list": 13, "beir": 13}
"""How many stand in each export: the one without positives where the format can hold it."""


@pytest.mark.parametrize("name", QUERIES)
def test_our_own_exports_train_as_files_of_other_tools_do(
    toy_dataset: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    export(toy_dataset, tmp_path / "export", ExportOptions(to=name))
    settings = FitConfig(model=str(tiny_model), objective="lsepair", max_steps=1, batch_size=4)
    report = fit(tmp_path / "export", tmp_path / "model", settings)
    assert report.stages[0].counts["queries"] == QUERIES[name]
    assert report.steps == 1
