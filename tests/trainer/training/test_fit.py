"""Real runs of a few steps with a tiny encoder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize

from labelkit.errors import ArtifactError, DataError, LabelkitError, UsageError
from labelkit.storage import folders
from trainer.config.fit_config import FitConfig
from trainer.objectives.objectives import OBJECTIVES
from trainer.retrieval.search import read_collection
from trainer.training.fit import FitReport, fit, train


def config(model: Path, objective: str = "lsepair", **settings: Any) -> FitConfig:
    quick = {"max_steps": 6, "batch_size": 6, "learning_rate": 5e-3} | settings
    return FitConfig(model=str(model), objective=objective, **quick)


def weights_sha256(folder: Path) -> str:
    return str(folders.read_manifest(folder, "model").files["model.safetensors"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_falls_on_a_set_that_can_be_learnt_by_heart(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path, objective: str
) -> None:
    report = fit(toy_dataset, tmp_path / "model", config(tiny_model, objective, max_steps=30))
    first, last = report.stages[0].loss_at_ends()
    # JointLH of two positives never falls below log 2, its sum below 2 log 2; the hardest negative is hard.
    assert last < (0.8 if objective == "lsepair-hardneg" else 0.6) * first
    assert report.steps == 30


def test_the_model_folder_is_an_ordinary_one_and_says_how_it_was_made(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path
) -> None:
    settings = config(tiny_model, max_steps=None, epochs=2, similarity="dot", temperature=0.5)
    report = fit(toy_dataset, tmp_path / "model", settings, command="trainer fit x")
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert torch.isfinite(model.encode(["word1 word2"], convert_to_tensor=True)).all()
    assert model.similarity_fn_name == "dot"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| 1 | all | lsepair | 12 | 4 | " in card, "not the card of the model it started from"
    assert "    trainer fit x\n" in card
    manifest = folders.read_manifest(tmp_path / "model", "model")
    assert manifest.command == "trainer fit x"
    assert manifest.inputs == {str(toy_dataset): folders.file_sha256(toy_dataset / "manifest.json")}
    facts = manifest.facts
    assert FitConfig(**facts.config) == settings
    assert facts.packages["torch"] == torch.__version__
    (stage,) = facts.stages
    assert stage["counts"]["queries"] == 13
    assert stage["counts"]["queries_left_out"] == 1
    assert stage["steps"] == report.steps == 4, "two epochs of 12 queries in batches of 6"
    assert [point["step"] for point in stage["losses"]] == [1, 2, 3, 4]
    assert all(0 < point["masked_share"] < 0.5 for point in stage["losses"])
    assert 0 < stage["idle_share"] < 1


def test_the_same_command_twice_gives_the_same_weights_and_another_seed_gives_others(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path
) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        fit(toy_dataset, tmp_path / name, config(tiny_model, seed=seed))
    one, two, three = (weights_sha256(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one != three
    assert weights_sha256_of(tiny_model) not in {one, three}


def weights_sha256_of(folder: Path) -> str:
    return folders.file_sha256(folder / "model.safetensors")


def test_layers_that_a_checkpoint_lacks_start_from_the_seed(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path
) -> None:
    """A base model without its pooler is the common case: the weights are drawn when the model is loaded."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    kept = {name: tensor for name, tensor in load_file(bare / "model.safetensors").items() if "pooler" not in name}
    save_file(kept, bare / "model.safetensors", metadata={"format": "pt"})
    for name in ("one", "two"):
        fit(toy_dataset, tmp_path / name, config(bare, max_steps=1))
        torch.manual_seed(99)
    assert any("pooler" in name for name in load_file(tmp_path / "one" / "model.safetensors"))
    assert weights_sha256(tmp_path / "one") == weights_sha256(tmp_path / "two")


def test_the_first_loss_is_that_of_the_untrained_model_on_the_first_batch(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path
) -> None:
    """Everything between the dataset and the loss, once more with encode and a loop over pairs."""
    still = write_without_dropout(tiny_model, tmp_path / "still")
    settings = config(still, max_steps=1, temperature=0.2)
    report = fit(toy_dataset, tmp_path / "model", settings)
    assert report.stages[0].losses[0]["loss"] == pytest.approx(
        first_loss_by_loops(still, toy_dataset, settings), rel=1e-5
    )


