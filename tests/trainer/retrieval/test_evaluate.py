"""Measures, rankings and intervals on collections whose answers are known by hand."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import LETTERS, write_bag_of_letters
from present import present

from labelkit.corpora.runs import read_run
from labelkit.errors import ArtifactError, DataError, UsageError
from labelkit.pooling import dense_search as module
from labelkit.pooling.dense_search import Exact, Lengths, limited
from labelkit.statistics.intervals import Estimate
from labelkit.statistics.paired import holm
from trainer.commands.measuring import _notes
from trainer.retrieval.contenders import load_contender
from trainer.retrieval.evaluate import EvalResult, compare_contenders, evaluate, halves, unjudged_share
from trainer.retrieval.options import EvaluateOptions
from trainer.retrieval.search import load_model, read_collection, read_collections, search


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


def evaluated(model: str, data: Path, *others: str, **settings: Any) -> EvalResult:
    contenders = [load_contender(name) for name in (model, *others)]
    return compare_contenders(contenders, read_collections([data], "test"), EvaluateOptions(**settings))


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
    result = evaluated(bag, data)
    (found,) = result.measured
    ideal, actual = 2 + 1 / math.log2(3), 2 / math.log2(3) + 1 / math.log2(4)
    assert found.per_query["nDCG@10"] == pytest.approx({"q1": actual / ideal, "q2": 1 / math.log2(3)})
    assert found.per_query["RR@10"] == {"q1": 0.5, "q2": 0.5}
    assert found.per_query["AP@100"] == pytest.approx({"q1": (1 / 2 + 2 / 3) / 2, "q2": 0.5})
    assert found.per_query["R@100"] == {"q1": 1.0, "q2": 1.0}
    assert found.means["nDCG@10"].value == pytest.approx((actual / ideal + 1 / math.log2(3)) / 2)
    assert found.unjudged == pytest.approx(6 / 10), "p1 and p5 of q1, all but p4 of q2"
    (facts,) = result.collections
    assert (facts.queries, facts.queries_without_relevant) == (2, 0)
    assert result.compared == ()


def test_a_higher_relevant_grade_leaves_ndcg_and_counts_queries_without_relevant(bag: str, data: Path) -> None:
    low, high = evaluated(bag, data), evaluated(bag, data, relevant_grade=2, recall=(1, 3))
    (strict,) = high.measured
    assert strict.per_query["nDCG@10"] == low.measured[0].per_query["nDCG@10"]
    assert strict.per_query["RR@10"] == {"q1": 0.5, "q2": 0.0}
    assert strict.per_query["R@1"] == {"q1": 0.0, "q2": 0.0}
    assert strict.per_query["R@3"] == {"q1": 1.0, "q2": 0.0}
    assert high.collections[0].queries_without_relevant == 1
    assert strict.means["RR@10"].value == 0.25


def test_a_query_whose_relevant_passage_ranks_below_100_has_0(tmp_path: Path, bag: str) -> None:
    passages = {f"p{n:03d}": "a" for n in range(120)} | {"far": "b"}
    data = write_beir(tmp_path / "deep", passages, {"q": "a"}, {"q": {"far": 1}})
    (found,) = evaluated(bag, data).measured
    assert all(values == {"q": 0.0} for values in found.per_query.values())


@pytest.mark.parametrize(("similarity", "expected"), [("cosine", ["x", "y"]), ("dot", ["y", "x"])])
def test_the_models_own_similarity_ranks(tmp_path: Path, similarity: str, expected: list[str]) -> None:
    """With `b` ten times as long as `a`, "a b" is (0.5, 5) and "b" is (0, 10).

    The query "a b" has dot 25.25 and cosine 1 with itself, dot 50 and cosine 0.995 with "b".
    """
    model = load_model(write_bag_of_letters(tmp_path / "bag", similarity, [1, 10, 1, 1, 1, 1, 1, 1]))
    data = read_collection(write_beir(tmp_path / "data", {"x": "a b", "y": "b"}, {"q": "a b"}, {"q": {"x": 1}}), "test")
    assert list(search(model, str(tmp_path / "bag"), data)["q"]) == expected


def test_chunks_and_tiles_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0)
    texts = {f"p{n:03d}": " ".join(numbers.choice(list(LETTERS), size=4)) for n in range(230)}
    queries = {f"q{n}": " ".join(numbers.choice(list(LETTERS), size=3)) for n in range(9)}
    data = read_collection(write_beir(tmp_path / "many", texts, queries, {}.fromkeys(queries, {"p000": 1})), "test")
    model = load_model(write_bag_of_letters(tmp_path / "bag", weights=[1, 1.3, 1.7, 2.3, 2.9, 3.7, 4.3, 5.3]))
    whole = search(model, str(tmp_path / "bag"), data)
    monkeypatch.setattr(module, "CHUNK", 37)
    monkeypatch.setattr(module, "QUERY_TILE", 2)
    monkeypatch.setattr(module, "CACHED", 3)
    tiled = search(model, str(tmp_path / "bag"), data)
    passages = model.encode_document(list(texts.values()), normalize_embeddings=True)
    for query_id, ranked in whole.items():
        query = model.encode_query(queries[query_id], normalize_embeddings=True)
        similar = dict(zip(texts, (passages @ query).tolist(), strict=True))
        best = sorted(similar.values(), reverse=True)[:100]
        for run in (ranked, tiled[query_id]):
            assert [similar[name] for name in run] == pytest.approx(best, abs=1e-6)
            assert list(run.values()) == pytest.approx(best, abs=1e-6)


def test_grades_on_another_scale_are_measured_as_their_mapped_grades(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "stars", {"x": "a", "y": "b"}, {"q": "a b"}, {"q": {"x": 5, "y": 1}})
    with pytest.raises(DataError, match="give --scale"):
        read_collection(folder, "test")
    assert read_collection(folder, "test", scale="1-5").qrels == {"q": {"x": 3, "y": 0}}
    with pytest.raises(UsageError, match="the scale '1-6' is unknown"):
        EvaluateOptions(scale="1-6")


def test_ties_are_ranked_by_id_downwards_across_chunks(
    tmp_path: Path, bag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"p{n}" for n in range(9)]
    data = read_collection(
        write_beir(tmp_path / "ties", dict.fromkeys(names, "a b"), {"q": "a"}, {"q": {"p0": 1}}), "test"
    )
    assert list(search(load_model(bag), bag, data)["q"]) == names[::-1]
    assert list(search(load_model(bag), bag, data, depth=3)["q"]) == names[:-4:-1]
    monkeypatch.setattr(module, "CHUNK", 2)
    assert list(search(load_model(bag), bag, data)["q"]) == names[::-1]
    assert list(search(load_model(bag), bag, data, depth=3)["q"]) == names[:-4:-1]


@pytest.mark.parametrize("index", ["exact", "faiss", "usearch"])
def test_no_figure_comes_of_embeddings_or_similarities_that_are_not_finite(
    tmp_path: Path, data: Path, index: str
) -> None:
    for number, message in ((math.nan, "embeddings are not finite"), (3e19, "similarity of query 'q")):
        model = write_bag_of_letters(tmp_path / f"bag-{number}", "dot", [number] * 8)
        with pytest.raises(ArtifactError, match=message):
            evaluated(model, data, index=index)


def test_the_highest_are_those_of_a_full_sort() -> None:
    numbers = torch.Generator().manual_seed(0)
    queries = torch.randint(-1, 2, (7, 3), generator=numbers).float()
    passages = torch.randint(-1, 2, (50, 3), generator=numbers).float()
    ids = sorted((f"p{n}" for n in range(50)), reverse=True)
    for sizes in ((50,), (13, 37), (1, 2, 47)):
        index = Exact(queries, 9)
        names = iter(ids)
        for part in passages.split(list(sizes)):
            index.add([next(names) for _ in part], part)
        for query, best in zip(queries, index.best(), strict=True):
            pairs = sorted(zip((passages @ query).tolist(), ids, strict=True), reverse=True)[:9]
            assert sorted(((score, name) for name, score in best), reverse=True) == pairs


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 9), st.integers(1, 40))
def test_the_best_of_tied_scores_are_those_of_trec_eval(seed: int, depth: int, chunk: int, passages: int) -> None:
    """Vectors of small whole numbers, so that scores tie exactly: what is kept is the head of trec_eval's ranking."""
    source = np.random.default_rng(seed)
    names = [f"d{n}" for n in source.permutation(passages)]
    vectors = torch.from_numpy(source.integers(0, 3, (passages, 2))).float()
    queries = torch.from_numpy(source.integers(0, 3, (4, 2))).float()
    found = Exact(queries, depth)
    for start in range(0, passages, chunk):
        order = sorted(range(start, min(start + chunk, passages)), key=names.__getitem__, reverse=True)
        found.add([names[row] for row in order], vectors[order])
    scores = (queries @ vectors.T).tolist()
    qrels = {f"q{n}": {name: int(source.integers(0, 3)) for name in names} for n in range(4)}
    everything = {f"q{n}": dict(zip(names, row, strict=True)) for n, row in enumerate(scores)}
    kept = {f"q{n}": dict(best) for n, best in enumerate(found.best())}
    for query_id, row in everything.items():
        ranked = sorted(names, key=lambda name: (row[name], name), reverse=True)[:depth]
        assert kept[query_id] == {name: row[name] for name in ranked}
        assert sorted(kept[query_id], key=lambda name: (row[name], name), reverse=True) == ranked
    if any(grade for graded in qrels.values() for grade in graded.values()):
        evaluator = pytrec_eval.RelevanceEvaluator(qrels, {f"ndcg_cut.{depth}", f"P.{depth}"})
        assert evaluator.evaluate(kept) == evaluator.evaluate(everything)


