"""Judges of a labels folder: a second one is asked for, a silent one leaves no trace, one can be removed."""

import json
import subprocess
import sys

import pytest

import labelkit as api
from labelkit.errors import EngineError, UnknownNameError, UsageError
from labelkit.judging.budget import Caps
from labelkit.judging.journal import Journal
from labelkit.judging.reading import Reading
from labelkit.storage.labels import read_labels
from labelkit.storage.manifest import MANIFEST

PRICES = "[overlap]\nprompt = 1000.0\ncompletion = 2000.0\n"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def nobody(monkeypatch):
    """The options of a judge at an address at which nothing listens."""
    monkeypatch.setattr("labelkit.engines.client.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("labelkit.engines.client.LONGEST_PAUSE", 0.002)
    monkeypatch.setattr("labelkit.engines.client.START_SECONDS", 0.1)
    return {"model": "m", "engine": "openai", "base_url": ("http://127.0.0.1:9/v1",)}


def test_a_judge_that_never_answers_leaves_no_trace(judge, candidates, tmp_path, nobody):
    labels = tmp_path / "labels"
    with pytest.raises(EngineError):
        judge(candidates, labels, **nobody)
    judge(candidates, labels)
    assert len(api.judges(labels)) == 1
    before = files_of(labels)
    with pytest.raises(EngineError):
        judge(candidates, labels, add_judge=True, **nobody)
    after = files_of(labels)
    del before["journal.sqlite"], after["journal.sqlite"]
    assert after == before, "the finished labels stay finished"
    assert len(api.judges(labels)) == 1
    assert judge(candidates, labels).asked == 0


def test_a_cap_below_one_request_leaves_no_judge(judge, candidates, tmp_path):
    labels = tmp_path / "labels"
    outcome = judge(candidates, labels, caps=Caps(tokens=1))
    assert (outcome.asked, outcome.pending) == (0, outcome.pairs)
    assert not labels.exists()
    judge(candidates, labels)
    before = files_of(labels)
    assert judge(candidates, labels, method="binary", add_judge=True, caps=Caps(tokens=1)).asked == 0
    assert files_of(labels)["manifest.json"] == before["manifest.json"]
    assert len(api.judges(labels)) == 1


def test_a_second_judge_is_asked_for_by_a_flag(judge, candidates, tmp_path, labelkit):
    labels = tmp_path / "labels"
    judge(candidates, labels)
    before = files_of(labels)
    (there,) = api.judges(labels)
    with pytest.raises(UsageError) as refused:
        judge(candidates, labels, "garbage")
    for words in (there.judge_id, "model garbage instead of overlap", "--add-judge", f"--drop {there.judge_id}"):
        assert words in str(refused.value)
    with pytest.raises(UsageError, match="method binary instead of graded"):
        judge(candidates, labels, method="binary")
    with pytest.raises(
        UsageError, match=r"another judge: seed 0 instead of none, temperature 1.0 instead of 0, votes 3 "
    ):
        judge(candidates, labels, reading=Reading(votes=3))
    assert files_of(labels) == before
    options = ("--engine", "scripted", "--model", "garbage")
    called = labelkit("annotate", tmp_path / "pool", "-o", labels, *options)
    assert (called.code, len(called.err.splitlines())) == (2, 1)
    assert labelkit("annotate", tmp_path / "pool", "-o", labels, *options, "--add-judge").code == 0
    assert len(api.judges(labels)) == 2
    assert judge(candidates, labels).asked == 0, "a judge that is in the folder needs no flag"


def test_judges_are_listed_with_their_counts_and_cost(judge, candidates, tmp_path, labelkit):
    labels, prices = tmp_path / "labels", tmp_path / "prices.toml"
    prices.write_text(PRICES)
    first = judge(candidates, labels, prices=prices)
    second = judge(candidates, labels, "garbage", add_judge=True)
    listed = {one["model"]: one for one in json.loads(labelkit("judges", labels, "--json").out)}
    assert listed["overlap"]["labels"] == first.pairs
    assert listed["overlap"]["usd"] == pytest.approx(first.usd)
    failed = sum(second.failures.values())
    assert (listed["garbage"]["labels"], listed["garbage"]["failures"]) == (second.pairs - failed, failed)
    assert listed["garbage"]["usd"] is None
    lines = labelkit("judges", labels).out.splitlines()
    assert [line.split("  ")[0] for line in lines] == sorted(one["judge_id"] for one in listed.values())
    assert any(f"{first.pairs} labels, 0 failures, {first.usd:,.2f} US dollars" in line for line in lines)


@pytest.mark.parametrize("method", ["graded", "utilsel"])
def test_a_dropped_judge_is_gone_and_comes_back_without_a_request(judge, candidates, tmp_path, labelkit, method):
    labels = tmp_path / "labels"
    judge(candidates, labels, method="binary")
    alone = files_of(labels)
    added = judge(candidates, labels, method=method, add_judge=True)
    both = files_of(labels)
    (dropped,) = (one for one in api.judges(labels) if one.method == method)
    called = labelkit("judges", labels, "--drop", dropped.judge_id)
    assert called.code == 0, called.err
    assert dropped.judge_id in called.err
    assert [line.split("  ")[0] for line in called.out.splitlines()] == [one.judge_id for one in api.judges(labels)]
    for name in ("judgements.parquet", "ballots.parquet", "judges.parquet"):
        assert files_of(labels)[name] == alone[name]
    assert labelkit("verify", labels).code == 0
    with Journal(labels) as journal:
        assert journal.spent().replies > added.asked, "the replies that were paid for stay"
    with pytest.raises(UsageError, match="--add-judge"):
        judge(candidates, labels, method=method)
    again = judge(candidates, labels, method=method, add_judge=True)
    assert (again.asked, again.pairs) == (0, added.pairs)
    for name in ("judgements.parquet", "ballots.parquet", "judges.parquet"):
        assert files_of(labels)[name] == both[name]


def test_the_last_judge_of_a_folder_makes_room_for_another(judge, candidates, tmp_path):
    labels = tmp_path / "labels"
    judge(candidates, labels)
    (typo,) = api.judges(labels)
    assert api.drop_judge(labels, typo.judge_id) == []
    assert read_labels(labels)[:2] == ([], [])
    judge(candidates, labels, "garbage")
    assert [one.model for one in api.judges(labels)] == ["garbage"]


def test_an_unknown_judge_is_refused_and_nothing_changes(judge, candidates, tmp_path, labelkit):
    labels = tmp_path / "labels"
    judge(candidates, labels)
    before = files_of(labels)
    (there,) = api.judges(labels)
    with pytest.raises(UnknownNameError, match=f"unknown judge 'nobody'; choose one of: {there.judge_id}"):
        api.drop_judge(labels, "nobody")
    assert labelkit("judges", labels, "--drop", "nobody").code == 2
    assert files_of(labels) == before
    assert labelkit("judges", tmp_path / "absent").code == 1


KILLED = """
import os, signal, sys
import labelkit
from labelkit.judging import judges, journal
at = sys.argv[3]
def killed(*args, **named):
    os.kill(os.getpid(), signal.SIGKILL)
if at == "before":
    journal.Journal.drop = killed
if at == "after":
    judges.finalise = killed
labelkit.drop_judge(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("at", ["before", "after"])
def test_a_killed_removal_is_completed_by_the_same_call(judge, candidates, tmp_path, at):
    labels = tmp_path / "labels"
    judge(candidates, labels)
    alone = files_of(labels)
    judge(candidates, labels, method="binary", add_judge=True)
    (binary,) = (one for one in api.judges(labels) if one.method == "binary")
    assert subprocess.run([sys.executable, "-c", KILLED, labels, binary.judge_id, at]).returncode < 0
    with pytest.raises(api.ArtifactError, match=f"run the command that began it: .* --drop {binary.judge_id}"):
        read_labels(labels)
    assert {one.method for one in api.judges(labels)} >= {"graded"}
    with pytest.raises(UnknownNameError):
        api.drop_judge(labels, "nobody")
    assert [one.method for one in api.drop_judge(labels, binary.judge_id)] == ["graded"]
    assert files_of(labels)["judgements.parquet"] == alone["judgements.parquet"]


def test_a_judge_of_a_run_that_was_stopped_is_listed_and_dropped(judge, candidates, tmp_path, monkeypatch):
    labels = tmp_path / "labels"
    judge(candidates, labels)

    def stop(*args, **named):
        raise EngineError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr("labelkit.judging.annotate.finalise", stop)
        with pytest.raises(EngineError, match="stopped"):
            judge(candidates, labels, "garbage", add_judge=True)
    assert not (labels / MANIFEST).exists()
    listed = {one.model: one for one in api.judges(labels)}
    assert listed["garbage"].labels + listed["garbage"].failures == listed["overlap"].labels
    assert [one.model for one in api.drop_judge(labels, listed["garbage"].judge_id)] == ["overlap"]
    assert read_labels(labels)[1][0].name == "overlap"


def test_imported_judges_are_listed_and_dropped(labelkit, beir, tmp_path):
    labels = tmp_path / "labels"
    assert labelkit("import", beir / "qrels" / "test.tsv", "-o", labels, "--judge", "people").code == 0
    (people,) = api.judges(labels)
    assert (people.kind, people.model, people.labels, people.usd) == ("imported", "people", 7, None)
    with pytest.raises(UnknownNameError):
        api.drop_judge(labels, "nobody")
    assert api.drop_judge(labels, people.judge_id) == []
    assert labelkit("verify", labels).code == 0