def write_without_dropout(model: Path, target: Path) -> Path:
    loaded = SentenceTransformer(str(model), device="cpu")
    loaded.save_pretrained(str(target))
    settings = json.loads((target / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (target / "config.json").write_text(json.dumps(settings))
    return target


def first_loss_by_loops(model: Path, dataset: Path, settings: FitConfig) -> float:
    from trainer.data.batch_order import BatchOrder
    from trainer.data.store import open_store
    from trainer.data.training_sets import TrainingSet

    training_set = TrainingSet(open_store(dataset), settings)
    first = next(iter(BatchOrder(training_set.keys, settings.batch_size, settings.seed)))
    groups = [training_set[index] for index in first]
    encoder = SentenceTransformer(str(model), device="cpu")
    unit = {
        name: encoder.encode_document(text, normalize_embeddings=True) for name, text in training_set.passages.items()
    }
    names = {member.passage_id for group in groups for member in group.members}
    total = 0.0
    for group in groups:
        query = encoder.encode_query(group.query, normalize_embeddings=True)
        s = {name: torch.tensor(float(query @ unit[name]) / settings.temperature) for name in names}
        pairs = [
            torch.exp(s[negative] - s[positive.passage_id])
            for positive in group.positives
            for negative in names - group.excluded
        ]
        total += float(torch.log(1 + torch.stack(pairs).sum()))
    return total / len(groups)


def test_a_dataset_that_is_missing_or_unfinished_is_refused_before_anything_is_written(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="does not exist, but a dataset is needed"):
        fit(tmp_path / "nowhere", tmp_path / "model", config(tiny_model))
    (toy_dataset / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="it is not a finished dataset"):
        fit(toy_dataset, tmp_path / "model", config(tiny_model))
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob("model*"))


def test_known_leakage_is_refused_unless_allowed(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    digest = folders.file_sha256(toy_dataset / folders.MANIFEST)
    leak = {"dataset": digest, "findings": [{"name": "leaked-queries", "found": 2}]}
    (toy_dataset / "audit.json").write_text(json.dumps(leak))
    with pytest.raises(DataError, match="its audit found 2 queries of an evaluation set"):
        fit(toy_dataset, tmp_path / "model", config(tiny_model))
    assert not (tmp_path / "model").exists()
    assert fit(toy_dataset, tmp_path / "model", config(tiny_model, allow_leaks=True, max_steps=1)).steps == 1


def test_training_queries_are_no_evaluation(tiny_model: Path, toy_dataset: Path, beir: Path, tmp_path: Path) -> None:
    """A dev set or collection that asks, in other letters, what a query with positives asks."""
    asked = {"q0": "Word59, WORD30!", "q1": "word5"}
    rows = [json.dumps({"_id": name, "text": text}) for name, text in asked.items()]
    (beir / "queries.jsonl").write_text("\n".join(rows) + "\n")
    cases = {"dev": ({"dev": f"{beir}:test"}, []), "evaluation": ({}, [read_collection(beir, "test")])}
    for name, (settings, collections) in cases.items():
        output = tmp_path / name
        with pytest.raises(DataError, match=r"1 of the 2 queries of beir, split test, are also training .* 'q0'"):
            train(toy_dataset, output, config(tiny_model, **settings), collections=collections, command="test")
        allowed = config(tiny_model, allow_leaks=True, max_steps=1, **settings)
        assert train(toy_dataset, output, allowed, collections=collections, command="test").steps == 1
    (beir / "queries.jsonl").write_text("\n".join([rows[0].replace("30", "31"), rows[1]]) + "\n")
    train(
        toy_dataset,
        tmp_path / "other",
        config(tiny_model, max_steps=1),
        collections=[read_collection(beir, "test")],
        command="test",
    )


def test_two_processes_train_what_one_does(tiny_model: Path, two_sources: Path, beir: Path, tmp_path: Path) -> None:
    """`torchrun trainer fit` on the real command line, two stages with a dev set and checkpoints. 12 queries in batches
    of 11: the last batch has one query.
    """
    still = write_without_dropout(tiny_model, tmp_path / "still")
    settings = tmp_path / "fit.toml"
    settings.write_text(
        f"model = '{still}'\nobjective = 'lsepair'\nbatch_size = 11\ngradient_cache = true\nepochs = 2\n"
        f"learning_rate = 1e-3\nlearn_temperature = true\nstages = ['human + llm', 'human']\n"
        f"dev = '{beir}:test'\ncheckpoint_minutes = 0.0\n"
    )
    arguments = ["fit", str(two_sources), "--config", str(settings), "-o"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    for name, launcher in (("one", [sys.executable, "-m"]), ("two", torchrun)):
        command = [*launcher, "trainer", *arguments, str(tmp_path / name)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=180, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    start = load_file(still / "model.safetensors")
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=2e-5)
    assert max(float((weight - start[name]).abs().max()) for name, weight in one.items()) > 1e-3
    stages = [folders.read_manifest(tmp_path / name, "model").facts.stages for name in ("one", "two")]
    for mine, others in zip(*stages, strict=True):
        assert [point["value"] for point in others["dev"]] == [point["value"] for point in mine["dev"]]
        for point, other in zip(mine["losses"], others["losses"], strict=True):
            # The share of masked pairs is a mean over processes whose parts differ in size.
            names = point.keys() - {"masked_share", "suspected_share"}
            assert {name: other[name] for name in names} == pytest.approx({n: point[n] for n in names}, rel=1e-3)
    first, last = stages[0][0]["losses"][0], stages[0][0]["losses"][-1]
    assert first["temperature"] != last["temperature"]
    assert {"loss_human", "gradient_llm", "cosine_human_llm"} <= first.keys()


def test_a_margin_masks_lookalikes_and_the_log_says_how_many(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path
) -> None:
    strict, loose = (
        fit(toy_dataset, tmp_path / str(margin), config(tiny_model, max_steps=1, false_negative_margin=margin))
        for margin in (-1.0, 2.0)
    )
    assert strict.stages[0].losses[0]["suspected_share"] > 0.3
    assert strict.stages[0].losses[0]["masked_share"] > loose.stages[0].losses[0]["masked_share"]
    assert loose.stages[0].losses[0]["suspected_share"] == 0


def test_a_folder_in_the_way_is_left_alone(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="choose another output folder"):
        fit(toy_dataset, tmp_path / "model", config(tiny_model))
    assert (tmp_path / "model" / "thesis.txt").read_text() == "years of work"


def test_the_finished_model_of_another_run_is_not_replaced(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Training may take days. The same run again is no other one, and may use more workers."""
    target, other = tmp_path / "model", tmp_path / "other"
    toy_dataset = toy_dataset.rename(tmp_path / "toy")
    request.getfixturevalue("two_sources").rename(other)
    fit(toy_dataset, target, config(tiny_model))
    before = weights_sha256(target)
    for dataset, settings, told in (
        (toy_dataset, config(tiny_model, seed=1), "seed = 0 and not 1"),
        (toy_dataset, config(tiny_model, objective="jointlh"), "objective = 'lsepair' and not 'jointlh'"),
        (other, config(tiny_model), "another dataset"),
        (toy_dataset, config(target), "model = "),
    ):
        with pytest.raises(
            UsageError, match=rf"model contains the model of another run, with {told}.*choose another out"
        ):
            fit(dataset, target, settings)
        assert weights_sha256(target) == before
    fit(toy_dataset, target, config(tiny_model, workers=1))
    assert weights_sha256(target) == before


def test_checkpoints_in_the_way_are_left_alone(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    """A folder with checkpoints that another program left beside a model."""
    target = tmp_path / "model"
    fit(toy_dataset, target, config(tiny_model))
    (target / "checkpoint-500").mkdir()
    (target / "checkpoint-500" / "optimizer.pt").write_bytes(b"days")
    with pytest.raises(ArtifactError, match=r"model contains checkpoint-500/optimizer\.pt beside the model"):
        fit(toy_dataset, target, config(tiny_model))
    assert (target / "checkpoint-500" / "optimizer.pt").read_bytes() == b"days"


def test_a_run_that_diverges_stops_and_leaves_no_model(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelkitError, match=r"the loss is nan at step .*; lower learning_rate"):
        fit(toy_dataset, tmp_path / "model", config(tiny_model, learning_rate=1e15))
    assert not list(tmp_path.glob("model*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_passage_length": 100}, "max_passage_length 100 is more than the 64 tokens"),
        ({"max_query_length": 65}, "max_query_length 65"),
    ],
)
def test_lengths_that_the_model_does_not_read_are_refused(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        fit(toy_dataset, tmp_path / "model", config(tiny_model, **settings))


def test_trap_cosine_without_scaling_under_the_name_of_dot(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    modules = [*SentenceTransformer(str(tiny_model), device="cpu"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "unit"))
    with pytest.raises(UsageError, match=r"normalises its embeddings.*set similarity to cosine"):
        fit(toy_dataset, tmp_path / "model", config(tmp_path / "unit", similarity="dot"))


def test_training_reads_the_prompts_that_encode_query_and_encode_document_use(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path
) -> None:
    still = write_without_dropout(tiny_model, tmp_path / "still")
    model = SentenceTransformer(str(still), device="cpu", prompts={"query": "word7 ", "passage": "word8 "})
    model.save_pretrained(str(tmp_path / "prompted"))
    settings = config(tmp_path / "prompted", max_steps=1, temperature=0.2)
    report = fit(toy_dataset, tmp_path / "model", settings)
    expected = first_loss_by_loops(tmp_path / "prompted", toy_dataset, settings)
    assert report.stages[0].losses[0]["loss"] == pytest.approx(expected, rel=1e-5)
    bare = first_loss_by_loops(still, toy_dataset, settings)
    assert abs(expected - bare) > 1e-3


def test_length_limits_reach_the_tokens(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    """[CLS] word [SEP]: with 3 tokens a passage is cut to its first word, and training sees other losses."""
    full, cut = (
        fit(toy_dataset, tmp_path / name, config(tiny_model, max_steps=1, max_passage_length=length))
        for name, length in (("full", 5), ("cut", 3))
    )
    assert isinstance(full, FitReport)
    assert full.stages[0].losses[0]["loss"] != cut.stages[0].losses[0]["loss"]
