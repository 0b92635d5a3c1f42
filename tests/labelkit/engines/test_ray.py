"""The real Ray: a local cluster of two nodes, workers that are killed, rows that trip an engine."""

import importlib.util
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from labelkit.engines import EngineFacts, Reply, Settings, open_engine
from labelkit.engines.ray import Worker, answer
from labelkit.errors import EngineError, UnknownNameError
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import make_pool
from labelkit.storage.labels import read_labels

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
PAIRS = 2000


@pytest.fixture(scope="module")
def cluster():
    """Two nodes on this machine, each with room for a worker and for Ray's own tasks; yields the address."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    made.add_node(num_cpus=2)
    yield made.address
    made.shutdown()


@pytest.fixture(scope="module")
def big_pool(tmp_path_factory, write_beir):
    folder = tmp_path_factory.mktemp("ray")
    words = ["ash", "birch", "cedar", "elm", "fir"]
    passages = {f"p{n:03}": ("", f"{words[n % 5]} tree number {n}") for n in range(100)}
    queries = {f"q{n:02}": f"tree {words[n % 5]} query{n}" for n in range(20)}
    beir = write_beir(folder / "beir", passages, queries, {})
    assert len(make_pool(beir, folder / "pool", PoolOptions(bm25=100)).candidates) == PAIRS
    return folder / "pool"


def journalled(folder: Path) -> Counter[str]:
    """Key of a request -> replies to it."""
    try:
        with sqlite3.connect(f"file:{folder / 'journal.sqlite'}?mode=ro", uri=True) as database:
            return Counter(key for (key,) in database.execute("SELECT key FROM replies"))
    except sqlite3.OperationalError:
        return Counter()


def workers() -> list[int]:
    """The actors among the descendants of this process."""
    names, parents = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                names[int(folder.name)] = (folder / "cmdline").read_bytes()
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    mine = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return [process for process in mine if b"ray::" in names.get(process, b"") and b"Map" in names[process]]


def test_a_killed_worker_loses_nothing_and_nothing_is_judged_twice(cluster, big_pool, tmp_path):
    labels = tmp_path / "labels"
    words = [
        sys.executable,
        "-m",
        "labelkit",
        "annotate",
        big_pool,
        "-o",
        labels,
        "--engine",
        "ray",
        "--json",
    ]
    words += ["--worker-engine", "scripted", "--model", "overlap", "--workers", 2, "--concurrency", 20]
    child = subprocess.Popen(
        [str(word) for word in words], env=os.environ | {"RAY_ADDRESS": cluster}, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (done := journalled(labels).total()) or not (running := workers()):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(running[0], signal.SIGKILL)
    assert done < PAIRS / 2, "the kill came too late to tell anything"
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    outcome = json.loads(out)
    assert (outcome["pairs"], outcome["asked"], outcome["failures"]) == (PAIRS, PAIRS, {})
    found = journalled(labels)
    assert (len(found), set(found.values())) == (PAIRS, {1})
    assert len(read_labels(labels)[0]) == PAIRS


def test_a_block_that_trips_an_engine_is_judged_row_by_row(ask):
    class Tripping:
        """Falls over a row as an engine may that was not made for it."""

        facts = EngineFacts("tripping", "1")
        runs = 0

        def run(self, requests):
            self.runs += 1
            for request in requests:
                if "bad" in request.key:
                    raise ZeroDivisionError("a row of no length")
                yield Reply(key=request.key, text="1")

    engine: Any = Tripping()
    replies = {r.key: r for r in answer(engine, [ask("q", name) for name in ("a", "bad", "c")])}
    assert [replies[f"q | {name}"].text for name in ("a", "c")] == ["1", "1"]
    assert replies["q | bad"].error == "ZeroDivisionError: a row of no length"
    assert engine.runs == 4


class Broken:
    def run(self, requests):
        raise EngineError("no memory for the weights")


def test_an_engine_that_cannot_run_is_no_fault_of_a_row(ask):
    broken: Any = Broken()
    with pytest.raises(EngineError, match="no memory"):
        answer(broken, [ask("q", "a"), ask("q", "b")])


def test_what_stops_an_engine_reaches_the_run_through_a_worker(ask):
    worker = Worker("scripted", Settings("overlap"))
    broken: Any = Broken()
    worker._engine = broken
    assert worker({"request": [pickle.dumps(ask("q", "a"))]}) == {"reply": [""], "stop": ["no memory for the weights"]}


def test_workers_run_an_engine_of_their_own():
    for wrong in ("openai", "ray"):
        with pytest.raises(UnknownNameError, match="choose one of: local, scripted, vllm"):
            open_engine("ray", Settings("m", worker_engine=wrong))


def test_the_judge_is_that_of_the_workers_engine():
    inner = open_engine("scripted", Settings("overlap")).facts
    facts = open_engine("ray", Settings("overlap", worker_engine="scripted")).facts
    assert facts._replace(engine_version="") == inner._replace(engine_version="")
    assert facts.engine_version.startswith("1 on ray 2.")
