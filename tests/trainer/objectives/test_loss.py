"""The loss module on a real encoder: mini-batches, the gradient cache, the temperature."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.util import batch_to_device
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from labelkit.errors import UsageError
from labelkit.pooling.packing import Packing, unpadded
from trainer.config.fit_config import FitConfig
from trainer.data.collate import Collator
from trainer.data.store import open_store
from trainer.data.training_sets import TrainingSet
from trainer.objectives.loss import MultiPositiveLoss
from trainer.objectives.objectives import OBJECTIVES
from trainer.training.encoder import freeze_unused


def config(objective: str = "lsepair", **settings: Any) -> FitConfig:
    return FitConfig(model="tiny", objective=objective, **settings)


def run(model: Path, dataset: Path, settings: FitConfig, scale: float = 1.0) -> tuple[float, dict[str, Tensor]]:
    """Loss of a batch of six queries and its gradients by parameter, dropout drawn from one seed."""
    encoder = SentenceTransformer(str(model), device="cpu").train()
    loss_module = MultiPositiveLoss(encoder, settings)
    features, labels = make_batch(encoder, dataset, settings)
    torch.manual_seed(7)
    loss = loss_module(features, labels)
    (loss * scale).backward()
    return loss.item(), {name: p.grad for name, p in loss_module.named_parameters() if p.grad is not None}


def make_batch(
    encoder: SentenceTransformer, dataset: Path, settings: FitConfig, packing: Packing | None = None
) -> tuple[list[Any], Any]:
    """Features and labels as the trainer hands them to the loss."""
    training_set = TrainingSet(open_store(dataset), settings)
    collate = Collator(encoder.preprocess, training_set.passages, None, None, None, None, packing=packing)
    batch = collate([training_set[0, row] for row in range(6)])
    columns = [
        {key.removeprefix(column): value for key, value in batch.items() if key.startswith(column)}
        for column in ("query_", "document_")
    ]
    return [batch_to_device(column, torch.device("cpu")) for column in columns], batch["label"]


def assert_same(found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_trap_a_gradient_cache_that_drops_the_temperature_or_sums(
    tiny_model: Path, toy_dataset: Path, objective: str
) -> None:
    """With dropout on: the second pass must draw what the first drew."""
    shared = {"temperature": 0.3, "learn_temperature": True, "mini_batch_tokens": 16}
    plain = run(tiny_model, toy_dataset, config(objective, **shared))
    assert_same(run(tiny_model, toy_dataset, config(objective, gradient_cache=True, **shared)), plain)
    assert (plain[1]["log_temperature"] != 0).all()


def test_the_cache_hands_on_what_scales_the_loss(tiny_model: Path, toy_dataset: Path) -> None:
    """Gradient accumulation and a scaler for half precision multiply the loss before its backward pass."""
    settings: dict[str, Any] = {"learn_temperature": True}
    plain = run(tiny_model, toy_dataset, config(**settings), scale=0.25)
    assert_same(run(tiny_model, toy_dataset, config(gradient_cache=True, **settings), scale=0.25), plain)


def test_the_cache_embeds_twice_and_holds_one_mini_batch_at_a_time(tiny_model: Path, toy_dataset: Path) -> None:
    def passes(settings: FitConfig) -> list[int]:
        calls: list[int] = []
        original = SentenceTransformer.forward

        def forward(self: SentenceTransformer, features: Any, **options: Any) -> Any:
            calls.append(int(features["attention_mask"].sum()))
            return original(self, features, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SentenceTransformer, "forward", forward)
            run(tiny_model, toy_dataset, settings)
        return calls

    whole, small = passes(config()), passes(config(mini_batch_tokens=16))
    assert len(whole) == 2, "queries and passages"
    assert sum(small) == sum(whole)
    assert max(small) <= 16
    assert sorted(passes(config(mini_batch_tokens=16, gradient_cache=True))) == sorted(small * 2)


@pytest.mark.parametrize("settings", [{}, {"gradient_cache": True}, {"gradient_checkpointing": True}])
def test_texts_without_padding_give_the_same_loss_and_gradient(
    tiny_model: Path, toy_dataset: Path, settings: dict[str, Any]
) -> None:
    encoder = SentenceTransformer(str(tiny_model), device="cpu").eval()
    chosen = config(mini_batch_tokens=16, **settings)

    def compute(packing: Packing | None) -> tuple[float, dict[str, Tensor]]:
        encoder.zero_grad()
        module = MultiPositiveLoss(encoder, chosen)
        loss = module(*make_batch(encoder, toy_dataset, chosen, packing))
        loss.backward()
        found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        assert int(module.tokens) == tokens
        return loss.item(), found

    tokens = sum(int(column["attention_mask"].sum()) for column in make_batch(encoder, toy_dataset, chosen)[0])
    padded = compute(None)
    with unpadded(encoder) as packing:
        assert packing is not None
        assert_same(compute(packing), padded)


@pytest.mark.parametrize("cache", [False, True])
def test_gradients_are_reduced_once_a_step_whatever_the_mini_batches(
    tiny_model: Path, toy_dataset: Path, tmp_path: Path, cache: bool
) -> None:
    reduced: list[int] = []

    # DistributedDataParallel insists on this annotation, which is defined in C++.
    def count(state: object, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        reduced.append(bucket.index())
        future: Any = torch.futures.Future()
        future.set_result(bucket.buffer())
        done: torch.futures.Future[Tensor] = future
        return done

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        encoder = SentenceTransformer(str(tiny_model), device="cpu")
        freeze_unused(encoder)
        wrapped: Any = DistributedDataParallel(encoder)
        wrapped.register_comm_hook(None, count)
        loss_module = MultiPositiveLoss(encoder, config(mini_batch_tokens=16, gradient_cache=cache))
        loss_module.model = wrapped
        features, labels = make_batch(encoder, toy_dataset, config())
        loss_module(features, labels).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert reduced
    assert len(reduced) == len(set(reduced)), "every bucket once"


def test_the_learnt_temperature_is_what_the_figures_say(tiny_model: Path, toy_dataset: Path) -> None:
    encoder = SentenceTransformer(str(tiny_model), device="cpu")
    loss_module = MultiPositiveLoss(encoder, config(temperature=0.2, learn_temperature=True))
    assert loss_module.log_temperature.exp().item() == pytest.approx(0.2)
    assert [name for name, _ in loss_module.named_parameters() if "temperature" in name] == ["log_temperature"]


def test_settings_of_the_objective_reach_it_and_unknown_ones_are_refused(tiny_model: Path, toy_dataset: Path) -> None:
    still, trimmed = (
        run(tiny_model, toy_dataset, config("lsepair-trimmed", objective_settings={"trim": trim}))[0]
        for trim in (0.0, 0.9)
    )
    assert trimmed < still == run(tiny_model, toy_dataset, config("lsepair"))[0]
    encoder = SentenceTransformer(str(tiny_model), device="cpu")
    with pytest.raises(UsageError, match="objective lsepair has no setting 'trim'; it has no settings"):
        MultiPositiveLoss(encoder, config(objective_settings={"trim": 0.5}))
    with pytest.raises(UsageError, match="objective gce has no setting 'trim'; its settings are power, floor"):
        MultiPositiveLoss(encoder, config("gce", objective_settings={"trim": 0.5}))


def test_word_vectors_are_embedded_whole_and_need_no_cache(tiny_model: Path, toy_dataset: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    tokenizer.no_padding()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")
    model.save_pretrained(str(tmp_path / "words"))
    loss, gradients = run(tmp_path / "words", toy_dataset, config(mini_batch_tokens=1))
    assert loss > 0
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values())
    with pytest.raises(UsageError, match="needs no gradient_cache"):
        run(tmp_path / "words", toy_dataset, config(gradient_cache=True))
