"""The cache of embeddings: equal to encoding again, and never an old vector for a changed model or text."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from labelkit.corpora.words import CHARACTERS
from labelkit.engines import Settings
from labelkit.engines.local import model_revision
from labelkit.errors import ArtifactError
from labelkit.pooling import dense, vector_cache
from labelkit.pooling.dense import encode_passages, encode_queries
from labelkit.pooling.model_loading import hub_commit

TEXTS = ["red", "a longer text", "", "red", "ünïcode\u2028 text"]


class Counting:
    """An encoder that counts what it encodes: (length, first character code, model constant)."""

    max_seq_length = 8
    truncate_dim = None

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
    assert (count, none) == (4, 0)
    assert np.array_equal(first, again)
    assert np.array_equal(first, expected(TEXTS))
    assert len(cached()) == 1


def test_another_order_of_the_texts_gives_their_own_vectors(model):
    encode(model)
    vectors, count = encode(model, TEXTS[::-1])
    assert count == 0
    assert np.array_equal(vectors, expected(TEXTS[::-1]))


@pytest.mark.parametrize(
    ("texts", "new"),
    [([*TEXTS[:-1], "changed"], 1), (TEXTS[1:], 0), (["re", "d"], 2), (["red"], 0), ([" red"], 1), (["a", *TEXTS], 1)],
)
def test_only_new_texts_are_encoded(model, texts, new):
    encode(model)
    encode(model, ["r", "ed"])
    vectors, count = encode(model, texts)
    assert count == new
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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The cache of the Hub with two commits of a model; it returns a function that chooses the current one."""
    folder = tmp_path / "hub" / "models--org--name"
    for commit in ("a" * 40, "b" * 40):
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return (folder / "refs" / "main").write_text


def test_models_of_the_hub_are_kept_by_their_commit(model, hub):
    assert hub_commit("org/name") is None
    assert [encode("org/name")[1] for _ in range(2)] == [5, 5]
    assert cached() == []
    hub("a" * 40)
    assert hub_commit("org/name") == "a" * 40
    assert [encode("org/name")[1] for _ in range(2)] == [4, 0]
    hub("b" * 40)
    assert [encode("org/name")[1] for _ in range(2)] == [4, 0]
    assert hub_commit("org/name", "c" * 40) is None


def test_the_judge_of_a_hub_model_has_its_commit(hub):
    hub("a" * 40)
    assert model_revision(Settings(model="org/name")) == "a" * 40


@pytest.mark.parametrize("damage", [b"", b"not an array", None], ids=["empty", "text", "cut"])
def test_a_damaged_cache_file_is_encoded_again(model, damage):
    encode(model)
    (path,) = cached()
    path.write_bytes(path.read_bytes()[:-4] if damage is None else damage)
    vectors, count = encode(model)
    assert count == 4
    assert np.array_equal(vectors, expected(TEXTS))


def test_embeddings_that_are_not_finite_are_neither_returned_nor_kept(model):
    with pytest.raises(ArtifactError, match=r"4 of 4 embeddings are not finite, the first one for .*train it again"):
        encode(model, encoder=Counting(math.nan))
    with pytest.raises(ArtifactError, match="embeddings are not finite"):
        encode_queries(Counting(math.inf), None, TEXTS)
    assert cached() == []


def test_embeddings_in_the_cache_that_are_not_finite_are_computed_again(model):
    encode(model)
    (path,) = cached()
    kept = np.load(path)
    kept["vector"][2, 0] = np.nan
    np.save(path, kept)
    vectors, count = encode(model)
    assert count == 1
    assert np.array_equal(vectors, expected(TEXTS))


def test_a_text_whose_hash_begins_like_another_s_is_encoded(model):
    encode(model)
    (path,) = cached()
    kept = np.load(path)
    kept["check"] += 1
    np.save(path, kept)
    assert encode(model)[1] == 4


def test_embeddings_are_kept_in_blocks(model, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", 2)
    texts = [f"text {number}" for number in range(7)]
    assert encode(model, texts)[1] == 7
    assert len(cached()) == 4
    vectors, count = encode(model, [*texts[::-1], "more"])
    assert count == 1
    assert np.array_equal(vectors, expected([*texts[::-1], "more"]))


def test_nothing_is_kept_on_a_nearly_full_disk(model, monkeypatch, caplog):
    monkeypatch.setattr(vector_cache, "FREE", 1.1)
    with caplog.at_level("WARNING"):
        assert [encode(model)[1] for _ in range(2)] == [4, 4]
    assert "the disk is nearly full" in caplog.text


KILLED = """
import json, os, signal, sys
import numpy as np
from labelkit.pooling import dense

class Encoder:
    max_seq_length, truncate_dim, blocks, encoded = 8, None, 0, 0

    def encode_document(self, texts, **options):
        if self.blocks == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        self.blocks, self.encoded = self.blocks + 1, self.encoded + len(texts)
        return np.array([[len(text), ord(text[-1])] for text in texts], dtype=np.float32)

dense.BLOCK = 3
encoder = Encoder()
vectors = dense.encode_passages(encoder, sys.argv[1], [f"text {number}" for number in range(10)])
print(json.dumps([encoder.encoded, vectors.tolist()]))
"""


def test_a_killed_run_encodes_only_what_it_had_not_kept(model):
    def run(blocks: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", KILLED, model, str(blocks)], capture_output=True, text=True)

    assert run(2).returncode == -signal.SIGKILL
    resumed = run(-1)
    assert resumed.returncode == 0, resumed.stderr
    encoded, vectors = json.loads(resumed.stdout)
    assert encoded == 10 - 2 * 3
    assert vectors == [[6, ord(str(number))] for number in range(10)]


def test_queries_and_passages_of_one_text_have_their_own_vectors(model):
    class Two(Counting):
        def encode_query(self, texts: list[str], **options: object) -> np.ndarray:
            return -self.encode_document(texts)

    encoder = Two()
    for _ in range(2):
        asked = dense.CachedEncoder(encoder, str(model), task="query").encode(TEXTS)
        assert np.array_equal(asked, -expected(TEXTS))
        assert np.array_equal(encode_passages(encoder, str(model), TEXTS), expected(TEXTS))
    assert len(encoder.encoded) == 2 * 4


def test_an_encoder_reads_no_more_of_a_text_than_its_limit_can_reach(model):
    encoder = Counting()
    encoder.max_seq_length = 8
    encode(model, ["red " * 1000, "blue"], encoder)
    assert max(map(len, encoder.encoded)) == 8 * CHARACTERS