def test_a_row_of_equal_scores_loses_the_lowest_ids_however_many_there_are(tmp_path: Path, bag: str) -> None:
    names = [f"p{n:04}" for n in range(3_000)]
    data = write_beir(tmp_path / "ties", dict.fromkeys(names, "a b"), {"q": "a"}, {"q": {"p0000": 1}})
    found = search(load_model(bag), bag, read_collection(data, "test"), depth=20)
    assert list(found["q"]) == names[:-21:-1]


@pytest.mark.parametrize(
    ("query", "relevant", "expected"),
    [
        ("A, b!", {"y": 1}, ["y", "z"]),  # as in ArguAna and Quora: the query is a passage of the corpus
        ("a b", {"x": 1, "y": 1}, ["x", "y"]),  # the qrels say that it answers itself
        ("a", {"y": 1}, ["x", "y"]),  # another text that happens to have the same id, as in Cranfield
    ],
)
def test_a_passage_that_is_the_query_itself_is_left_out_of_its_ranking(
    tmp_path: Path, bag: str, query: str, relevant: dict[str, int], expected: list[str]
) -> None:
    passages = {"x": "a b", "y": "a b c", "z": "c d"}
    data = read_collection(write_beir(tmp_path / "own", passages, {"x": query}, {"x": relevant}), "test")
    assert list(search(load_model(bag), bag, data, depth=2)["x"]) == expected


