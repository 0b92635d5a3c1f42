"""Two processes, one output folder: the second is told who holds it, the first finishes its work undisturbed."""

import time
from pathlib import Path

import pytest
from holders import finished, holding

COMMANDS = {
    "pool": ("pool", "{beir}", "--bm25", "5"),
    "annotate": ("annotate", "{pool}", "--engine", "scripted", "--model", "overlap"),
    "cascade": ("annotate", "{pool}", "--engine", "scripted", "--model", "overlap", "--cascade", "garbage"),
    "import": ("import", "{beir}/qrels/test.tsv", "--judge", "people"),
    "mix": ("mix", "--data", "{beir}", "--human", "{beir}/qrels/test.tsv", "--positive-grade", "1"),
    "export": ("export", "{dataset}", "--to", "beir"),
    "select": ("select", "{labels}", "--pool", "{pool}", "--budget", "2"),
    "tidy": ("tidy", "{beir}"),
    "redteam": (
        "redteam", "{beir}", "--human", "{beir}/qrels/test.tsv", "--engine", "scripted", "--model", "overlap",
        "--prompt", "graded", "--defence", "none", "--pairs", "2",
    ),
}  # fmt: skip


@pytest.fixture
def inputs(labelkit, beir, pool, tmp_path):
    """The inputs of all commands, by the names that stand in them."""
    labels, dataset = tmp_path / "labels", tmp_path / "dataset"
    human = beir / "qrels" / "test.tsv"
    assert labelkit("annotate", pool, "--engine", "scripted", "--model", "overlap", "-o", labels).code == 0
    called = labelkit("mix", "--data", beir, "--human", human, "--positive-grade", 1, "-o", dataset)
    assert called.code == 0, called.err
    return {"beir": beir, "pool": pool, "labels": labels, "dataset": dataset}


def timed(labelkit, *arguments):
    start = time.perf_counter()
    called = labelkit(*arguments)
    return called, time.perf_counter() - start


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_of_two_is_told_within_two_seconds_who_holds_the_output(labelkit, inputs, tmp_path, name):
    output = tmp_path / "out"
    command = [*(part.format(**inputs) for part in COMMANDS[name]), "-o", str(output)]
    with holding("labelkit", *command) as first:
        second, seconds = timed(labelkit, *command)
        assert (second.code, second.out) == (1, "")
        assert f"error: {output} is held by process {first.pid} on " in second.err
        assert f": labelkit {command[0]} " in second.err
        assert len(second.err.splitlines()) == 1
        assert seconds < 2
        assert finished(first) == 0
    assert output.is_dir()
    if name != "redteam":
        assert labelkit("verify", output).code == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert not {name for name in left if name.endswith((".lock", ".holder", ".unfinished"))}


def test_another_command_may_not_replace_labels_that_are_being_made(labelkit, inputs, tmp_path):
    """The journal of paid replies stands in this folder."""
    annotate = ("annotate", inputs["pool"], "--engine", "scripted", "--model", "overlap", "-o", inputs["labels"])
    with holding("labelkit", *annotate) as first:
        human = inputs["beir"] / "qrels" / "test.tsv"
        second = labelkit("import", human, "--judge", "people", "-o", inputs["labels"])
        assert second.code == 1
        assert f"is held by process {first.pid} " in second.err
        assert finished(first) == 0
    assert labelkit("verify", inputs["labels"]).code == 0


def test_a_dataset_that_is_audited_is_not_replaced_meanwhile(labelkit, inputs):
    with holding("labelkit", "audit", inputs["dataset"]) as first:
        human = inputs["beir"] / "qrels" / "test.tsv"
        mix = ("mix", "--data", inputs["beir"], "--human", human, "--positive-grade", 1, "-o", inputs["dataset"])
        second = labelkit(*mix)
        assert second.code == 1
        assert f"is held by process {first.pid} " in second.err
        assert finished(first) == 0
        assert labelkit(*mix).code == 0


def test_a_killed_holder_is_no_hindrance(labelkit, inputs, tmp_path):
    command = ("pool", inputs["beir"], "-o", tmp_path / "out")
    with holding("labelkit", *command):
        assert labelkit(*command).code == 1
    assert labelkit(*command).code == 0


def test_two_outputs_hinder_each_other_in_nothing(labelkit, inputs, tmp_path):
    with holding("labelkit", "pool", inputs["beir"], "-o", tmp_path / "one") as first:
        assert labelkit("pool", inputs["beir"], "-o", tmp_path / "other").code == 0
        assert finished(first) == 0
    assert (tmp_path / "one" / "manifest.json").read_bytes() != b""
    assert Path(tmp_path / "other" / "manifest.json").is_file()
