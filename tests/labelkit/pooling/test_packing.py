"""Texts without padding: the same embeddings and gradients as padded ones, or the model stays as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tiny_encoder import write_encoder
from transformers import AutoModel, ModernBertConfig, MPNetConfig, Qwen3Config, RobertaConfig

from labelkit.pooling.packing import NAME, Packing, unpadded

WORDS = tuple(f"word{number}" for number in range(60))
TEXTS = [" ".join(WORDS[:length]) for length in (3, 17, 1, 9, 30)]
SMALL: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("models"), WORDS)


@pytest.fixture
def build(bert: Path, tmp_path: Path) -> Callable[..., SentenceTransformer]:
    def make(config: Any, pooling: str = "mean") -> SentenceTransformer:
        torch.manual_seed(0)
        tokenizer = SentenceTransformer(str(bert), device="cpu").tokenizer
        config.vocab_size = len(tokenizer)
        AutoModel.from_config(config).save_pretrained(tmp_path / "model")
        tokenizer.padding_side = "left" if pooling == "lasttoken" else "right"
        tokenizer.save_pretrained(tmp_path / "model")
        transformer = Transformer(str(tmp_path / "model"))
        return SentenceTransformer(
            modules=[transformer, Pooling(transformer.get_embedding_dimension(), pooling)], device="cpu"
        )

    return make


def attention_of(model: SentenceTransformer) -> str:
    """The name of the attention that the encoder uses."""
    transformer: Any = model[0]
    name: str = transformer.model.config._attn_implementation
    return name


def embed(model: SentenceTransformer, features: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Embeddings, and the gradient of a sum of their squares on all weights."""
    model.zero_grad()
    vectors = model(dict(features))["sentence_embedding"]
    (vectors * torch.linspace(-1, 1, vectors.shape[1])).square().sum().backward()
    return vectors.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_packed_equals_padded(model: SentenceTransformer) -> None:
    model.eval()
    features = model.preprocess(TEXTS)
    expected, gradients = embed(model, features)
    with unpadded(model) as packing:
        assert packing is not None
        packed = packing(features)
        assert packed["input_ids"].shape == (1, int(features["attention_mask"].sum()))
        found, found_gradients = embed(model, packed)
        padded, _ = embed(model, features)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert torch.equal(padded, expected), "padded features are read as before"
    assert attention_of(model) == "sdpa"


def test_bert(bert: Path) -> None:
    assert_packed_equals_padded(SentenceTransformer(str(bert), device="cpu"))


def test_a_decoder_with_shared_keys_and_left_padding(build: Callable[..., SentenceTransformer]) -> None:
    config = Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8)
    assert_packed_equals_padded(build(config, "lasttoken"))


def test_positions_that_do_not_begin_with_0(build: Callable[..., SentenceTransformer]) -> None:
    assert_packed_equals_padded(build(RobertaConfig(**SMALL, pad_token_id=0)))


@pytest.mark.parametrize("config", [ModernBertConfig(**SMALL, pad_token_id=0), MPNetConfig(**SMALL)])
def test_models_that_cannot_read_packed_texts_stay_as_they_are(
    build: Callable[..., SentenceTransformer], config: Any
) -> None:
    model = build(config)
    before = attention_of(model)
    with unpadded(model) as packing:
        assert packing is None
    assert attention_of(model) == before != NAME


def test_a_model_whose_embeddings_would_change_is_padded(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SentenceTransformer(str(bert), device="cpu")
    monkeypatch.setattr(model[0], "_infer_flatten_position_offset", lambda: 7)
    with unpadded(model) as packing:
        assert packing is None


def test_features_that_hold_more_than_tokens_are_not_packed() -> None:
    features = {"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 3), "pixels": torch.ones(2, 3)}
    assert Packing(0)(features) is features
