"""vLLM offline against engine local on a tiny random model: every probability of every label.

`test_real_judge.py` has the server.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from present import present

from labelkit.engines import Message, Request, Settings, open_engine
from labelkit.errors import EngineError, UsageError
from labelkit.judging.journal import FILE
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import make_pool

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed"),
]
MAX_LEN = 512
TEXTS = {
    f"p{number:02}": text
    for number, text in enumerate(
        (
            "cats sleep in the day",
            "the day",
            "mail carrier " * 8,
            "dogs",
            "green tea",
            "ünïcode ☕ and {braces}",
            "why",
            "tea water " * 12,
            "a cat in the daylight",
            "Grade: 3",
            "hunt at night and sleep in the day, and again",
            "no",
            "brewed below the boiling point",
            "x",
        )
    )
}
LONG = "zzzz" * 10 + " zqzq" * 290


@pytest.fixture(scope="module")
def pool(tmp_path_factory, write_beir):
    """14 pairs and one whose prompt is too long for `MAX_LEN` tokens."""
    folder = tmp_path_factory.mktemp("vllm")
    passages = {name: ("", text) for name, text in TEXTS.items()} | {"long": ("", LONG)}
    beir = write_beir(folder / "beir", passages, {"q": "why do cats sleep in the day"}, {})
    run = folder / "run.trec"
    run.write_text("".join(f"q Q0 {name} 1 {-rank} all\n" for rank, name in enumerate(passages)))
    make_pool(beir, folder / "pool", PoolOptions(bm25=0, run=(f"{run}:20",)))
    return folder / "pool"


@pytest.fixture(scope="module")
def local(pool, tiny_qwen, annotated):
    """What engine local says."""
    return annotated(pool, pool.with_name("local"), "--model", tiny_qwen, "--dtype", "float32")


@pytest.fixture(scope="module")
def offline(pool, tiny_qwen, annotated):
    """What vLLM says in process."""
    options = ("--engine", "vllm", "--model", tiny_qwen, "--dtype", "float32", "--max-model-len", MAX_LEN)
    return annotated(pool, pool.with_name("offline"), *options)


def test_every_probability_is_that_of_engine_local(offline, local):
    assert len({round(local[name].score, 2) for name in TEXTS}) > 5, "the tiny model says the same of everything"
    for name in TEXTS:
        assert offline[name].probs == pytest.approx(local[name].probs, abs=1e-3), name
        assert offline[name].score == pytest.approx(local[name].score, abs=1e-3)
        assert offline[name].grade == local[name].grade
        assert offline[name].tokens == local[name].tokens


def test_the_share_of_the_labels_is_that_of_engine_local(offline, local):
    from vllm import SamplingParams

    if "logprob_token_ids" not in SamplingParams.__struct_fields__:
        pytest.skip("this release of vLLM gives the probabilities among the labels alone")
    for name in TEXTS:
        assert offline[name].label_mass == pytest.approx(local[name].label_mass, rel=1e-3)
        assert 0 < offline[name].label_mass < 1


@pytest.mark.parametrize("engine", ["local", "offline"])
def test_an_over_long_prompt_fails_alone(engine, request):
    judgements = request.getfixturevalue(engine)
    assert set(judgements) == {*TEXTS, "long"}
    assert judgements["long"].failure is not None
    assert [name for name in TEXTS if judgements[name].failure is not None] == []


SHORT = """
name = "short"
version = "1"
method = "relsel"
citation = "nobody"
system = "Reply [2], [5] or none."
user = "Query: {query}\\n{passages}\\nIdentifiers:"
"""


def relsel(pool, model, engine, *more):
    """Options of a relevance selection over windows. A random model says nothing of sense: only the pattern makes
    lists of its answers.
    """
    prompt = pool.with_name("short.toml")
    prompt.write_text(SHORT)
    options = ("--engine", engine, "--model", model, "--dtype", "float32", "--method", "relsel", "--prompt", prompt)
    return (*options, "--max-model-len", MAX_LEN, "--passage-tokens", 40, *more)


@pytest.mark.skipif(
    importlib.metadata.version("transformers") < "5", reason="releases of vLLM before 0.17 need transformers 4"
)
def test_local_holds_a_list_to_the_identifiers_of_its_window(pool, tiny_qwen, annotated):
    judgements = annotated(pool, pool.with_name("relsel-local"), *relsel(pool, tiny_qwen, "local"))
    assert set(judgements) == {*TEXTS, "long"}
    assert 1 < len({row.reply_ref for row in judgements.values()}) < 15
    assert any(row.grade is not None for row in judgements.values())
    assert {row.failure.split(":")[0] for row in judgements.values() if row.failure} <= {"identifier given twice"}


def journalled(folder):
    """Replies in a journal that a run may be writing."""
    if not (folder / FILE).is_file():
        return 0
    with closing(sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True, timeout=10)) as journal:
        # The file is there a moment before its tables.
        made = journal.execute("SELECT count(*) FROM sqlite_master WHERE name = 'replies'").fetchone()[0]
        return journal.execute("SELECT count(*) FROM replies").fetchone()[0] if made else 0


def test_a_crash_of_the_engine_loses_no_reply_and_the_next_run_goes_on(pool, tiny_qwen, annotated):
    """Many orders of the pool, so that there is something to interrupt; the next run ends them and its lists hold."""
    folder = pool.with_name("crashed")
    options = relsel(pool, tiny_qwen, "vllm", "--permutations", 30, "--concurrency", 1)
    command = [sys.executable, "-m", "labelkit", "annotate", pool, "-o", folder, *options]
    child = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
    while journalled(folder) < 10:
        assert child.poll() is None, present(child.stderr).read()
        time.sleep(0.05)
    (engine,) = (one for one in psutil.Process(child.pid).children() if "EngineCore" in one.name())
    engine.kill()
    _, err = child.communicate(timeout=120)
    assert child.returncode == 1, err
    assert "error: vLLM stopped while it was judging; every finished reply is kept" in err
    assert "Traceback" not in err
    kept = journalled(folder)
    judgements = annotated(pool, folder, *options[:-1], 64)
    assert set(judgements) == {*TEXTS, "long"}
    ballots = pq.read_table(folder / "ballots.parquet").to_pylist()
    windows = {row["reply_ref"] for row in ballots}
    assert 10 <= kept < len(windows) == journalled(folder)
    assert {row["failure"].split(":")[0] for row in ballots if row["failure"]} <= {"identifier given twice"}
    assert {row["grade"] for row in ballots} == {0, 2, None}


def test_an_engine_that_cannot_be_loaded_ends_the_run_and_fails_no_pair(tiny_qwen, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_qwen, broken)
    (broken / "model.safetensors").unlink()
    engine = open_engine("vllm", Settings(str(broken), dtype="float32"))
    asked = [Request("key", "q", (Message("user", "a"),), ("0", "1"))]
    with pytest.raises(
        EngineError, match=r"vLLM cannot run .*max_model_len \(4096\) is greater .* lower --max-model-len"
    ):
        list(engine.run(asked))
    engine.close()
    engine = open_engine("vllm", Settings(str(broken), dtype="float32", max_model_len=MAX_LEN))
    with pytest.raises(EngineError, match=r"RuntimeError: Cannot find any model weights .* \(whole output: ") as failed:
        list(engine.run(asked))
    engine.close()
    log = Path(str(failed.value).rpartition("(whole output: ")[2].rstrip(")"))
    assert "Traceback" in log.read_text()
    log.unlink()


def test_a_size_of_the_cache_that_is_given_is_not_overridden(tiny_qwen, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    given = ("kv_cache_memory_bytes=268435456",)
    open_engine("vllm", Settings(str(tiny_qwen), dtype="float32", max_model_len=MAX_LEN, engine_args=given)).close()
    assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ


def test_a_process_that_ends_while_it_is_being_ended_fails_no_run(tiny_qwen):
    def shutdown():
        raise psutil.NoSuchProcess(1)

    engine: Any = open_engine("vllm", Settings(str(tiny_qwen), dtype="float32", max_model_len=MAX_LEN))
    engine._llm = SimpleNamespace(shutdown=shutdown)
    engine.close()
    assert "_llm" not in vars(engine)


def test_labels_that_share_a_first_token_are_refused(tiny_qwen):
    engine = open_engine("vllm", Settings(str(tiny_qwen), dtype="float32"))
    engine.check_labels(("0", "1", "2", "3"))
    with pytest.raises(UsageError, match="share a first token"):
        engine.check_labels(("10", "12"))


def test_a_budget_for_thinking_needs_the_parser_that_finds_its_end(tiny_qwen):
    with pytest.raises(UsageError, match="--thinking-tokens with engine vllm needs --reasoning-parser"):
        open_engine("vllm", Settings(str(tiny_qwen), thinking_tokens=64))


def test_a_missing_model_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(EngineError, match="cannot be loaded"):
        open_engine("vllm", Settings(str(tmp_path / "absent")))


def test_the_manifest_of_a_judge_names_vllm(offline, pool):
    from labelkit.storage.labels import read_labels

    (judge,) = read_labels(pool.with_name("offline"))[1]
    assert judge.engine == "vllm"
    assert present(judge.engine_version).startswith("vllm 0.")
    assert judge.dtype == "float32"
    assert json.loads(present(judge.decoding))["temperature"] == 0


def test_a_reranker_gives_the_logits_of_sentence_transformers(pool, tiny_reranker, peer_scores, annotated):
    given = ("--engine", "vllm", "--model", tiny_reranker, "--method", "rerank", "--concurrency", 8)
    found = annotated(pool, pool.with_name("reranked"), *given)
    assert "over the limit of 128; cut passages with --passage-tokens" in present(found["long"].failure)
    names = sorted(TEXTS)
    peer = peer_scores("why do cats sleep in the day", [TEXTS[name] for name in names])
    assert [found[name].score for name in names] == pytest.approx(peer, abs=1e-3)
    assert max(abs(score) for score in peer) > 1


def test_the_server_gives_the_same_logits_to_engine_openai(pool, tiny_reranker, peer_scores, annotated, vllm_server):
    options = ("--engine", "openai", "--model", tiny_reranker, "--method", "rerank", "--base-url")
    with vllm_server(tiny_reranker, 128, pool.with_name("rerank.log"), runner="pooling") as url:
        found = annotated(pool, pool.with_name("served-scores"), *options, url)
    assert "128" in present(found["long"].failure), "the server refuses this pair alone, in its own words"
    names = sorted(TEXTS)
    peer = peer_scores("why do cats sleep in the day", [TEXTS[name] for name in names])
    assert [found[name].score for name in names] == pytest.approx(peer, abs=1e-3)
