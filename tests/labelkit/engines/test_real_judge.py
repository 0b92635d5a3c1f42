"""The real judge: engine local, vLLM offline and vLLM's server say the same of 12 passages.

Run with LABELKIT_JUDGE pointing to the folder of an instruct model of one or two billion parameters. All three run in
bfloat16, one after the other, each in a process of its own.
"""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from present import present

from labelkit.judging.journal import Journal
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import make_pool

JUDGE = os.environ.get("LABELKIT_JUDGE")
pytestmark = [
    pytest.mark.judge,
    pytest.mark.skipif(JUDGE is None, reason="LABELKIT_JUDGE does not point to the folder of a judge model"),
]
MAX_LEN = 1024
QUERY = "how do I read a file line by line without loading all of it into memory"
PASSAGES = {
    "open": "Open file and return a corresponding file object. The file object is an iterator over the lines of "
    "the file: a for loop reads one line at a time and never holds the whole file in memory.",
    "readlines": "Read and return a list of lines from the stream. hint can be specified to control the number of "
    "lines read: no more lines will be read if the total size of all lines so far exceeds hint.",
    "readline": "Read and return one line from the stream. If size is specified, at most size bytes will be read. The "
    "line terminator is always a newline for binary files.",
    "fileinput": "Iterate over lines from multiple input streams. This iterates over the lines of all files listed in "
    "sys.argv[1:], defaulting to standard input if the list is empty, one line after the other.",
    "linecache": "Get a line for a Python source file from the cache. Update the cache if it does not contain an entry "
    "for this file already. This function never raises an exception.",
    "read_text": "Open the file in text mode, read it, and close the file. Returns the decoded contents of the "
    "pointed-to file as one string; the optional parameters have the same meaning as in open.",
    "sqrt": "Return the square root of x. The argument may be an integer or a float, and the result is always a "
    "float; a negative argument raises ValueError.",
    "mmap": "Map length bytes from the file specified by the file descriptor and return a memory-mapped object, "
    "which behaves like both a bytearray and a file object and can be sliced or searched.",
    "shuffle": "Shuffle list x in place, and return None. The elements are exchanged one by one with a random "
    "element at or before their position, so that every permutation is equally likely.",
    "sleep": "Delay execution for a given number of seconds. The argument may be a floating point number for "
    "subsecond precision. A signal handler may run in the meantime without ending the call early.",
    "islice": "Make an iterator that returns selected elements from the iterable. If start is non-zero, then "
    "elements are skipped until start is reached; afterwards elements are returned consecutively.",
    "lower": "Return a copy of the string converted to lowercase. All cased characters of the string are replaced "
    "by their lowercase counterparts; characters without case are left as they are.",
}


@pytest.fixture(scope="module")
def pool(tmp_path_factory, write_beir):
    folder = tmp_path_factory.mktemp("judge")
    beir = write_beir(folder / "beir", {name: ("", text) for name, text in PASSAGES.items()}, {"q": QUERY}, {})
    run = folder / "run.trec"
    run.write_text("".join(f"q Q0 {name} 1 {-rank} all\n" for rank, name in enumerate(PASSAGES)))
    make_pool(beir, folder / "pool", PoolOptions(bm25=0, run=(f"{run}:12",)))
    return folder / "pool"


@pytest.fixture(scope="module")
def local(pool, annotated):
    judgements = annotated(pool, pool.with_name("local"), "--model", JUDGE, "--dtype", "bfloat16")
    assert set(judgements) == set(PASSAGES)
    return judgements


CACHE_BYTES = 1 << 28  # small, so that the tests fit in 8 GiB beside the model and its packed weights


# Logits of this judge lie between 16 and 32, where numbers in bfloat16 are 0.125 apart; each engine rounds them by up
# to half of that, in its own order of sums.
ROUNDING = 0.1


def assert_same(one, other):
    assert set(one) == set(other) == set(PASSAGES)
    assert sum(one[name].grade == other[name].grade for name in PASSAGES) >= 11
    for name in PASSAGES:
        assert one[name].score == pytest.approx(other[name].score, abs=ROUNDING), name


def test_the_judge_prefers_answers_to_passages_on_other_subjects(local):
    answers, others = ("open", "fileinput"), ("sqrt", "sleep", "lower")
    assert min(local[name].score for name in answers) > max(local[name].score for name in others)
    assert all(row.label_mass > 0.5 for row in local.values())


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_offline_says_what_engine_local_says(local, pool, annotated):
    options = ("--engine", "vllm", "--model", JUDGE, "--dtype", "bfloat16", "--max-model-len", MAX_LEN)
    cache = ("--engine-arg", f"kv_cache_memory_bytes={CACHE_BYTES}")
    assert_same(local, annotated(pool, pool.with_name("offline"), *options, *cache))


@pytest.mark.vllm
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_the_vllm_server_says_what_engine_local_says(local, pool, annotated, vllm_server):
    log = pool.with_name("server.log")
    with vllm_server(Path(present(JUDGE)), MAX_LEN, log, dtype="bfloat16", cache_bytes=CACHE_BYTES) as url:
        served = annotated(pool, pool.with_name("served"), "--engine", "openai", "--model", JUDGE, "--base-url", url)
    assert_same(local, served)
    assert log.read_text().count("POST /v1/chat/completions") == len(PASSAGES), "no option is refused"
    with Journal(pool.with_name("served")) as journal:
        kept = [json.loads(reply) for _, _, reply, *_ in journal.records()]
    assert sorted(reply["text"] for reply in kept) == sorted(str(row.grade) for row in served.values())
    assert all(set(reply["label_logprobs"]) == {"0", "1", "2", "3"} for reply in kept)
