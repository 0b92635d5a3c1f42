"""Pools: every source with its ranks, fusion as by hand, people's positives always kept."""

import json
import os
import subprocess
import sys
import tracemalloc
from typing import Any

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.qrels import read_qrels
from labelkit.corpora.queries import query_texts
from labelkit.errors import DataError, UsageError
from labelkit.pooling import bm25, dense_search, fusion, pool, sources
from labelkit.pooling.fusion import fuse
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import make_pool, read_pool, write_pool
from labelkit.pooling.stages import Stage
from labelkit.records import Origin, full_text
from labelkit.storage import tables

WORDS = "bark brewed carrier cats coffee day dogs green in is mail morning sleep tea the water with"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A one-layer BERT with random weights over the words of the collection, as a sentence-transformers folder."""
    import torch
    from tiny_encoder import write_encoder

    torch.set_num_threads(1)
    return write_encoder(tmp_path_factory.mktemp("encoder"), WORDS.split())


def pooled(beir, tmp_path, split=None, **recipe):
    made = make_pool(beir, tmp_path / "made", PoolOptions(split=split, **{"bm25": 0, **recipe}))
    by_query: dict[str, dict[str, Any]] = {}
    for candidate in made.candidates:
        by_query.setdefault(candidate.query_id, {})[candidate.passage_id] = candidate.sources
    return by_query


def run_file(tmp_path, *rows):
    path = tmp_path / "some.run"
    path.write_text("".join(f"{qid} Q0 {pid} 1 {score} tag\n" for qid, pid, score in rows))
    return path


def test_bm25_finds_passages_that_share_words(beir, tmp_path):
    found = pooled(beir, tmp_path, bm25=3)
    assert list(found["q2"]) == ["p3", "p4"]
    assert set(found["q3"]) == {"p2", "p6"}
    for candidates in found.values():
        assert all([one.name for one in sources] == ["bm25"] for sources in candidates.values())
        ranks = [sources[0].rank for sources in candidates.values()]
        scores = [sources[0].score for sources in candidates.values()]
        assert ranks == list(range(1, len(ranks) + 1))
        assert scores == sorted(scores, reverse=True)
        assert min(scores) > 0


def test_bm25_keeps_as_many_as_asked_for(beir, tmp_path):
    assert {len(candidates) for candidates in pooled(beir, tmp_path, bm25=1).values()} == {1}


def test_dense_ranks_by_the_models_own_similarity(beir, tmp_path, encoder):
    from sentence_transformers import SentenceTransformer

    found = pooled(beir, tmp_path, dense=(f"{encoder}:4",))
    data = read_pool(tmp_path / "made")
    model = SentenceTransformer(str(encoder))
    for query_id, candidates in found.items():
        assert len(candidates) == 4
        vector = model.encode_query(data.queries[query_id].text)
        for rank, (passage_id, (origin,)) in enumerate(candidates.items(), 1):
            similarity = model.similarity(vector, model.encode_document(data.passages[passage_id].full_text)).item()
            assert origin[:2] == ("dense:tiny", rank)
            assert origin.score == pytest.approx(similarity, abs=1e-5)


def test_chunks_and_blocks_change_nothing_in_a_dense_pool(large, tmp_path, encoder, monkeypatch):
    beir, _ = large
    options = PoolOptions(bm25=0, dense=(f"{encoder}:9",))
    whole = make_pool(beir, tmp_path / "whole", options).candidates
    for module, name, size in (
        (sources, "CHUNK", 64),
        (dense_search, "CHUNK", 25),
        (dense_search, "QUERY_TILE", 7),
        (dense_search, "CACHED", 10),
    ):
        monkeypatch.setattr(module, name, size)
    assert make_pool(beir, tmp_path / "chunks", options).candidates == whole
    by_query: dict[str, list[Any]] = {}
    for one in whole:
        by_query.setdefault(one.query_id, []).append((one.sources[0].score, one.passage_id))
    # A third of the passages are copies, whose equal scores are ranked by id, downwards.
    assert all(pairs == sorted(pairs, reverse=True) and len(pairs) == 9 for pairs in by_query.values())


def test_dense_pools_are_the_same_again_from_the_cache(beir, tmp_path, encoder):
    assert pooled(beir, tmp_path, dense=(f"{encoder}:6",)) == pooled(beir, tmp_path, dense=(f"{encoder}:6",))


def test_a_run_gives_its_first_passages(beir, tmp_path):
    path = run_file(tmp_path, ("q1", "p1", 1), ("q1", "p2", 3), ("q1", "p3", 2), ("q2", "p4", 1))
    found = pooled(beir, tmp_path, run=(f"{path}:2",))
    assert found == {
        "q1": {"p2": (Origin("run:some.run", 1, 3.0),), "p3": (Origin("run:some.run", 2, 2.0),)},
        "q2": {"p4": (Origin("run:some.run", 1, 1.0),)},
    }


def test_fusion_is_the_sum_of_reciprocal_ranks():
    one = {"a": 9.0, "b": 8.0, "c": 7.0}
    other = {"c": 0.3, "b": 0.2, "d": 0.1}
    fused = fuse([("one", one), ("other", other)], {}, depth=None)
    by_hand = {"a": 1 / 61, "b": 1 / 62 + 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 63}
    assert [found.passage_id for found in fused] == sorted(by_hand, key=lambda name: -by_hand[name])
    assert fused[0].sources == (Origin("one", 3, 7.0), Origin("other", 1, 0.3))


def test_ties_go_by_passage_id():
    fused = fuse([("one", {"b": 1.0}), ("other", {"a": 1.0})], {}, depth=None)
    assert [found.passage_id for found in fused] == ["a", "b"]


@given(st.permutations(list("abcdef")), st.integers(1, 8), st.sets(st.sampled_from("abcdefgh"), max_size=4))
def test_people_s_positives_are_kept_beyond_any_depth(order, depth, positives):
    ranked = {name: float(-place) for place, name in enumerate(order)}
    fused = fuse([("run", ranked)], dict.fromkeys(positives, 2), depth=depth)
    names = [found.passage_id for found in fused]
    assert positives <= set(names)
    assert len(names) == max(len(positives), min(depth, len({*order, *positives})))
    others = [name for name in names if name not in positives]
    assert others == [name for name in order if name not in positives][: len(others)]


def test_people_s_positives_stand_in_their_place_and_unranked_ones_last(beir, tmp_path, write_qrels):
    human = write_qrels(tmp_path / "human.tsv", {"q1": {"p6": 2, "p4": 3, "p1": 0}, "q2": {"p6": 1}})
    found = pooled(beir, tmp_path, bm25=5, human=human)
    assert list(found["q1"])[-2:] == ["p4", "p6"]
    assert next(iter(found["q1"])) == "p1"
    assert found["q1"]["p4"] == (Origin("human", 1, 3.0),)
    assert "p6" not in found["q2"]


def test_a_positive_grade_of_1_takes_binary_qrels(beir, tmp_path, write_qrels):
    human = write_qrels(tmp_path / "human.tsv", {"q1": {"p6": 1}, "q2": {"p6": 1, "p1": 0}})
    with pytest.raises(UsageError, match=r"human\.tsv: no grade reaches 2 .* binary qrels need --positive-grade 1"):
        pooled(beir, tmp_path, human=human)
    assert not (tmp_path / "made").exists()
    assert pooled(beir, tmp_path, human=human, positive_grade=1) == {
        "q1": {"p6": (Origin("human", 1, 1.0),)},
        "q2": {"p6": (Origin("human", 1, 1.0),)},
    }


def test_unknown_passages_are_refused(beir, tmp_path, write_qrels):
    with pytest.raises(DataError, match=r"some\.run:1: passage id 'p9' \(query 'q1'\) is not in the corpus"):
        pooled(beir, tmp_path, run=(f"{run_file(tmp_path, ('q1', 'p9', 1))}:5",))
    with pytest.raises(DataError, match=r"human\.tsv:2: passage id 'p9'"):
        pooled(beir, tmp_path, human=write_qrels(tmp_path / "human.tsv", {"q1": {"p9": 2}}))


def test_a_split_pools_only_its_queries(beir, tmp_path, write_qrels):
    write_qrels(beir / "qrels" / "dev.tsv", {"q2": {"p3": 1}})
    path = run_file(tmp_path, ("q1", "p1", 1), ("q2", "p4", 1))
    assert set(pooled(beir, tmp_path, split="dev", bm25=5, run=(f"{path}:5",))) == {"q2"}


@pytest.mark.parametrize("text", ["zebra", "the", "", "?!", "☕"])
def test_queries_without_candidates_are_counted(write_beir, tmp_path, text):
    beir = write_beir(tmp_path / "b", {"a": ("", "red apples"), "b": ("", "")}, {"q1": "red", "q2": text}, {})
    made = make_pool(beir, tmp_path / "made", PoolOptions(bm25=5))
    assert [(one.query_id, one.passage_id) for one in made.candidates] == [("q1", "a")]
    assert json.loads((tmp_path / "made" / "manifest.json").read_text())["facts"]["queries_without_candidates"] == 1
    assert set(made.queries) == {"q1", "q2"}


def test_a_corpus_without_words_gives_an_empty_pool(write_beir, tmp_path):
    beir = write_beir(tmp_path / "b", {"a": ("", ""), "b": ("", "the")}, {"q1": "red"}, {})
    assert make_pool(beir, tmp_path / "made", PoolOptions(bm25=5)).candidates == []


def test_the_same_command_gives_the_same_bytes(labelkit, beir, tmp_path, encoder):
    human, path = beir / "qrels" / "test.tsv", run_file(tmp_path, ("q1", "p1", 1), ("q2", "p4", 1))
    command = ("pool", beir, "--dense", f"{encoder}:3", "--run", f"{path}:5", "--human", human, "-o", tmp_path / "pool")
    seen = []
    for _ in range(2):
        assert labelkit(*command).code == 0
        seen.append({file.name: file.read_bytes() for file in (tmp_path / "pool").iterdir()})
    assert seen[0] == seen[1]
    inputs = json.loads(seen[0]["manifest.json"])["inputs"]
    assert set(inputs) == {str(beir / "corpus.jsonl"), str(beir / "queries.jsonl"), str(human), str(path)}


def reference(folder, *, depth, runs, human, kept):
    """The candidates of a pool by plain loops: BM25 by bm25s, runs sorted in memory, fused by reciprocal rank."""
    passages = {pid: full_text(title, text) for _, pid, title, text in corpus_rows(folder / "corpus.jsonl")}
    queries = query_texts(folder / "queries.jsonl")
    words = bm25s.tokenize(list(passages.values()), stopwords="en", show_progress=False)
    engine = bm25s.BM25(backend="numba")
    engine.index(words, show_progress=False)
    asked = bm25s.tokenize(list(queries.values()), stopwords="en", return_ids=False, show_progress=False)
    rows, scores = engine.retrieve(asked, k=depth, show_progress=False)
    ids = list(passages)
    for number, query_id in enumerate(queries):
        best = zip(rows[number].tolist(), scores[number].tolist(), strict=True)
        sources = [("bm25", [(ids[row], score) for row, score in best if score > 0])]
        for path, most in runs:
            lines = [line.split() for line in path.read_text().splitlines()]
            ranked = [(pid, float(score)) for qid, _, pid, _, score, _ in lines if qid == query_id]
            sources.append((f"run:{path.name}", sorted(ranked, key=lambda pair: -pair[1])[:most]))
        found: dict[str, list[tuple[str, int, float]]] = {}
        fused: dict[str, float] = {}
        for name, ranked in sources:
            for rank, (pid, score) in enumerate(ranked, 1):
                found.setdefault(pid, []).append((name, rank, score))
                fused[pid] = fused.get(pid, 0.0) + 1 / (60 + rank)
        positives = {pid: grade for pid, grade in read_qrels(human).get(query_id, {}).items() if grade >= 1}
        for rank, pid in enumerate(sorted(positives, key=lambda pid: (-positives[pid], pid)), 1):
            found.setdefault(pid, []).append(("human", rank, float(positives[pid])))
        order = sorted(found, key=lambda pid: (-fused.get(pid, 0.0), pid))
        others = [pid for pid in order if pid not in positives][: max(0, kept - len(positives))]
        yield from ((query_id, pid, found[pid]) for pid in order if pid in positives or pid in others)


@pytest.fixture(scope="module")
def large(tmp_path_factory, write_beir, write_qrels):
    """A collection of 700 passages, a third of which are copies, with two runs in no order and human grades."""
    folder, random = tmp_path_factory.mktemp("large"), np.random.default_rng(1)
    texts = [" ".join(f"w{n}" for n in row) for row in (random.zipf(1.4, (500, 8)) % 300).tolist()]
    passages = {f"p{number}": ("", text) for number, text in enumerate(texts + texts[:200])}
    queries = {f"q{number}": " ".join(text.split()[:4]) for number, text in enumerate(texts[:60])}
    grades = {query: {f"p{random.integers(700)}": int(random.integers(4)) for _ in range(3)} for query in queries}
    beir = write_beir(folder / "beir", passages, queries, grades)
    runs = []
    for name in ("one.run", "two.run"):
        pairs = [(query, pid) for query in [*queries, "unpooled"] for pid in random.choice(700, 20, replace=False)]
        random.shuffle(pairs)
        lines = [f"{query} Q0 p{pid} 1 {random.integers(9)} tag\n" for query, pid in pairs]
        (folder / name).write_text("".join(lines))
        runs.append(folder / name)
    return beir, runs


@pytest.mark.slow  # numba compiles the search of bm25s
def test_a_pool_is_the_one_that_plain_loops_make(large, tmp_path, monkeypatch):
    beir, runs = large
    human = beir / "qrels" / "test.tsv"
    monkeypatch.setattr(fusion, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 64)
    options = PoolOptions(bm25=15, run=(f"{runs[0]}:7", f"{runs[1]}:30"), human=human, positive_grade=1, depth=25)
    made = make_pool(beir, tmp_path / "pool", options)
    expected = list(reference(beir, depth=15, runs=[(runs[0], 7), (runs[1], 30)], human=human, kept=25))
    assert [(one.query_id, one.passage_id, list(map(tuple, one.sources))) for one in made.candidates] == expected
    assert list(made.passages) == sorted({pid for _, pid, _ in expected})
    assert list(made.queries) == list(query_texts(beir / "queries.jsonl"))


def test_the_numbers_of_a_pool_are_counted_while_it_is_written(large, tmp_path, monkeypatch):
    beir, runs = large
    monkeypatch.setattr(pool, "read_pool", lambda *given: pytest.fail("the pool is read back"))
    written = write_pool(beir, tmp_path / "pool", PoolOptions(bm25=0, run=(f"{runs[0]}:7",)))
    assert written == (60 * 7, 60, 0)
    assert not (tmp_path / "pool" / "scratch").exists()


def test_memory_per_pair_does_not_grow(write_beir, tmp_path, monkeypatch):
    monkeypatch.setattr(fusion, "ROWS_AT_ONCE", 1_000)
    monkeypatch.setattr(bm25, "QUERIES_AT_ONCE", 32)
    words = [f"w{number}" for number in range(40)]
    texts = {f"p{number}": ("", f"{words[number % 40]} {words[number % 37]} common") for number in range(400)}

    def peak(queries: int) -> int:
        asked = {f"q{number}": f"{words[number % 40]} common" for number in range(queries)}
        beir = write_beir(tmp_path / f"beir-{queries}", texts, asked, {})
        tracemalloc.start()
        write_pool(beir, tmp_path / f"pool-{queries}", PoolOptions(bm25=100))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(50)
    few, many = peak(100), peak(500)
    # A query takes some hundred bytes, and its hundred pairs take none.
    assert (many - few) / (400 * 100) < 15


def test_two_processes_share_the_work_and_one_writes(write_beir, tmp_path, encoder):
    """`torchrun labelkit pool` on the real command line."""
    random = np.random.default_rng(0)
    texts = [" ".join(row) for row in random.choice(WORDS.split(), (170, 5))]
    passages = {f"p{number}": ("", text) for number, text in enumerate(texts[:100])}
    beir = write_beir(tmp_path / "beir", passages, {f"q{number}": text for number, text in enumerate(texts[100:])}, {})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    made = []
    for name, start in (("one", [sys.executable, "-m"]), ("two", torchrun)):
        cache = tmp_path / f"cache-{name}"
        command = ["labelkit", "pool", beir, "--bm25", 5, "--dense", f"{encoder}:5", "-o", tmp_path / name]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "LABELKIT_CACHE": str(cache)}
        done = subprocess.run(
            [*start, *map(str, command)], capture_output=True, text=True, timeout=180, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count(f"{tmp_path / name}: ") == 1
        made.append(
            [
                (one.query_id, one.passage_id, [(origin.name, origin.rank) for origin in one.sources])
                for one in read_pool(tmp_path / name).candidates
            ]
        )
        assert len(list(cache.rglob("*.npy"))) == 2 + 3, "embeddings of queries and passages, and an index"
    assert made[0] == made[1]


def test_progress_is_told_by_stage(large, tmp_path, monkeypatch):
    monkeypatch.setenv("LABELKIT_CACHE", str(tmp_path / "cache"))
    told: list[Stage] = []
    write_pool(large[0], tmp_path / "pool", PoolOptions(bm25=3), report=told.append)
    assert [stage.name for stage in told] == ["read", "BM25: count terms", "BM25: search"]
    assert told[-1] == ("BM25: search", 60, 60, "queries")


def test_a_pool_with_other_settings_is_refused_and_with_the_same_made_again(labelkit, beir, tmp_path):
    command = ("pool", beir, "-o", tmp_path / "pool")
    assert labelkit(*command, "--bm25", 2).code == 0
    before = (tmp_path / "pool" / "manifest.json").read_bytes()
    for other in (["--bm25", 3], ["--bm25", 2, "--language", "de"], ["--bm25", 2, "--split", "test"]):
        called = labelkit(*command, *other)
        assert called.code == 2
        assert "is a pool with other settings, which was made by: labelkit pool" in called.err
        assert (tmp_path / "pool" / "manifest.json").read_bytes() == before
    assert labelkit(*command, "--bm25", 2).code == 0


def test_the_manifest_says_how_bm25_read_the_texts(beir, tmp_path):
    make_pool(beir, tmp_path / "pool", PoolOptions(bm25=2, language="german"))
    facts = json.loads((tmp_path / "pool" / "manifest.json").read_text())["facts"]
    assert facts["bm25"]["language"] == "de"
    assert facts["bm25"]["stop_words"].endswith(f"of bm25s {bm25s.__version__}")
    assert facts["bm25"]["stemmer"].startswith("Snowball")
    make_pool(beir, tmp_path / "other", PoolOptions(bm25=2))
    facts = json.loads((tmp_path / "other" / "manifest.json").read_text())["facts"]
    assert facts["bm25"] == {
        "formula": "lucene, k1 = 1.5, b = 0.75",
        "language": "none given",
        "tokenizer": "words of two or more characters, in lower case",
        "stop_words": f"33 of bm25s {bm25s.__version__}",
        "stemmer": "none",
    }


def test_a_duplicated_pair_of_a_run_is_refused_with_its_line(beir, tmp_path):
    path = run_file(tmp_path, ("q1", "p1", 1), ("q2", "p1", 1), ("q1", "p1", 2))
    with pytest.raises(DataError, match=r"some\.run:3: the pair 'q1', 'p1' is duplicated"):
        pooled(beir, tmp_path, run=(f"{path}:5",))


def test_two_runs_of_one_name_are_two_sources(beir, tmp_path):
    (tmp_path / "other").mkdir()
    one, other = run_file(tmp_path, ("q1", "p1", 1)), run_file(tmp_path / "other", ("q1", "p2", 1))
    assert set(pooled(beir, tmp_path, run=(f"{one}:5", f"{other}:5"))["q1"]) == {"p1", "p2"}


def test_a_pool_holds_only_the_passages_it_needs(beir, tmp_path):
    pooled(beir, tmp_path, bm25=1)
    made = read_pool(tmp_path / "made")
    assert (
        set(made.passages) == {candidate.passage_id for candidate in made.candidates} < {f"p{n}" for n in range(1, 7)}
    )


@pytest.mark.parametrize("name", ["no-such-model", "empty"])
def test_a_dense_model_that_cannot_be_loaded_is_one_line(labelkit, beir, tmp_path, name):
    (tmp_path / "empty").mkdir()
    called = labelkit("pool", beir, "--dense", f"{tmp_path / name}:3", "-o", tmp_path / "pool")
    assert called.code == 2
    assert called.err.startswith("error: ")
    assert str(tmp_path / name) in called.err
