"""A model that is not finite, or that learnt nothing, is never written."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from labelkit.errors import LabelkitError
from labelkit.storage import folders
from trainer.config.fit_config import FitConfig
from trainer.label_errors import suspects
from trainer.training.checkpoints import Checkpoints, write_weights
from trainer.training.encoder import build_model
from trainer.training.fit import fit

from ..conftest import WORDS, WriteDataset, call, example, label, passage


def config(model: Path, objective: str = "lsepair", **settings: Any) -> FitConfig:
    quick = {"max_steps": 3, "batch_size": 6, "learning_rate": 5e-3} | settings
    return FitConfig(model=str(model), objective=objective, **quick)


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"dataset", "cache", "beir", "damaged"}


@pytest.fixture
def damaged(tiny_model: Path, tmp_path: Path) -> Path:
    """The small encoder with one NaN among its weights."""
    shutil.copytree(tiny_model, tmp_path / "damaged")
    weights = load_file(tmp_path / "damaged" / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][3] = math.nan
    save_file(weights, tmp_path / "damaged" / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "damaged"


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("rate", [1e15])
def test_weights_that_overflow_at_any_step_are_not_written(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path, steps: int, rate: float
) -> None:
    settings = config(tiny_model, max_steps=steps, learning_rate=rate, checkpoint_minutes=0)
    with pytest.raises(LabelkitError, match=r"(not finite|loss is nan at step \d).*lower learning_rate|lower learning"):
        fit(toy_dataset, tmp_path / "model", settings)
    assert left_in(tmp_path) == set()


def test_no_checkpoint_is_written_of_weights_that_are_not_finite(tiny_model: Path, tmp_path: Path) -> None:
    model = build_model(config(tiny_model))
    next(model.parameters()).data[0, 0] = math.inf
    checkpoints = Checkpoints(tmp_path / "kept", {})
    with pytest.raises(LabelkitError, match=r"1 of the [\d,]+ weights in .*word_embeddings.weight are not finite"):
        write_weights(checkpoints.stage(1) / "checkpoint-3" / "weights.safetensors", model, {})
    assert not (tmp_path / "kept").exists()


def test_a_model_that_is_damaged_already_gives_no_model_no_figure_and_no_list(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damaged: Path,
    tiny_model: Path,
    toy_dataset: Path,
    beir: Path,
    tmp_path: Path,
) -> None:
    flags = ("--model", damaged, "--objective", "lsepair", "--max-steps", 2)
    for command in (
        ("fit", toy_dataset, "-o", tmp_path / "model", *flags),
        ("suspects", toy_dataset, "-o", tmp_path / "doubted", *flags, "--folds", 2),
        ("eval", damaged, beir, "--runs", tmp_path / "runs"),
        ("eval", tiny_model, beir, "--compare", damaged, "--json"),
        ("bakeoff", toy_dataset, "-o", tmp_path / "off", "--model", damaged, "--seeds", 1, "--eval", beir),
    ):
        assert call(monkeypatch, *command) == 1, command
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "not finite" in printed.err
        assert str(damaged) in printed.err
    assert left_in(tmp_path) <= {"off"}
    assert not any((tmp_path / "off").rglob("*.json"))


def test_a_fold_whose_similarities_overflow_gives_no_list(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    settings = config(tiny_model, similarity="dot", temperature=1e-38, max_steps=1)
    with pytest.raises(LabelkitError):
        suspects(toy_dataset, tmp_path / "doubted", settings, folds=2)
    assert not (tmp_path / "doubted").exists()


@pytest.fixture
def without_negatives(write_dataset: WriteDataset) -> Path:
    """Six queries with a positive each and nothing else."""
    passages = [passage(f"p{n}", WORDS[n]) for n in range(6)]
    labels = [label(f"p{n}", score=0.9) for n in range(6)]
    return write_dataset([example(f"q{n}", [labels[n]], query=WORDS[n + 10]) for n in range(6)], passages)


@pytest.mark.parametrize("objective", ["singlelh", "jointlh", "summarglh", "lsepair", "lsepair-hardneg", "listwise-kl"])
def test_training_without_a_negative_is_said_and_is_an_error(
    tiny_model: Path,
    without_negatives: Path,
    tmp_path: Path,
    objective: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("WARNING", "trainer")
    settings = config(tiny_model, objective, in_batch_negatives=False)
    with pytest.raises(LabelkitError, match="nothing was learnt, no model is written: no step had a gradient"):
        fit(without_negatives, tmp_path / "model", settings)
    assert "no query of the first step has a negative" in caplog.text
    assert "the first step has no gradient" in caplog.text
    assert left_in(tmp_path) == set()


def test_one_text_for_all_passages_is_an_error(tiny_model: Path, write_dataset: WriteDataset, tmp_path: Path) -> None:
    passages = [passage(f"p{n}", WORDS[0]) for n in range(4)]
    dataset = write_dataset([example(f"q{n}", [f"p{n}"], query=WORDS[n + 10]) for n in range(4)], passages)
    with pytest.raises(LabelkitError, match="nothing was learnt"):
        fit(dataset, tmp_path / "model", config(tiny_model))
    assert left_in(tmp_path) == set()


def test_positives_alone_are_warned_of_where_an_objective_can_balance_them(
    tiny_model: Path, write_dataset: WriteDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passages = [passage(f"p{n}", WORDS[n]) for n in range(8)]
    examples = [example(f"q{n}", [f"p{2 * n}", f"p{2 * n + 1}"], query=WORDS[n + 10]) for n in range(4)]
    caplog.set_level("WARNING", "trainer")
    settings = config(tiny_model, "jointlh", in_batch_negatives=False)
    fit(write_dataset(examples, passages), tmp_path / "model", settings)
    assert "no query of the first step has a negative" in caplog.text
    assert "no gradient" not in caplog.text


def test_a_rate_too_small_to_change_a_weight_is_an_error(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelkitError, match="no weight has changed; raise learning_rate"):
        fit(toy_dataset, tmp_path / "model", config(tiny_model, learning_rate=1e-60, weight_decay=0))
    assert left_in(tmp_path) == set()


def test_a_single_step_is_taken_at_the_whole_rate(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    fit(toy_dataset, tmp_path / "model", config(tiny_model, max_steps=1))
    assert folders.file_sha256(tmp_path / "model/model.safetensors") != folders.file_sha256(
        tiny_model / "model.safetensors"
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path / "model"))
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert moved == pytest.approx(5e-3, rel=0.1)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
