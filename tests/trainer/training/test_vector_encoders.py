"""Sparse encoders and late interaction, trained from the same datasets with the same objectives, with tiny models."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from sentence_transformers.sparse_encoder.modules import SparseAutoEncoder
from torch import Tensor

from labelkit.errors import UsageError
from labelkit.pooling.dense_search import Lengths
from labelkit.pooling.model_loading import load_encoder
from labelkit.storage import folders
from trainer.config.architectures import LATE_INTERACTION, SPARSE
from trainer.config.fit_config import FitConfig
from trainer.data.batch_order import BatchOrder
from trainer.data.store import open_store
from trainer.data.training_sets import TrainingSet
from trainer.objectives.vector_loss import flops, token_scores
from trainer.retrieval import vector_search as module
from trainer.retrieval.evaluate import evaluate
from trainer.retrieval.options import EvaluateOptions
from trainer.retrieval.search import load_any_encoder, read_collection, search
from trainer.training.encoder import build_model
from trainer.training.fit import fit


@pytest.fixture
def start(tiny_model: Path, tiny_language_model: Path) -> dict[str, Path]:
    """Start model of each architecture."""
    return {SPARSE: tiny_language_model, LATE_INTERACTION: tiny_model}


def config(model: Path, architecture: str, objective: str = "lsepair", **settings: Any) -> FitConfig:
    quick = {"max_steps": 6, "batch_size": 6, "learning_rate": 5e-3} | settings
    named: dict[str, Any] = {"architecture": architecture, **quick}
    return FitConfig(model=str(model), objective=objective, **named)


def pair_score(query: Tensor, passage: Tensor) -> float:
    """The dot product of two sparse vectors, or MaxSim as a loop over the tokens."""
    if query.dim() == 1:
        return float(query @ passage)
    return sum(max(float(token @ other) for other in passage) for token in query)


def vectors(model: Any, texts: list[str], task: str) -> list[Tensor]:
    encode = model.encode_query if task == "query" else model.encode_document
    options = {"convert_to_sparse_tensor": False} if isinstance(model, SparseEncoder) else {}
    return [one.cpu() for one in encode(texts, **options)]


def test_the_first_loss_of_a_sparse_encoder_is_that_of_a_loop(
    tiny_language_model: Path, toy_dataset: Path, tmp_path: Path
) -> None:
    """Scores, in-batch negatives and the regulariser, once more with `encode` and loops."""
    weights: dict[str, Any] = {"query_flops_weight": 0.3, "passage_flops_weight": 0.2}
    settings = config(tiny_language_model, SPARSE, max_steps=1, temperature=2.0, **weights)
    report = fit(toy_dataset, tmp_path / "model", settings)
    training_set = TrainingSet(open_store(toy_dataset), settings)
    first = next(iter(BatchOrder(training_set.keys, settings.batch_size, settings.seed)))
    groups = [training_set[index] for index in first]
    names = list({member.passage_id for group in groups for member in group.members})
    model = SparseEncoder(str(tiny_language_model), device="cpu")
    asked = vectors(model, [group.query for group in groups], "query")
    read = vectors(model, [training_set.passages[name] for name in names], "document")
    losses = []
    for group, query in zip(groups, asked, strict=True):
        score = {name: pair_score(query, one) / 2 for name, one in zip(names, read, strict=True)}
        positives = [one.passage_id for one in group.positives]
        negatives = [name for name in names if name not in group.excluded]
        pairs = [math.exp(score[other] - score[one]) for one in positives for other in negatives]
        losses.append(math.log(1 + sum(pairs)))
    regulariser = 0.3 * float(torch.stack(asked).mean(0).square().sum())
    regulariser += 0.2 * float(torch.stack(read).mean(0).square().sum())
    wanted = sum(losses) / len(losses) + regulariser
    assert report.stages[0].losses[0]["loss"] == pytest.approx(wanted, rel=1e-4)


def test_maxsim_is_a_sum_of_maxima_over_the_tokens_that_count() -> None:
    torch.manual_seed(0)
    lengths = {"query": (2, 3, 1), "passage": (4, 1, 3, 2)}
    texts = {side: [torch.randn(length, 5) for length in each] for side, each in lengths.items()}
    padded = {}
    for side, each in texts.items():
        longest = max(lengths[side])
        rows = [torch.cat([one, torch.ones(len(one), 1)], dim=1) for one in each]
        # Padding with high numbers must not count.
        filler = torch.cat([torch.full((5,), 9.0), torch.zeros(1)])
        padded[side] = torch.stack([torch.cat([row, filler.expand(longest - len(row), 6)]) for row in rows])
    leaves = [padded[side].clone().requires_grad_() for side in ("query", "passage")]
    found = token_scores(*leaves)
    wanted = [[pair_score(query, one) for one in texts["passage"]] for query in texts["query"]]
    assert torch.allclose(found, torch.tensor(wanted), atol=1e-5)
    found.sum().backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert not leaf.grad[leaf[..., -1] == 0].any(), "padding has no gradient"


def test_flops_is_the_sum_of_squared_means() -> None:
    found = flops(torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]]), torch.arange(2))
    assert float(found) == pytest.approx(2.0**2 + 0 + 1.0**2)
    assert float(flops(torch.zeros(0, 3), torch.arange(0))) == 0.0


@pytest.mark.parametrize("architecture", [SPARSE, LATE_INTERACTION])
@pytest.mark.parametrize("objective", ["lsepair", "jointlh", "bixse", "lsepair-graded"])
def test_a_toy_dataset_is_learnt(
    start: dict[str, Path], toy_dataset: Path, tmp_path: Path, architecture: str, objective: str
) -> None:
    learning = {"max_steps": 60, "batch_size": 12, "learning_rate": 1e-2}
    sharper = {"temperature": 0.25} if architecture == LATE_INTERACTION else {}
    settings = config(start[architecture], architecture, objective, **learning, **sharper)
    losses = [point["loss"] for point in fit(toy_dataset, tmp_path / "model", settings).stages[0].losses]
    floor = {"jointlh": 0.6931, "bixse": 6 * 0.3251}.get(objective, 0.0)  # as for cross-encoders
    assert sum(losses[-4:]) / 4 - floor < 0.6 * (sum(losses[:4]) / 4 - floor)


@pytest.mark.parametrize("architecture", [SPARSE, LATE_INTERACTION])
def test_a_model_folder_is_measured_by_exact_search_in_blocks(
    start: dict[str, Path], toy_dataset: Path, beir: Path, tmp_path: Path, monkeypatch: Any, architecture: str
) -> None:
    settings = config(start[architecture], architecture, max_steps=None, epochs=2, dev=f"{beir}:test")
    report = fit(toy_dataset, tmp_path / "model", settings, evaluation=[beir])
    manifest = folders.read_manifest(tmp_path / "model", "model")
    assert FitConfig(**manifest.facts.config) == settings
    assert len(report.stages[0].dev) == 2
    kind = {SPARSE: SparseEncoder, LATE_INTERACTION: MultiVectorEncoder}[architecture]
    model = load_any_encoder(str(tmp_path / "model"))
    assert isinstance(model, kind)
    assert f"from sentence_transformers import {kind.__name__}" in (tmp_path / "model" / "README.md").read_text()
    data = read_collection(beir, None)
    monkeypatch.setattr(module, "BLOCK", 4)
    run = search(model, None, data, depth=6, lengths=Lengths(8, 8))
    passages = list(data.passages())
    read = vectors(model, [one.full_text for one in passages], "document")
    for query_id, query in data.queries.items():
        (asked,) = vectors(model, [query.text], "query")
        wanted = {one.passage_id: pair_score(asked, each) for one, each in zip(passages, read, strict=True)}
        assert run[query_id] == pytest.approx(wanted, rel=1e-4, abs=1e-5)
        assert list(run[query_id].values()) == sorted(run[query_id].values(), reverse=True)
    result = evaluate(str(tmp_path / "model"), [beir])
    assert result.measured[0].means["R@100"].value == 1.0
    with pytest.raises(UsageError, match="which is searched exactly and in full; remove --dimensions"):
        evaluate(str(tmp_path / "model"), [beir], EvaluateOptions(dimensions=8))
    with pytest.raises(UsageError, match=f"is a {kind.__name__}, and a SentenceTransformer is needed here"):
        load_encoder(str(tmp_path / "model"))


@pytest.mark.parametrize("architecture", [SPARSE, LATE_INTERACTION])
def test_an_interrupted_run_resumes_to_the_same_weights(
    start: dict[str, Path], toy_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    from trainer.training import group_trainer

    settings = config(start[architecture], architecture, checkpoint_minutes=0)
    fit(toy_dataset, tmp_path / "whole", settings)
    logged = group_trainer.GroupTrainer.log

    def dies(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        logged(self, logs, start_time)
        if self.state.global_step == 2:  # before the regulariser has its full weight
            raise KeyboardInterrupt

    monkeypatch.setattr(group_trainer.GroupTrainer, "log", dies)
    with pytest.raises(KeyboardInterrupt):
        fit(toy_dataset, tmp_path / "cut", settings)
    monkeypatch.setattr(group_trainer.GroupTrainer, "log", logged)
    fit(toy_dataset, tmp_path / "cut", settings)
    made = [folders.read_manifest(tmp_path / name, "model").files["model.safetensors"] for name in ("whole", "cut")]
    assert made[0] == made[1]


def test_a_gradient_cache_changes_nothing(tiny_language_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    settings = config(tiny_language_model, SPARSE, query_flops_weight=0.1, mini_batch_tokens=20)
    plain, cached = (
        fit(toy_dataset, tmp_path / str(on), settings.model_copy(update={"gradient_cache": on})).stages[0].losses
        for on in (False, True)
    )
    assert [one["loss"] for one in cached] == pytest.approx([one["loss"] for one in plain], rel=1e-4)


def test_a_higher_weight_leaves_fewer_words(tiny_language_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    words = []
    for weight in (0.0, 0.1):
        settings = config(tiny_language_model, SPARSE, max_steps=40, passage_flops_weight=weight)
        fit(toy_dataset, tmp_path / str(weight), settings)
        (vector,) = vectors(SparseEncoder(str(tmp_path / str(weight)), device="cpu"), ["word3 word7 word9"], "document")
        words.append(float(vector.sum()))
    assert words[1] < 0.7 * words[0]


@pytest.mark.parametrize(
    ("architecture", "settings", "why"),
    [
        (SPARSE, {"matryoshka_dims": (8,)}, "matryoshka_dims has no effect: a sparse vector has a dimension for each"),
        (SPARSE, {"similarity": "cosine"}, "the score of a sparse encoder is the dot product; remove similarity"),
        (SPARSE, {"pooling": "cls"}, "remove pooling"),
        (SPARSE, {"same_tower_negatives": True}, "remove same_tower_negatives"),
        (SPARSE, {"lora_rank": 2}, "remove lora_rank"),
        (LATE_INTERACTION, {"gradient_cache": True}, "lower batch_size to save memory"),
        (LATE_INTERACTION, {"hardness": 5.0}, "remove hardness"),
        (LATE_INTERACTION, {"query_flops_weight": 1.0}, "only sparse encoders are regularised"),
        ("dense", {"passage_flops_weight": 1.0}, "only sparse encoders are regularised"),
        ("cross-encoder", {"passage_flops_weight": 1.0}, "only sparse encoders are regularised"),
    ],
)
def test_settings_without_an_effect_are_refused(architecture: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        config(Path("model"), architecture, **settings)


def test_start_models_that_do_not_fit_are_refused(tiny_model: Path, tiny_language_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a SentenceTransformer, and a SparseEncoder is needed here"):
        load_any_encoder(str(tiny_model), SPARSE)
    with pytest.raises(UsageError, match="has no masked-language-model head"):
        load_any_encoder(str(tiny_model.parent / "bert"), SPARSE)


def test_a_sparse_model_with_another_similarity_is_refused(tiny_language_model: Path, tmp_path: Path) -> None:
    model = SparseEncoder(str(tiny_language_model), device="cpu")
    model.similarity_fn_name = "cosine"
    model.save_pretrained(str(tmp_path / "model"))
    with pytest.raises(UsageError, match=r"uses cosine similarity, .* config_sentence_transformers.json to dot$"):
        load_any_encoder(str(tmp_path / "model"))


def test_a_sparse_autoencoder_is_measured_and_not_trained(tiny_model: Path, beir: Path, tmp_path: Path) -> None:
    transformer = Transformer(str(tiny_model.parent / "bert"))
    parts = [transformer, Pooling(32, pooling_mode="mean"), SparseAutoEncoder(input_dim=32, hidden_dim=48, k=6)]
    SparseEncoder(modules=parts, device="cpu").save_pretrained(str(tmp_path / "model"))
    model = load_any_encoder(str(tmp_path / "model"))
    data = read_collection(beir, None)
    asked, read = (vectors(model, texts, "query") for texts in (["word2"], ["word3 word4"]))
    assert search(model, None, data, depth=6)["q0"]["p3"] == pytest.approx(pair_score(asked[0], read[0]), rel=1e-5)
    with pytest.raises(UsageError, match="has no masked-language-model head"):
        load_any_encoder(str(tmp_path / "model"), SPARSE)


def test_given_lengths_replace_the_limits_of_a_late_interaction_model(tiny_model: Path, beir: Path) -> None:
    torch.manual_seed(0)  # of the new projection
    model: Any = load_any_encoder(str(tiny_model), LATE_INTERACTION)
    data = read_collection(beir, None)
    wanted = search(model, None, data, depth=6, lengths=Lengths(2, 3))
    whole = search(model, None, data, depth=6)
    assert whole != wanted
    model[0].query_length, model[0].document_length = 60, 60
    assert search(model, None, data, depth=6, lengths=Lengths(2, 3)) == wanted
    assert (model[0].query_length, model[0].document_length) == (60, 60)
    assert search(model, None, data, depth=6) == whole


def test_the_card_compares_with_the_start_model_of_the_training(
    tiny_model: Path, toy_dataset: Path, beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new projection has random weights, which depend on the seed."""
    from trainer.training import fit as fitting

    built: list[Any] = []
    build = build_model

    def kept(settings: FitConfig) -> Any:
        built.append(build(settings))
        return built[-1]

    monkeypatch.setattr(fitting, "build_model", kept)
    settings = config(tiny_model, LATE_INTERACTION, max_steps=1, learning_rate=1e-9)
    fit(toy_dataset, tmp_path / "model", settings, evaluation=[beir])
    trained, before = (each.state_dict()["1.linear.weight"] for each in built)
    assert torch.allclose(trained, before, atol=1e-6), "this training changes nothing"
