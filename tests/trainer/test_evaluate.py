"""Measures, rankings and intervals on collections whose answers are known by hand."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from labelkit.errors import DataError, UsageError
from labelkit.sources import read_data
from trainer import evaluate as module
from trainer.evaluate import bootstrap, evaluate, load_model, search

LETTERS = "abcdefgh"


def write_bag_of_letters(folder: Path, similarity: Any = "cosine", weights: Sequence[float] = (1.0,) * 8) -> str:
    """A model that embeds a text as the mean of one axis a letter, so that similarities are known by hand."""
    vocabulary = {"[UNK]": 0} | {letter: number for number, letter in enumerate(LETTERS, 1)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    axes = torch.cat([torch.zeros(1, 8), torch.diag(torch.tensor(weights))])
    embedding = StaticEmbedding(tokenizer, embedding_weights=axes)
    SentenceTransformer(modules=[embedding], similarity_fn_name=similarity).save_pretrained(str(folder))
    return str(folder)


def write_beir(
    folder: Path,
    passages: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", passages), ("queries", queries)):
        lines = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    rows = [f"{query}\t{passage}\t{grade}" for query, graded in qrels.items() for passage, grade in graded.items()]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    return folder


PASSAGES = {"p1": "a b", "p2": "a c", "p3": "a", "p4": "c", "p5": "d"}
QUERIES = {"q1": "a b", "q2": "d", "q3": "h"}
QRELS = {"q1": {"p2": 1, "p3": 2, "p4": 0}, "q2": {"p4": 1}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_beir(tmp_path / "data", PASSAGES, QUERIES, QRELS)


@pytest.fixture
def bag(tmp_path: Path) -> str:
    return write_bag_of_letters(tmp_path / "bag")


def test_the_measures_by_hand(bag: str, data: Path) -> None:
    """q1 ranks p1 (1.0), p3 (0.71), p2 (0.5); q2 ranks p5 (1.0), then the rest at 0, higher ids first."""
    result = evaluate(bag, data)
    (found,) = result.models
    ideal, actual = 2 + 1 / math.log2(3), 2 / math.log2(3) + 1 / math.log2(4)
    assert found.per_query["nDCG@10"] == pytest.approx({"q1": actual / ideal, "q2": 1 / math.log2(3)})
    assert found.per_query["RR@10"] == {"q1": 0.5, "q2": 0.5}
    assert found.per_query["R@100"] == {"q1": 1.0, "q2": 1.0}
    assert found.means["nDCG@10"].mean == pytest.approx((actual / ideal + 1 / math.log2(3)) / 2)
    assert (result.queries, result.passages, result.queries_without_relevant) == (2, 5, 0)
    assert result.differences == ()


def test_a_higher_relevant_grade_leaves_ndcg_and_counts_queries_without_relevant(bag: str, data: Path) -> None:
    low, high = evaluate(bag, data), evaluate(bag, data, relevant_grade=2)
    assert high.models[0].per_query["nDCG@10"] == low.models[0].per_query["nDCG@10"]
    assert high.models[0].per_query["RR@10"] == {"q1": 0.5, "q2": 0.0}
    assert high.models[0].per_query["R@100"] == {"q1": 1.0, "q2": 0.0}
    assert high.queries_without_relevant == 1
    assert high.models[0].means["RR@10"].mean == 0.25


def test_a_query_whose_relevant_passage_ranks_below_100_has_0(tmp_path: Path, bag: str) -> None:
    passages = {f"p{n:03d}": "a" for n in range(120)} | {"far": "b"}
    data = write_beir(tmp_path / "deep", passages, {"q": "a"}, {"q": {"far": 1}})
    (found,) = evaluate(bag, data).models
    assert found.per_query == {"nDCG@10": {"q": 0.0}, "RR@10": {"q": 0.0}, "R@100": {"q": 0.0}}


@pytest.mark.parametrize(("similarity", "expected"), [("cosine", ["x", "y"]), ("dot", ["y", "x"])])
def test_the_models_own_similarity_ranks(tmp_path: Path, similarity: str, expected: list[str]) -> None:
    """With `b` ten times as long as `a`, "a b" is (0.5, 5) and "b" is (0, 10).

    The query "a b" has dot 25.25 and cosine 1 with itself, dot 50 and cosine 0.995 with "b".
    """
    model = load_model(write_bag_of_letters(tmp_path / "bag", similarity, [1, 10, 1, 1, 1, 1, 1, 1]))
    data = read_data(write_beir(tmp_path / "data", {"x": "a b", "y": "b"}, {"q": "a b"}, {"q": {"x": 1}}))
    assert list(search(model, str(tmp_path / "bag"), data)["q"]) == expected


def test_chunks_and_tiles_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0)
    texts = {f"p{n:03d}": " ".join(numbers.choice(list(LETTERS), size=4)) for n in range(230)}
    queries = {f"q{n}": " ".join(numbers.choice(list(LETTERS), size=3)) for n in range(9)}
    data = read_data(write_beir(tmp_path / "many", texts, queries, {}.fromkeys(queries, {"p000": 1})))
    model = load_model(write_bag_of_letters(tmp_path / "bag", weights=[1, 1.3, 1.7, 2.3, 2.9, 3.7, 4.3, 5.3]))
    whole = search(model, str(tmp_path / "bag"), data)
    monkeypatch.setattr(module, "CHUNK", 37)
    monkeypatch.setattr(module, "QUERY_TILE", 2)
    tiled = search(model, str(tmp_path / "bag"), data)
    passages = model.encode_document([data.corpus[name].full_text for name in texts], normalize_embeddings=True)
    for query_id, ranked in whole.items():
        query = model.encode_query(queries[query_id], normalize_embeddings=True)
        similar = dict(zip(texts, (passages @ query).tolist(), strict=True))
        best = sorted(similar.values(), reverse=True)[:100]
        for run in (ranked, tiled[query_id]):
            assert [similar[name] for name in run] == pytest.approx(best, abs=1e-6)
            assert list(run.values()) == [-float(rank) for rank in range(1, 101)]


def test_ties_are_ranked_by_id_downwards_across_chunks(
    tmp_path: Path, bag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"p{n}" for n in range(9)]
    data = read_data(write_beir(tmp_path / "ties", dict.fromkeys(names, "a b"), {"q": "a"}, {"q": {"p0": 1}}))
    assert list(search(load_model(bag), bag, data)["q"]) == names[::-1]
    monkeypatch.setattr(module, "CHUNK", 2)
    assert list(search(load_model(bag), bag, data)["q"]) == names[::-1]


def test_a_passage_with_the_querys_id_stays(tmp_path: Path, bag: str) -> None:
    data = read_data(write_beir(tmp_path / "own", {"x": "a", "y": "b"}, {"x": "a"}, {"x": {"y": 1}}))
    assert list(search(load_model(bag), bag, data)["x"]) == ["x", "y"]


def test_a_model_compared_with_itself_differs_by_nothing(bag: str, data: Path) -> None:
    result = evaluate(bag, data, compare=[bag])
    assert len(result.models) == 2
    for estimate in result.differences[0].means.values():
        assert (estimate.mean, estimate.low, estimate.high) == (0.0, 0.0, 0.0)


def test_the_difference_is_the_first_model_minus_the_other(tmp_path: Path, bag: str, data: Path) -> None:
    """The other model does not see `a`: for q1 it finds p1 only and ties the rest. For q2 nothing changes."""
    blind = write_bag_of_letters(tmp_path / "blind", weights=[0, 1, 1, 1, 1, 1, 1, 1])
    result = evaluate(bag, data, compare=[blind])
    mine, other = result.models
    (difference,) = result.differences
    assert (difference.model, difference.against) == (bag, blind)
    for name, estimate in difference.means.items():
        deltas = [mine.per_query[name][query] - other.per_query[name][query] for query in ("q1", "q2")]
        assert estimate.mean == pytest.approx(sum(deltas) / 2)
        # Resamples of two queries have three means, and the interval spans them.
        assert (estimate.low, estimate.high) == pytest.approx((min(deltas), max(deltas)))
    assert difference.means["RR@10"].mean > 0, "p3 `a` is no longer found by q1"


def test_the_interval_of_a_share_is_the_textbooks() -> None:
    found = bootstrap(np.array([0.0, 1.0] * 200))
    assert found.mean == 0.5
    half = 1.96 * math.sqrt(0.25 / 400)
    assert found.low == pytest.approx(0.5 - half, abs=0.004)
    assert found.high == pytest.approx(0.5 + half, abs=0.004)
    assert bootstrap(np.array([0.0, 1.0] * 200)) == found
    constant = bootstrap(np.full(7, 0.25))
    assert (constant.low, constant.high) == (0.25, 0.25)


def test_the_result_goes_through_json(bag: str, data: Path) -> None:
    result = evaluate(bag, data, compare=[bag]).to_json()
    assert json.loads(json.dumps(result))["models"][0]["means"]["RR@10"]["mean"] == 0.5


def test_models_and_data_that_cannot_be_used(tmp_path: Path, bag: str, data: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot load the model '/no/such/model'.*give a model folder"):
        evaluate("/no/such/model", data)
    manhattan = write_bag_of_letters(tmp_path / "manhattan", "manhattan")
    with pytest.raises(UsageError, match="compares by manhattan similarity; set similarity_fn_name"):
        evaluate(manhattan, data)
    with pytest.raises(DataError, match=r"splits of .*: test"):
        evaluate(bag, data, "dev")
