"""Encoding many texts: the embeddings that sentence-transformers' own `encode` gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tiny_encoder import write_encoder

from labelkit.pooling import encoding
from labelkit.pooling.packing import unpadded
from labelkit.pooling.tokens import row_maker, token_layout

WORDS = tuple(f"word{number}" for number in range(60))
TEXTS = [" ".join(WORDS[start : start + 7 * start % 50 + 1]) for start in range(40)] + ["", "word3", "word3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("models"), WORDS, 24)


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> SentenceTransformer:
    """An encoder with prompts, encoding in many small batches from several blocks."""
    monkeypatch.setattr(encoding, "BLOCK", 16)
    monkeypatch.setattr(encoding, "TOKENS", {"cpu": 60})
    return SentenceTransformer(str(folder), device="cpu", prompts={"query": "word9 ", "document": "word8 word7 "})


def test_embeddings_are_those_of_encode(model: SentenceTransformer) -> None:
    for task, expected in (("query", model.encode_query(TEXTS)), ("document", model.encode_document(TEXTS))):
        found = encoding.encode(model, TEXTS, task)
        assert found is not None
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_embeddings_are_truncated_as_the_encoder_says(model: SentenceTransformer) -> None:
    model.truncate_dim = 5
    found = encoding.encode(model, TEXTS, "query")
    assert found is not None
    np.testing.assert_allclose(found, model.encode_query(TEXTS), rtol=1e-4, atol=1e-6)


def test_packed_batches_give_the_same_embeddings(model: SentenceTransformer) -> None:
    def preprocess(texts: list[str]) -> dict[str, Any]:
        return dict(model.preprocess(texts, prompt="word9 ", task="query"))

    model.eval()
    layout = token_layout(preprocess, model.tokenizer, TEXTS)
    assert layout is not None
    rows = row_maker(preprocess, model.tokenizer, prompt="word9 ", length=24)
    with unpadded(model) as packing:
        work = encoding.Texts(TEXTS, rows, layout, packing, 60)
        found = encoding._encode(model, work, task="query", shown=False)
    np.testing.assert_allclose(found.vectors, model.encode_query(TEXTS)[found.places], rtol=1e-4, atol=1e-6)


def test_an_error_of_the_thread_that_tokenises_reaches_the_caller(
    model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(texts: list[str]) -> list[object]:
        raise ValueError("no tokens today")

    monkeypatch.setattr(encoding, "row_maker", lambda *given, **more: broken)
    with pytest.raises(ValueError, match="no tokens today"):
        encoding.encode(model, TEXTS, "query")


def test_word_vectors_have_no_tokens_to_batch(model: SentenceTransformer) -> None:
    words = SentenceTransformer(modules=[StaticEmbedding(model.tokenizer, embedding_dim=4)], device="cpu")
    assert encoding.encode(words, TEXTS, "query") is None


def test_rows_of_the_fast_tokenizer_are_those_of_the_preprocessing(model: SentenceTransformer) -> None:
    def preprocess(texts: list[str]) -> dict[str, Any]:
        return dict(model.preprocess(texts, prompt="word9 ", task="query"))

    rows = row_maker(preprocess, model.tokenizer, prompt="word9 ", length=24)
    assert "_fast" in rows.__qualname__
    for text, row in zip(TEXTS, rows(TEXTS), strict=True):
        assert row.tolist() == preprocess([text])["input_ids"][0].tolist()


def test_a_preprocessing_of_its_own_is_used_instead_of_the_tokenizer(model: SentenceTransformer) -> None:
    def shouting(texts: list[str]) -> dict[str, Any]:
        return dict(model.preprocess([text[::-1] for text in texts]))

    assert "slow" in row_maker(shouting, model.tokenizer, prompt=None, length=24).__qualname__
