"""The cache of embeddings: equal to encoding again, and never an old vector for a changed model or text."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from labelkit.corpora.words import CHARACTERS
from labelkit.errors import ArtifactError
from labelkit.pooling.dense import encode_passages, encode_queries

TEXTS = ["red", "a longer text", "", "red", "ünïcode\u2028 text"]


class Counting:
    """An encoder that counts what it encodes: (length, first character code, model constant)."""

    max_seq_length = 8

    def __init__(self, constant: float = 1.0) -> None:
        self.constant = constant
        self.encoded: list[str] = []

    def encode_document(self, texts: list[str], **options: object) -> np.ndarray:
        self.encoded += texts
        return np.array([[len(text), ord(text[0]) if text else 0, self.constant] for text in texts], dtype=np.float32)

    encode_query = encode_document


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("one")
    return tmp_path / "model"


def expected(texts, constant=1.0):
    return Counting(constant).encode_document(list(texts))


def encode(model, texts=TEXTS, encoder=None):
    encoder = encoder or Counting()
    vectors = encode_passages(encoder, str(model), texts)
    return vectors, len(encoder.encoded)


def cached() -> list[Path]:
    return list(Path(os.environ["LABELKIT_CACHE"]).rglob("*.npy"))


def test_the_second_time_nothing_is_encoded(model):
    first, count = encode(model)
    again, none = encode(model)
    assert (count, none) == (5, 0)
    assert np.array_equal(first, again)
    assert np.array_equal(first, expected(TEXTS))
    assert len(cached()) == 1


def test_another_order_of_the_texts_gives_their_own_vectors(model):
    encode(model)
    vectors, count = encode(model, TEXTS[::-1])
    assert count == 0
    assert np.array_equal(vectors, expected(TEXTS[::-1]))


@pytest.mark.parametrize("texts", [[*TEXTS[:-1], "changed"], TEXTS[:-1], ["re", "d"], ["red"], [" red"]])
def test_other_texts_are_encoded(model, texts):
    encode(model)
    encode(model, ["r", "ed"])
    vectors, count = encode(model, texts)
    assert count == len(texts)
    assert np.array_equal(vectors, expected(texts))


def test_another_model_or_length_limit_meets_no_old_vectors(model):
    encode(model)
    (model / "weights").write_text("two")
    vectors, _ = encode(model, encoder=Counting(2.0))
    assert np.array_equal(vectors, expected(TEXTS, 2.0))
    longer = Counting(3.0)
    longer.max_seq_length = 16
    vectors, _ = encode(model, encoder=longer)
    assert np.array_equal(vectors, expected(TEXTS, 3.0))


def test_models_of_the_hub_are_not_cached(model):
    assert [encode("org/name")[1] for _ in range(2)] == [5, 5]
    assert cached() == []


@pytest.mark.parametrize("damage", [b"", b"not an array", None], ids=["empty", "text", "cut"])
def test_a_damaged_cache_file_is_encoded_again(model, damage):
    encode(model)
    (path,) = cached()
    path.write_bytes(path.read_bytes()[:-4] if damage is None else damage)
    vectors, count = encode(model)
    assert count == 5
    assert np.array_equal(vectors, expected(TEXTS))


def test_embeddings_that_are_not_finite_are_neither_returned_nor_kept(model):
    with pytest.raises(ArtifactError, match=r"5 of 5 embeddings are not finite, the first one for .*train it again"):
        encode(model, encoder=Counting(math.nan))
    with pytest.raises(ArtifactError, match="embeddings are not finite"):
        encode_queries(Counting(math.inf), None, TEXTS)
    assert cached() == []


def test_embeddings_in_the_cache_that_are_not_finite_are_computed_again(model):
    encode(model)
    (path,) = cached()
    kept = np.load(path)
    kept[2, 0] = np.nan
    np.save(path, kept)
    vectors, count = encode(model)
    assert count == 5
    assert np.array_equal(vectors, expected(TEXTS))


def test_an_encoder_reads_no_more_of_a_text_than_its_limit_can_reach(model):
    encoder = Counting()
    encoder.max_seq_length = 8
    encode(model, ["red " * 1000, "blue"], encoder)
    assert max(map(len, encoder.encoded)) == 8 * CHARACTERS