@pytest.mark.parametrize("index", ["faiss", "usearch"])
def test_an_approximate_index_finds_what_exact_search_finds_on_a_small_corpus(
    tmp_path: Path, bag: str, index: str
) -> None:
    pytest.importorskip(index)
    texts = {f"p{n}": " ".join(LETTERS[k] for k in range(8) if n >> k & 1) for n in range(1, 200)}
    queries = {f"q{n}": " ".join(LETTERS[n : n + 3]) for n in range(5)}
    data = read_collection(write_beir(tmp_path / "near", texts, queries, {}.fromkeys(queries, {"p1": 1})), "test")
    exact, near = (search(load_model(bag), bag, data, index=name, depth=10) for name in ("exact", index))
    for query_id, ranked in exact.items():
        assert list(near[query_id].values()) == pytest.approx(list(ranked.values()), abs=1e-5)


def test_lengths_hold_for_the_search_alone(tiny_model: Path) -> None:
    model = load_model(str(tiny_model))
    with limited(model, 5):
        assert model.max_seq_length == 5
    assert model.max_seq_length == 64


def test_a_model_compared_with_itself_differs_by_nothing(bag: str, data: Path) -> None:
    (gap,) = evaluated(bag, data, bag).compared
    for test in gap.tests.values():
        assert (test.difference, test.p_holm, test.queries_needed) == ((0.0, None, None), 1.0, None)


