"""Rerankers trained from the same datasets with the same objectives, with a tiny cross-encoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder

from labelkit.errors import UsageError
from labelkit.storage import folders
from trainer.bakeoffs.bakeoff import bakeoff
from trainer.bakeoffs.config import BakeoffConfig
from trainer.config.fit_config import FitConfig
from trainer.data.batch_order import BatchOrder
from trainer.data.store import open_store
from trainer.data.training_sets import TrainingSet
from trainer.label_errors import suspects
from trainer.objectives.objectives import OBJECTIVES
from trainer.retrieval.evaluate import evaluate
from trainer.retrieval.options import EvaluateOptions
from trainer.training.fit import fit

from ..conftest import call


def config(model: Path, objective: str = "lsepair", **settings: Any) -> FitConfig:
    quick = {"max_steps": 6, "batch_size": 6, "learning_rate": 5e-3} | settings
    return FitConfig(model=str(model), architecture="cross-encoder", objective=objective, **quick)


def weights(folder: Path) -> str:
    return str(folders.read_manifest(folder, "model").files["model.safetensors"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_a_cross_encoder(
    tiny_reranker: Path, toy_dataset: Path, tmp_path: Path, objective: str
) -> None:
    settings = config(tiny_reranker, objective, max_steps=60, batch_size=12, learning_rate=1e-2)
    report = fit(toy_dataset, tmp_path / "model", settings)
    losses = report.stages[0].losses
    first, last = (sum(point["loss"] for point in part) / 5 for part in (losses[:5], losses[-5:]))
    # The floor is the entropy of two equal positives for JointLH and of probabilities 0.9 and 0.1 for BiXSE.
    floors = {"jointlh": 0.6931, "jointlh-sum": 1.3863, "jointlh-gain": 0.6931, "bixse": 6 * 0.3251}
    floor = floors.get(objective, 0.0)
    assert last - floor < 0.6 * (first - floor)


@pytest.mark.parametrize("prompts", [{}, {"prompts": {"ask": "word9 word4 "}, "default_prompt_name": "ask"}])
def test_the_first_loss_is_that_of_the_pairs_scored_one_by_one(
    tiny_reranker: Path, toy_dataset: Path, tmp_path: Path, prompts: dict[str, Any]
) -> None:
    """Everything between the dataset and the loss, once more with `predict` and a loop over the pairs of a group."""
    start = tmp_path / "start"
    fresh: Any = CrossEncoder(str(tiny_reranker), device="cpu", **prompts)
    fresh.model.classifier.weight.data *= 100  # so that the loss depends on every token
    fresh.save_pretrained(str(start))
    settings = config(start, max_steps=1, temperature=0.5, mini_batch_tokens=40, max_passage_length=12)
    report = fit(toy_dataset, tmp_path / "model", settings)
    training_set = TrainingSet(open_store(toy_dataset), settings)
    first = next(iter(BatchOrder(training_set.keys, settings.batch_size, settings.seed)))
    encoder, losses = CrossEncoder(str(start), device="cpu", max_length=12), []
    for group in (training_set[index] for index in first):
        texts = [training_set.passages[member.passage_id] for member in group.members]
        found = [encoder.predict((group.query, text), activation_fn=torch.nn.Identity()) / 0.5 for text in texts]
        scores = torch.tensor([float(each) for each in found])
        positives, negatives = scores[: len(group.positives)], scores[len(group.positives) :]
        assert len(negatives) == len(group.negatives) == 4
        pairs = [torch.exp(negative - positive) for positive in positives for negative in negatives]
        losses.append(float(torch.log(1 + torch.stack(pairs).sum())))
    assert report.stages[0].losses[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_folder_is_an_ordinary_cross_encoder_with_a_card(
    tiny_model: Path, toy_dataset: Path, beir: Path, tmp_path: Path
) -> None:
    settings = config(tiny_model, max_steps=None, epochs=2, dev=f"{beir}:test")
    report = fit(toy_dataset, tmp_path / "model", settings, evaluation=[beir])
    model = CrossEncoder(str(tmp_path / "model"), device="cpu")
    assert model.predict([("word1 word2", "word3"), ("word1", "word4")]).shape == (2,)
    manifest = folders.read_manifest(tmp_path / "model", "model")
    assert FitConfig(**manifest.facts.config) == settings
    assert len(report.stages[0].dev) == 2
    card = (tmp_path / "model" / "README.md").read_text()
    assert "pipeline_tag: text-ranking" in card
    assert "model = CrossEncoder('model')" in card or 'model = CrossEncoder("model")' in card
    assert "| difference to bm25:100 | beir |" in card


def test_an_interrupted_run_resumes_to_the_same_weights(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.training import group_trainer

    settings = config(tiny_model, max_steps=6, checkpoint_minutes=0)
    fit(toy_dataset, tmp_path / "whole", settings)
    logged = group_trainer.GroupTrainer.log

    def dies(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        logged(self, logs, start_time)
        if self.state.global_step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(group_trainer.GroupTrainer, "log", dies)
    with pytest.raises(KeyboardInterrupt):
        fit(toy_dataset, tmp_path / "cut", settings)
    assert list((tmp_path / "cut.checkpoints").glob("stage-1/checkpoint-*"))
    monkeypatch.setattr(group_trainer.GroupTrainer, "log", logged)
    fit(toy_dataset, tmp_path / "cut", settings)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_adapters_are_merged_and_the_head_is_trained(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    fit(toy_dataset, tmp_path / "plain", config(tiny_model, max_steps=1, learning_rate=1e-9))
    fit(toy_dataset, tmp_path / "model", config(tiny_model, lora_rank=2))
    before, after = (CrossEncoder(str(tmp_path / name), device="cpu") for name in ("plain", "model"))
    assert before.state_dict().keys() == after.state_dict().keys()
    heads = [one.model.classifier.weight for one in (before, after)]
    assert not torch.equal(*heads)


def test_distillation_reads_the_scores_of_the_group(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    plain, taught = (
        fit(toy_dataset, tmp_path / f"model-{weight}", config(tiny_model, max_steps=1, distil_weight=weight))
        for weight in (0.0, 1.0)
    )
    assert taught.stages[0].losses[0]["loss"] > plain.stages[0].losses[0]["loss"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"in_batch_negatives": True}, "in_batch_negatives has no effect: a cross-encoder scores a query only with"),
        ({"matryoshka_dims": (8,)}, "matryoshka_dims has no effect: a cross-encoder has no embeddings"),
        ({"gradient_cache": True}, "lower batch_size to save memory"),
        ({"same_tower_negatives": True}, "remove same_tower_negatives"),
        ({"max_query_length": 8}, "limit both together with max_passage_length"),
        ({"pool": "pool"}, "add negatives with labelkit mine"),
        ({"similarity": "dot"}, "remove similarity"),
        ({"stages": ["llm", {"labels": "human", "in_batch_negatives": True}]}, "stage 2: in_batch_negatives"),
    ],
)
def test_settings_without_an_effect_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        config(Path("model"), **settings)


def test_a_bakeoff_measures_the_cross_encoders_and_not_their_first_stage(
    tiny_reranker: Path, toy_dataset: Path, beir: Path, tmp_path: Path
) -> None:
    fitted = {"model": str(tiny_reranker), "architecture": "cross-encoder", "max_steps": 1, "batch_size": 6}
    grid = BakeoffConfig(objectives=("lsepair",), regimes={"all": ["all"]}, seeds=1, fit=fitted)
    bakeoff(toy_dataset, tmp_path / "out", grid, evaluation=[beir], split="test")
    found = json.loads((tmp_path / "out" / "results" / "untrained.json").read_text())["result"]["values"]["beir"]
    measured = evaluate(str(tiny_reranker), [beir])
    own, first = (measured.of(name, "beir").per_query for name in measured.models)
    assert own != first
    assert found["RR@10"] == own["RR@10"]


def test_suspects_need_embeddings(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="suspects compares embeddings of a dense encoder"):
        suspects(toy_dataset, tmp_path / "suspects", config(tiny_model), folds=2)


def write_run(path: Path) -> Path:
    """A run that ranks the passages of q0, and the relevant passage of q1 second."""
    lines = [f"q0 Q0 p{n} {n + 1} {9 - n} made" for n in range(4)] + ["q1 Q0 p0 1 2.0 made", "q1 Q0 p4 2 1.0 made"]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_cross_encoder_reranks_its_first_stage(tiny_reranker: Path, beir: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "made.run")
    options = EvaluateOptions(rerank=f"{run}:2", runs=tmp_path / "runs")
    found = evaluate(str(tiny_reranker), [beir], options)
    assert found.models == (str(tiny_reranker), f"{run}:2")
    assert found.of(f"{run}:2", "beir").means["RR@10"].value == pytest.approx(0.25), "q0's p2 is below depth 2"
    files = {path.name.split("made")[0] for path in (tmp_path / "runs").iterdir()}
    assert len(files) == 2
    (reranked,) = (path for path in (tmp_path / "runs").iterdir() if "tiny-reranker" in path.name)
    texts = {f"p{n}": f"word{n} word{n + 1}" for n in range(6)}
    lines = [line.split() for line in reranked.read_text().splitlines()]
    assert sorted(line[0] for line in lines) == ["q0", "q0", "q1", "q1"]
    asked = {"q0": "word2", "q1": "word5"}
    scores = CrossEncoder(str(tiny_reranker), device="cpu").predict(
        [(asked[line[0]], texts[line[2]]) for line in lines], activation_fn=torch.nn.Identity()
    )
    assert [float(line[4]) for line in lines] == pytest.approx(scores.tolist(), rel=1e-5)
    assert float(lines[0][4]) >= float(lines[1][4])


def test_bm25_is_the_first_stage_by_default(
    tiny_reranker: Path,
    tiny_model: Path,
    beir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "eval", tiny_reranker, beir, "--compare", tiny_model, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [Path(name).name for name in found["models"]] == ["tiny-reranker", "tiny", "bm25:100"]
    assert call(monkeypatch, "eval", tiny_model, beir, "--rerank", "bm25:5") == 2
    assert "none of the models is a cross-encoder" in capsys.readouterr().err
    assert call(monkeypatch, "eval", tiny_reranker, beir, "--rerank", "nowhere.run:5") == 2
    assert "there is no file nowhere.run" in capsys.readouterr().err
    assert call(monkeypatch, "eval", tiny_reranker, beir, "--dimensions", "8") == 2
    assert "on which dimensions has no effect" in capsys.readouterr().err
