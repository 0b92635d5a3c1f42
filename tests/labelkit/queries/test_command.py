"""The command `queries`: killed at any request it resumes without paying twice, and its grades are never human."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from labelkit.errors import UsageError
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.pool import make_pool
from labelkit.queries.write import write_queries

SCRIPTED = ("--engine", "scripted", "--model", "overlap", "--passages", 4, "--registers", "question")


def texts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]


def test_a_killed_run_resumes_and_pays_for_no_reply_twice(labelkit, corpus, server_of_texts, tmp_path):
    """Killed twice while it writes, with requests in flight: at most these are paid for again."""
    reached, most = threading.Event(), [3]

    def slow(number):
        if number + 1 >= most[0]:
            reached.set()
            time.sleep(0.2)
        return {}

    url, ledger = server_of_texts(slow)
    options = ["queries", corpus, "-o", tmp_path / "made", "--engine", "openai", "--model", "m", "--base-url", url]
    options += ["--passages", 12, "--registers", "question", "--no-judge", "--concurrency", 2]
    for more in (3, 4):
        reached.clear()
        most[0] = len(ledger) + more
        command = [sys.executable, "-m", "labelkit", *map(str, options)]
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        assert reached.wait(240)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "made").exists()
    most[0] = 10**9
    ended = labelkit(*options)
    assert ended.code == 0, ended.err
    assert 12 <= len(ledger) <= 12 + 2 * 2
    assert "12 of 12 queries kept" in ended.err
    assert len(texts(tmp_path / "made")) == 12


def test_the_command_writes_counts_and_json(labelkit, corpus, tmp_path):
    made = labelkit("queries", corpus, "-o", tmp_path / "made", *SCRIPTED, "--json")
    assert made.code == 0, made.err
    counts = json.loads(made.out)
    assert counts["written"] == {"question": 4}
    assert f"{tmp_path / 'made'}: {counts['kept']['question']} of 4 queries kept, for 4 passages" in made.err
    assert f"question: {counts['kept']['question']} of 4 kept" in made.err
    assert labelkit("verify", tmp_path / "made").code == 0


def test_the_plan_is_shown_and_nothing_is_written(labelkit, corpus, tmp_path):
    shown = labelkit("queries", corpus, "-o", tmp_path / "made", *SCRIPTED, "--plan")
    assert shown.code == 0, shown.err
    assert "write question         4 requests" in shown.out
    assert "judge, at most         8 requests" not in shown.out
    assert "US dollars, at most    unknown" in shown.out
    assert list(tmp_path.iterdir()) == [corpus]


def test_a_log_needs_no_model(labelkit, corpus, tmp_path):
    (tmp_path / "log.csv").write_text("typed\nwhy is ice blue\nmail a@b.org\n")
    made = labelkit("queries", corpus, "--log", tmp_path / "log.csv", "--text-field", "typed", "-o", tmp_path / "made")
    assert made.code == 0, made.err
    assert "1 queries, from 2 lines with 1 different queries" in made.err
    assert "1 x left out: e-mail address" in made.err
    assert [row["text"] for row in texts(tmp_path / "made")] == ["why is ice blue"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ((), "model is not set; give --model"),
        (("--model", "m", "--sample", 3), "--sample is for queries from a log: give --log FILE"),
        (("--log", "x.log", "--model", "m"), "--model is for queries that a model writes"),
        (("--log", "x.log", "--no-judge"), "--no-judge is for queries that a model writes"),
        (("--log", "x.log", "--plan"), "--plan is for queries that a model writes"),
    ],
)
def test_options_of_a_log_and_of_a_model_do_not_mix(labelkit, corpus, tmp_path, options, part):
    refused = labelkit("queries", corpus, "-o", tmp_path / "made", *options)
    assert refused.code == 2
    assert part in refused.err


def test_a_models_grades_are_taken_for_human_grades_nowhere(labelkit, corpus, options, tmp_path):
    made = tmp_path / "made"
    write_queries(corpus, made, options())
    copied = tmp_path / "somewhere.tsv"
    copied.write_bytes((made / "qrels" / "train.tsv").read_bytes())
    for name, folder in (("split", "splits"), ("tidy", "tidied")):
        done = labelkit(name, made, "-o", tmp_path / folder)
        assert done.code == 0, done.err
    divided = [path for path in (tmp_path / "splits" / "qrels").iterdir() if path.read_text().count("\n") > 1]
    later = [*divided, tmp_path / "tidied" / "qrels" / "train.tsv"]
    assert len(later) > 1
    for qrels in (made / "qrels" / "train.tsv", copied, *later):
        with pytest.raises(UsageError, match="a language model gave these grades, so they are no human grades"):
            make_pool(made, tmp_path / "pool", PoolOptions(human=qrels))
        for command in (
            ("agree", tmp_path / "made.labels", "--human", qrels),
            ("mix", "--data", made, "--human", qrels, "-o", tmp_path / "dataset"),
            ("import", qrels, "-o", tmp_path / "people", "--judge", "people", "--kind", "human"),
            ("calibrate", tmp_path / "made.labels", "--human", qrels, "-o", tmp_path / "calibration.json"),
        ):
            refused = labelkit(*command)
            assert (refused.code, "they are no human grades" in refused.err) == (2, True), (command, refused.err)
    taken = labelkit("import", copied, "-o", tmp_path / "models", "--judge", "model", "--kind", "llm")
    assert taken.code == 0, taken.err


def test_the_folder_is_a_collection_for_every_later_step(labelkit, corpus, options, tmp_path):
    made = tmp_path / "made"
    write_queries(corpus, made, options())
    pooled = labelkit("pool", made, "-o", tmp_path / "pool", "--split", "train", "--bm25", 3)
    assert pooled.code == 0, pooled.err
    judged = labelkit(
        "annotate", tmp_path / "pool", "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap"
    )
    assert judged.code == 0, judged.err
    for labels in (tmp_path / "labels", tmp_path / "made.labels"):
        mixed = labelkit("mix", "--data", made, "--llm", labels, "-o", tmp_path / "dataset", "--skip-unknown")
        assert mixed.code == 0, mixed.err
