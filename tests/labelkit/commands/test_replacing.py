"""A command replaces what it made before, and nothing that was paid for, took days, or belongs to somebody else."""

import json
import shutil

import pytest

JUDGE = ("--engine", "scripted", "--model", "overlap")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def beir(write_beir, tmp_path):
    """Six queries with ten graded passages each: enough to calibrate on."""
    words = [f"word{number}" for number in range(10)]
    passages = {f"p{n}": ("", f"common {word} {words[n - 1]}") for n, word in enumerate(words)}
    queries = {f"q{n}": f"common {words[n]}" for n in range(6)}
    qrels = {f"q{n}": {f"p{m}": max(0, 3 - (m - n) % 10) for m in range(10)} for n in range(6)}
    return write_beir(tmp_path / "beir", passages, queries, qrels)


@pytest.fixture
def made(labelkit, beir, tmp_path):
    """Every command that writes a folder, run once: name of the folder -> words of the command."""
    human = beir / "qrels" / "test.tsv"
    pool, paid, data, calibration = (tmp_path / name for name in ("pool", "paid", "dataset", "calibration.json"))
    commands = {
        "pool": ("pool", beir, "--human", human),
        "labels": ("import", human, "--judge", "somebody"),
        "dataset": ("mix", "--data", beir, "--human", human),
        "export": ("export", data, "--to", "trec"),
        "data": ("tidy", beir),
        "calibrated": ("calibrate", paid, "--apply", calibration, "--apply-anyway"),
        "chosen": ("select", paid, "--pool", pool, "--budget", 3),
        "joined": ("annotate", pool, *JUDGE, "--cascade", "overlap", "--cascade-share", "0.5"),
    }
    first = [("pool", commands["pool"]), ("paid", ("annotate", pool, *JUDGE))]
    for name, words in (*first, ("calibration.json", ("calibrate", paid, "--human", human)), *commands.items()):
        called = labelkit(*words, "-o", tmp_path / name)
        assert called.code == 0, called.err
    return commands


def test_every_command_replaces_its_own_folder_and_no_journal(labelkit, made, tmp_path):
    for name, words in made.items():
        target = tmp_path / name
        called = labelkit(*words, "-o", target)
        assert called.code == 0, called.err
        shutil.copy(tmp_path / "paid" / "journal.sqlite", target)
        before = contents(target)
        called = labelkit(*words, "-o", target)
        assert called.code == 1, words
        assert f"{target} contains journal.sqlite, a journal of replies that were paid for" in called.err
        assert "choose another output folder, or move this one away first" in called.err
        assert contents(target) == before
        (target / "journal.sqlite").unlink()


def test_what_somebody_put_into_a_folder_is_not_replaced_with_it(labelkit, made, tmp_path):
    for name, words in made.items():
        target = tmp_path / name
        shutil.copytree(tmp_path / "paid", target / "runs" / "paid")
        (target / "notes.txt").write_text("a day of work")
        before = contents(target)
        called = labelkit(*words, "-o", target)
        assert called.code == 1, words
        assert f"{target} contains notes.txt, runs/paid/" in called.err
        assert "would replace the whole folder; move that away or choose another output folder" in called.err
        assert contents(target) == before
        (target / "notes.txt").unlink()
        shutil.rmtree(target / "runs")


def test_an_import_over_a_paid_annotation_keeps_it(labelkit, made, beir, tmp_path):
    labels, human = tmp_path / "paid", beir / "qrels" / "test.tsv"
    before = contents(labels)
    called = labelkit("import", human, "-o", labels, "--judge", "somebody", "--kind", "human")
    assert (called.code, len(called.err.splitlines())) == (1, 1)
    assert f"{labels} contains journal.sqlite" in called.err
    assert contents(labels) == before
    (labels / "manifest.json").unlink()  # as a run that was killed leaves it
    called = labelkit("import", human, "-o", labels, "--judge", "somebody", "--kind", "human")
    assert f"{labels} contains journal.sqlite" in called.err


def test_an_audit_is_made_again_with_its_dataset(labelkit, made, tmp_path):
    assert labelkit("audit", tmp_path / "dataset").code == 0
    assert (tmp_path / "dataset" / "audit.json").is_file()
    assert labelkit(*made["dataset"], "-o", tmp_path / "dataset").code == 0


def test_no_command_replaces_the_folder_that_it_reads(labelkit, made, beir, tmp_path):
    (tmp_path / "link").symlink_to("calibrated")
    read = {"calibrated": (tmp_path / "paid", tmp_path / "link"), "chosen": (tmp_path / "pool",) * 2, "data": (beir,)}
    for name, (was, *now) in read.items():
        target = (tmp_path / "pool") if name == "chosen" else tmp_path / name
        before = contents(target)
        words = [(*now, target)[0] if word == was else word for word in made[name]]
        called = labelkit(*words, "-o", target)
        assert called.code == 2, called.err
        assert f"{target} is read by this command, and its output would replace it" in called.err
        assert contents(target) == before


def test_a_report_or_a_calibration_replaces_no_other_file(labelkit, made, beir, tmp_path):
    paid, human = tmp_path / "paid", beir / "qrels" / "test.tsv"
    report = ("report", paid, "--human", human, "-o")
    calibrate = ("calibrate", paid, "--human", human, "-o")
    for command, own in ((report, tmp_path / "page.html"), (calibrate, tmp_path / "calibration.json")):
        assert labelkit(*command, own).code == labelkit(*command, own).code == 0
        for path in (paid / "journal.sqlite", human, tmp_path / "dataset" / "manifest.json"):
            before = path.read_bytes()
            called = labelkit(*command, path)
            assert (called.code, f"{path} exists and is not a labelkit " in called.err) == (1, True), called.err
            assert path.read_bytes() == before


def test_attacks_on_another_judge_are_not_replaced_and_not_mixed(labelkit, beir, tmp_path):
    human, output = beir / "qrels" / "test.tsv", tmp_path / "out"
    command = ("redteam", beir, "--human", human, "-o", output, "--prompt", "graded", "--engine", "scripted")
    assert labelkit(*command, "--model", "overlap", "--attack", "query", "--defence", "none").code == 0
    before = (output / "attacks.json").read_bytes()
    for other, named in ((("--model", "flaky"), "model"), (("--model", "overlap", "--seed", "1"), "seed")):
        called = labelkit(*command, *other, "--attack", "query", "--defence", "none")
        assert (called.code, f"was made with {named} = " in called.err) == (2, True), called.err
        assert (output / "attacks.json").read_bytes() == before
    more = labelkit(*command, "--model", "overlap", "--attack", "query", "--defence", "none", "--defence", "strip")
    assert more.code == 0, more.err
    assert {row["defence"] for row in json.loads((output / "attacks.json").read_text())["attacks"]} == {"none", "strip"}