def test_the_difference_is_the_first_model_minus_the_other(tmp_path: Path, bag: str, data: Path) -> None:
    """The other model does not see `a`: for q1 it finds p1 only and ties the rest. For q2 nothing changes."""
    blind = write_bag_of_letters(tmp_path / "blind", weights=[0, 1, 1, 1, 1, 1, 1, 1])
    result = evaluated(bag, data, blind)
    mine, other = result.measured
    (gap,) = result.compared
    assert (gap.model, gap.against) == (bag, blind)
    for name, test in gap.tests.items():
        deltas = [mine.per_query[name][query] - other.per_query[name][query] for query in ("q1", "q2")]
        assert test.difference.value == pytest.approx(sum(deltas) / 2)
        assert test.p == 1.0, "the second query does not differ"
    assert present(gap.tests["RR@10"].difference.value) > 0, "p3 `a` is no longer found by q1"


def test_all_differences_of_the_table_are_one_family(tmp_path: Path, bag: str) -> None:
    """Two collections, their average and four measures: Holm's correction is over these twelve."""
    source = np.random.default_rng(3)
    passages = {f"p{n}": " ".join(source.choice(list(LETTERS), 3)) for n in range(40)}
    folders = []
    for name in ("one", "two"):
        queries = {f"q{n}": " ".join(source.choice(list(LETTERS), 2)) for n in range(12)}
        qrels = {key: {str(source.choice(list(passages))): 1} for key in queries}
        folders.append(write_beir(tmp_path / name, passages, queries, qrels))
    blind = write_bag_of_letters(tmp_path / "blind", weights=[0, 0, 1, 1, 1, 1, 1, 1])
    contenders = [load_contender(name) for name in (bag, blind)]
    result = compare_contenders(contenders, read_collections(folders, "test"), EvaluateOptions())
    tests = [test for gap in result.compared for test in gap.tests.values()]
    assert len(tests) == 12
    assert [test.p_holm for test in tests] == holm([test.p for test in tests])


def test_few_queries_and_the_range_of_the_power_note_are_said(tmp_path: Path, bag: str, data: Path) -> None:
    blind = write_bag_of_letters(tmp_path / "blind", weights=[0, 1, 1, 1, 1, 1, 1, 1])
    result = evaluated(bag, data, blind)
    words = list(_notes(result, {name: name for name in result.models}))
    assert any("data: 2 queries are few" in line for line in words)
    assert any("to detect a difference of 0.01 in nDCG@10 you need about" in line for line in words)


@pytest.mark.parametrize(("low", "p", "said"), [(0.001, 0.128, True), (0.001, 0.04, False), (-0.001, 0.128, False)])
def test_an_interval_without_0_and_a_high_p_are_explained(
    tmp_path: Path, bag: str, data: Path, low: float, p: float, said: bool
) -> None:
    result = evaluated(bag, data, write_bag_of_letters(tmp_path / "blind", weights=[0, 1, 1, 1, 1, 1, 1, 1]))
    (gap,) = result.compared
    one = replace(gap.tests["nDCG@10"], difference=Estimate(0.021, low, 0.041), p_holm=p)
    others = {label: replace(test, p_holm=1.0) for label, test in gap.tests.items() if test.difference.low is None}
    changed = replace(result, compared=(replace(gap, tests=others | {"nDCG@10": one}),))
    words = list(_notes(changed, {name: name for name in result.models}))
    assert any(line.startswith("1 of the differences") and line.endswith("rely on p") for line in words) == said


def test_several_collections_their_average_and_their_runs(tmp_path: Path, bag: str, data: Path) -> None:
    other = write_beir(tmp_path / "other", PASSAGES, QUERIES, {"q1": {"p1": 1}})
    result = evaluate(bag, [data, other], EvaluateOptions(compare=(bag,), runs=tmp_path / "runs"))
    first, second, average = result.measured[:3]
    assert [entry.data for entry in result.measured[:3]] == ["data", "other", "average"]
    assert second.means["nDCG@10"].value == 1.0
    for label, estimate in average.means.items():
        both = [present(entry.means[label].value) for entry in (first, second)]
        assert estimate.value == pytest.approx(sum(both) / 2)
        assert estimate.low is None, "one query of the second collection says nothing of how they vary"
    assert [gap.data for gap in result.compared] == ["data", "other", "average"]
    (path,) = (tmp_path / "runs").glob("other.*.run")
    run = read_run(path)
    assert list(run["q1"]) == ["p1", "p3", "p2", "p5", "p4"]
    assert run["q1"]["p1"] == pytest.approx(1.0)
    with pytest.raises(UsageError, match="two data folders have the name data"):
        read_collections([data, data], "test")


