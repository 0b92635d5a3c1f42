"""The command line as a user meets it: exit codes, one-line errors, nothing half-written."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from present import present

REPOSITORY = Path(__file__).parents[3]


def assert_refused(called, code: int, *parts: str) -> None:
    """The command failed with this code and one line that holds all of these parts."""
    assert called.code == code, called.err
    assert called.out == ""
    assert len(called.err.splitlines()) == 1
    assert called.err.startswith("error: ")
    for part in parts:
        assert part in called.err


def test_the_whole_path_of_a_datum_ends_with_0(labelkit, beir, tmp_path):
    human = beir / "qrels" / "test.tsv"
    pool, labels, dataset = tmp_path / "pool", tmp_path / "labels", tmp_path / "dataset"
    assert labelkit("pool", beir, "--human", human, "-o", pool).code == 0
    judged = labelkit("annotate", pool, "-o", labels, "--engine", "scripted", "--model", "overlap", "--json")
    assert judged.code == 0
    assert json.loads(judged.out)["pairs"] > 0
    agreed = labelkit("agree", labels, "--human", human, "--json")
    assert agreed.code == 0
    assert json.loads(agreed.out)["comparisons"][0]["pairs"] > 0
    mixed = labelkit("mix", "--data", beir, "--human", human, "--llm", labels, "-o", dataset, "--json")
    assert mixed.code == 0
    assert json.loads(mixed.out)["queries"] == 3
    for folder in (pool, labels, dataset):
        assert labelkit("verify", folder).code == 0


def test_words_for_people_go_to_standard_error(labelkit, beir, tmp_path):
    called = labelkit("pool", beir, "-o", tmp_path / "pool")
    assert called.out == ""
    assert "candidates for 3 queries" in called.err


def test_agree_prints_a_table_for_people(labelkit, beir, tmp_path):
    human = beir / "qrels" / "test.tsv"
    labelkit("import", human, "-o", tmp_path / "labels", "--judge", "somebody")
    called = labelkit("agree", tmp_path / "labels", "--human", human)
    assert called.code == 0
    assert re.search(r"Cohen's kappa, grades 0 to 3\s+│\s+1\.000", called.out)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_missing_file_is_named(labelkit, beir, tmp_path, name):
    (beir / name).unlink()
    assert_refused(labelkit("pool", beir, "-o", tmp_path / "pool"), 1, f"{beir / name} does not exist")
    assert not (tmp_path / "pool").exists()


def test_missing_qrels_are_named(labelkit, beir, tmp_path):
    absent = tmp_path / "no.tsv"
    for arguments in (
        ("pool", beir, "--human", absent),
        ("mix", "--data", beir, "--human", absent),
        ("import", absent, "--judge", "somebody"),
    ):
        assert_refused(labelkit(*arguments, "-o", tmp_path / "out"), 1, str(absent))
        assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_named(labelkit, tmp_path):
    for command in ("pool", "annotate", "agree", "verify"):
        extra = {"annotate": ["-o", tmp_path / "out", "--model", "overlap", "--engine", "scripted"]}
        extra |= {"pool": ["-o", tmp_path / "pool"], "agree": ["--human", tmp_path / "no"]}
        called = labelkit(command, tmp_path / "no", *extra.get(command, []))
        assert_refused(called, 1, f"{tmp_path / 'no'} does not exist")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_malformed_line_is_named(labelkit, beir, tmp_path, name):
    with (beir / name).open("a") as file:
        file.write('{"_id": "x", "text": \n')
    line = len((beir / name).read_text().splitlines())
    assert_refused(labelkit("pool", beir, "-o", tmp_path / "pool"), 1, f"{beir / name}:{line}: not valid JSON")
    assert not (tmp_path / "pool").exists()


def test_a_malformed_line_of_qrels_is_named(labelkit, beir, tmp_path):
    path = beir / "qrels" / "test.tsv"
    path.write_text(path.read_text() + "q1 p3\n")
    assert_refused(labelkit("pool", beir, "--human", path, "-o", tmp_path / "out"), 1, f"{path}:9: expected 3 columns")
    assert_refused(labelkit("pool", beir, "--split", "test", "-o", tmp_path / "out"), 1, f"{path}:9: ")
    assert_refused(labelkit("import", path, "--judge", "x", "-o", tmp_path / "out"), 1, f"{path}:9: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("row", "what"), [("q9\tp1\t2", "query id 'q9'"), ("q1\tp9\t2", "passage id 'p9'")])
def test_an_unknown_id_in_qrels_is_named(labelkit, beir, tmp_path, row, what):
    path = beir / "qrels" / "test.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\nq1\tp1\t2\n{row}\n")
    assert_refused(labelkit("pool", beir, "--split", "test", "-o", tmp_path / "out"), 1, str(path), what)
    called = labelkit("mix", "--data", beir, "--human", path, "-o", tmp_path / "out")
    assert_refused(called, 1, what.split()[-1])
    assert not (tmp_path / "out").exists()


def test_an_empty_corpus_is_named(labelkit, beir, tmp_path):
    (beir / "corpus.jsonl").write_text("")
    assert_refused(labelkit("pool", beir, "-o", tmp_path / "pool"), 1, f"{beir / 'corpus.jsonl'}: the corpus is empty")
    assert not (tmp_path / "pool").exists()


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_a_duplicate_id_is_named(labelkit, beir, tmp_path, name):
    lines = (beir / name).read_text().splitlines()
    (beir / name).write_text("\n".join([*lines, lines[0]]) + "\n")
    where = f"{beir / name}:{len(lines) + 1}"
    assert_refused(labelkit("pool", beir, "-o", tmp_path / "pool"), 1, where, "is duplicated")
    assert not (tmp_path / "pool").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from labelkit.storage import folders
with folders.writing(Path(sys.argv[1]), sys.argv[2], "test") as draft:
    (draft.path / "half.parquet").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_left_by_a_killed_run_is_named_and_the_command_makes_it_again(labelkit, beir, tmp_path):
    pool = tmp_path / "pool"
    killed = subprocess.run([sys.executable, "-c", KILLED, pool, "pool"], cwd=REPOSITORY)
    assert killed.returncode == -signal.SIGKILL
    annotate = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
    assert_refused(labelkit(*annotate), 1, str(pool), "is not finished", "the command that began it: test")
    assert not (tmp_path / "labels").exists()
    assert_refused(labelkit("verify", pool), 1, "is not finished")
    assert labelkit("pool", beir, "-o", pool).code == 0
    assert labelkit(*annotate).code == 0


def test_a_labels_folder_without_manifest_is_named(labelkit, beir, pool, tmp_path):
    labels = tmp_path / "labels"
    annotate = ("annotate", pool, "-o", labels, "--engine", "scripted", "--model", "overlap")
    assert labelkit(*annotate).code == 0
    (labels / "manifest.json").unlink()
    assert_refused(
        labelkit("agree", labels, "--human", beir / "qrels" / "test.tsv"),
        1,
        str(labels),
        "it is not a finished folder of labelkit",
    )
    assert labelkit(*annotate).code == 0
    assert labelkit("agree", labels, "--human", beir / "qrels" / "test.tsv").code == 0


def test_somebody_elses_folder_is_left_alone(labelkit, beir, pool, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    human = beir / "qrels" / "test.tsv"
    assert_refused(labelkit("pool", beir, "-o", mine), 1, str(mine))
    assert_refused(labelkit("import", human, "--judge", "x", "-o", mine), 1, str(mine))
    assert_refused(labelkit("mix", "--data", beir, "--human", human, "-o", mine), 1, str(mine))
    called = labelkit("annotate", pool, "-o", mine, "--engine", "scripted", "--model", "overlap")
    assert_refused(called, 2, str(mine))
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--engine", "nope"), ["unknown engine 'nope'", "local, openai, openai-batch, ray, scripted, vllm"]),
        (
            ("--engine", "scripted", "--method", "nope"),
            ["unknown method 'nope'", "binary, graded, relsel, rerank, utilrank, utilsel"],
        ),
        (("--engine", "scripted", "--prompt", "nope"), ["unknown prompt 'nope'", "binary, graded"]),
        (("--engine", "scripted", "--model", "nope"), ["unknown script 'nope'", "garbage, overlap"]),
        (("--engine", "scripted", "--prompt", "binary"), ["prompt 'binary' is for method 'binary'"]),
        (
            ("--engine", "scripted", "--base-url", "http://localhost:1"),
            ["--base-url (only for engine openai or openai-batch) has no effect"],
        ),
    ],
)
def test_a_wrong_name_lists_the_choices(labelkit, pool, tmp_path, options, parts):
    assert_refused(labelkit("annotate", pool, "-o", tmp_path / "labels", "--model", "overlap", *options), 2, *parts)
    assert not (tmp_path / "labels").exists()


def test_an_unknown_kind_lists_the_choices(labelkit, beir, tmp_path):
    qrels = beir / "qrels" / "test.tsv"
    called = labelkit("import", qrels, "-o", tmp_path / "labels", "--judge", "x", "--kind", "robot")
    assert_refused(called, 2, "unknown kind 'robot'", "human, llm, imported")


@pytest.mark.parametrize("text", ["model", "model:", "model:0", "model:-1", ":30", "model:ten"])
def test_a_depth_that_is_none_is_refused(labelkit, beir, tmp_path, text):
    for option in ("--dense", "--run"):
        assert_refused(labelkit("pool", beir, "-o", tmp_path / "pool", option, text), 2, option, "NAME:N")


def test_nothing_to_do_is_refused(labelkit, beir, tmp_path):
    assert_refused(labelkit("pool", beir, "--bm25", "0", "-o", tmp_path / "out"), 2, "nothing to pool from")
    assert_refused(labelkit("mix", "--data", beir, "-o", tmp_path / "out"), 2, "nothing to mix")


@pytest.mark.parametrize("program", ["labelkit", "trainer"])
def test_an_unknown_option_ends_with_2(program):
    done = subprocess.run([sys.executable, "-m", program, "--nope"], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 2


def test_an_output_under_a_file_is_one_line(labelkit, beir, pool, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for output in (taken, taken / "inside"):
        assert_refused(labelkit("pool", beir, "-o", output), 1, str(taken))
        command = ("annotate", pool, "-o", output, "--engine", "scripted", "--model", "overlap")
        assert_refused(labelkit(*command), 1, str(taken))
    assert taken.read_text() == "a file"


def test_a_beir_folder_is_pooled_beside_the_labels(labelkit, beir, tmp_path):
    labels = tmp_path / "labels"
    annotate = ("annotate", beir, "-o", labels, "--engine", "scripted", "--model", "overlap", "--json")
    first = labelkit(*annotate)
    assert first.code == 0
    assert "pooling 30 passages per query from BM25" in first.err
    assert labelkit("verify", tmp_path / "labels.pool").code == 0
    again = labelkit(*annotate)
    assert json.loads(again.out)["asked"] == 0


def test_another_beir_folder_never_meets_the_pool_of_the_first(labelkit, beir, write_beir, tmp_path):
    annotate = ("-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap", "--json")
    first = json.loads(labelkit("annotate", beir, *annotate).out)
    other = write_beir(tmp_path / "other", {"x": ("", "zebras run")}, {"z": "where do zebras run"}, {"z": {"x": 2}})
    second = labelkit("annotate", other, *annotate)
    if second.code == 0:
        assert json.loads(second.out)["pairs"] == 1 != first["pairs"]
    else:
        assert_refused(second, second.code, str(tmp_path / "labels.pool"))


def test_ctrl_c_says_how_to_resume(beir, tmp_path):
    # A shell that starts the tests in the background has SIGINT ignored; the child wants Python's own handler.
    handler = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    waiting = "from labelkit.commands import console; console.run(lambda: input(print('ready', flush=True) or ''))"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{handler}; {waiting}"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    present(child.stdout).readline()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "stopped; run the same command again to resume\n")