def test_queries_fall_into_halves_by_the_words_they_share_with_their_passages(tmp_path: Path, bag: str) -> None:
    passages = {"p1": "apple pie", "p2": "pie", "p3": "cake", "p4": "plum tart"}
    queries = {"q1": "Apple PIE!", "q2": "apple cake", "q3": "plum"}
    qrels = {"q1": {"p1": 1, "p2": 1, "p3": 0}, "q2": {"p3": 1}, "q3": {"p1": 0, "p2": 1}}
    result = evaluated(bag, write_beir(tmp_path / "words", passages, queries, qrels))
    (facts,) = result.collections
    assert facts.overlap == {"q1": 0.75, "q2": 0.5, "q3": 0.0}
    assert halves(facts.overlap) == {"low overlap": ["q2", "q3"], "high overlap": ["q1"]}
    (found,) = result.measured
    for label, values in found.per_query.items():
        assert found.by_overlap["low overlap"][label].value == pytest.approx((values["q2"] + values["q3"]) / 2)
        assert found.by_overlap["high overlap"][label].value == pytest.approx(values["q1"])
    assert halves({"a": 0.5, "b": 0.5}) == {}


def test_the_unjudged_share_is_of_ten_ranks() -> None:
    ranked = {f"p{n}": -float(n) for n in range(20)}
    assert unjudged_share({"q": {"p0": 0, "p1": 1, "p15": 1}}, {"q": ranked}) == 0.8


def test_the_result_goes_through_json(bag: str, data: Path) -> None:
    result = evaluated(bag, data, bag).to_json()
    read = json.loads(json.dumps(result))
    assert read["measured"][0]["means"]["RR@10"] == {"mean": 0.5, "low": None, "high": None}
    keys = ["mean", "low", "high", "p", "p_holm", "queries_needed", "queries_needed_low", "queries_needed_high"]
    assert list(read["compared"][0]["tests"]["RR@10"]) == keys
    assert read["collections"][0]["queries"] == 2


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ('{"_id": "p1", "text": "a"}\n{"_id": "p1", "text": "b"}\n', "a passage id is duplicated"),
        ('{"_id": "p9", "text": "a"}\n', "test.tsv:2: passage id 'p2' .* is not in the corpus"),
        ("", "the corpus is empty"),
    ],
)
def test_a_streamed_corpus_is_checked_too(bag: str, data: Path, corpus: str, message: str) -> None:
    (data / "corpus.jsonl").write_text(corpus)
    with pytest.raises(DataError, match=message):
        search(load_model(bag), bag, read_collection(data, "test"), lengths=Lengths())


def test_models_and_data_that_cannot_be_used(tmp_path: Path, bag: str, data: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot load the model '/no/such/model'.*give a model folder"):
        load_contender("/no/such/model")
    manhattan = write_bag_of_letters(tmp_path / "manhattan", "manhattan")
    with pytest.raises(UsageError, match="uses manhattan similarity, which is not supported; set similarity_fn_name"):
        load_contender(manhattan)
    with pytest.raises(DataError, match=r"splits of .*: test"):
        read_collection(data, "dev")


def test_two_processes_share_the_encoding_and_one_reports(tiny_model: Path, beir: Path, tmp_path: Path) -> None:
    """`torchrun trainer eval` on the real command line; the second time from the cache that the first one filled."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    results = []
    for name, start in (("one", [sys.executable, "-m"]), ("two", torchrun), ("two", torchrun)):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LABELKIT_CACHE": str(tmp_path / name)}
        command = [*start, "trainer", "eval", str(tiny_model), str(beir), "--json", "--runs", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    one, two, again = results
    assert one == two == again
    runs = [next((tmp_path / name).glob("*.run")).read_text().split() for name in ("one", "two")]
    assert [words for words in runs[0] if "." not in words] == [words for words in runs[1] if "." not in words]
    assert len(list((tmp_path / "two").rglob("*.npy"))) == 1
