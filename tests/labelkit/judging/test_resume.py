"""Resumed, extended, killed and damaged annotation runs: nothing is paid twice, and the bytes come out the same."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from killed import KILLED_AFTER_REPLIES

from labelkit.errors import EngineError, JournalError, LabelkitError
from labelkit.pooling.pool import make_pool
from labelkit.storage.labels import read_labels

pytestmark = pytest.mark.slow  # every test annotates several times

REPOSITORY = Path(__file__).parents[3]


def replies(folder: Path) -> list[tuple[str, int]]:
    """(key, attempt) of every reply in the journal."""
    with sqlite3.connect(folder / "journal.sqlite") as db:
        return db.execute("SELECT key, attempt FROM replies ORDER BY key, attempt").fetchall()


def judgement_bytes(folder: Path) -> bytes:
    return (folder / "judgements.parquet").read_bytes()


def test_the_same_command_again_asks_nothing(judge, wide, tmp_path):
    labels = tmp_path / "labels"
    judge(wide, labels, "garbage")
    before, journal = judgement_bytes(labels), replies(labels)
    again = judge(wide, labels, "garbage")
    assert (again.asked, again.pairs) == (0, 300)
    assert replies(labels) == journal
    assert len(journal) == 300
    assert judgement_bytes(labels) == before


def test_a_limit_and_then_more_asks_only_for_the_rest(judge, wide, tmp_path):
    part, whole = tmp_path / "part", tmp_path / "whole"
    first = judge(wide, part, limit=70)
    assert (first.pairs, first.asked) == (70, 70)
    assert len(read_labels(part)[0]) == 70
    second = judge(wide, part, limit=200)
    assert (second.pairs, second.asked) == (200, 130)
    third = judge(wide, part)
    assert (third.pairs, third.asked) == (300, 100)
    assert len(replies(part)) == 300
    judge(wide, whole)
    assert judgement_bytes(part) == judgement_bytes(whole)


def test_tables_are_written_again_only_if_the_journal_or_the_tables_have_changed(judge, wide, tmp_path):
    labels, other = tmp_path / "labels", tmp_path / "other"
    judge(wide, labels, "garbage", add_judge=True)
    first = judge(wide, labels, "overlap", add_judge=True)
    table = labels / "judgements.parquet"
    before, written = table.read_bytes(), table.stat().st_ino
    again = judge(wide, labels, "garbage", limit=200, add_judge=True)
    assert table.stat().st_ino == written
    alone = judge(wide, other, "garbage", limit=200)
    assert (again.failures, again.unscored, again.pending) == (alone.failures, alone.unscored, alone.pending)
    assert sum(again.failures.values()) > 0
    facts = read_labels(labels)[2].facts
    assert sum(facts.failures.values()) > sum(again.failures.values()), "the facts are about the whole folder"
    table.write_bytes(before[:-1])
    assert judge(wide, labels, "overlap", add_judge=True)._replace(seconds=0) == first._replace(
        seconds=0, asked=0, known=300
    )
    assert table.read_bytes() == before
    (labels / "journal.sqlite").write_bytes((other / "journal.sqlite").read_bytes())
    judge(wide, labels, "garbage", limit=200)
    assert table.read_bytes() == judgement_bytes(other)


KILLED = f"""{KILLED_AFTER_REPLIES}
from labelkit.judging.annotate import annotate
options = AnnotateOptions(model="garbage", engine="scripted", method="graded", defence="none")
annotate(sys.argv[1], sys.argv[2], options, command="test")
"""


def test_a_killed_run_resumes_to_the_bytes_of_an_uninterrupted_one(judge, wide, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for count in (1, 96):
        command = [sys.executable, "-c", KILLED, tmp_path / "wide.pool", killed, str(count)]
        assert subprocess.run(command, cwd=REPOSITORY).returncode == -signal.SIGKILL
        with pytest.raises(LabelkitError, match="is not finished; to finish it, run the command that began it: test"):
            read_labels(killed)
    assert len(replies(killed)) == 97
    outcome = judge(wide, killed, "garbage")
    assert (outcome.pairs, outcome.asked) == (300, 203)
    assert [attempt for _, attempt in replies(killed)] == [1] * 300
    judge(wide, whole, "garbage")
    assert judgement_bytes(killed) == judgement_bytes(whole)


def test_damaged_replies_are_asked_again_alone(judge, wide, tmp_path):
    labels = tmp_path / "labels"
    judge(wide, labels)
    before = judgement_bytes(labels)
    with sqlite3.connect(labels / "journal.sqlite") as db:
        key = db.execute("SELECT max(key) FROM replies").fetchone()[0]
        db.execute("UPDATE replies SET reply = replace(reply, 'stop', 'stoq') WHERE key = ?", (key,))
    assert judge(wide, labels).asked == 1
    assert (key, 1) in replies(labels)
    assert judgement_bytes(labels) == before


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE asked SET pairs = replace(pairs, 'p1', 'q1')",
        "UPDATE asked SET pairs = replace(pairs, substr(pairs, -67, 64), (SELECT max(key) FROM replies))",
        "UPDATE judges SET prompt = CAST(replace(CAST(prompt AS TEXT), 'grade = 3', 'grade = 2') AS BLOB)",
    ],
    ids=["passage", "key", "prompt"],
)
def test_damage_to_what_was_asked_never_changes_a_judgement_in_silence(judge, candidates, tmp_path, damage):
    labels = tmp_path / "labels"
    judge(candidates, labels)
    with sqlite3.connect(labels / "journal.sqlite") as db:
        assert db.execute(damage).rowcount > 0
    with pytest.raises(JournalError, match="is damaged; restore the file from a copy"):
        judge(candidates, labels, method="binary", add_judge=True)
    if "judges" in damage:  # found before anything was written
        assert len(read_labels(labels)[0]) > 0
        return
    with pytest.raises(LabelkitError, match="is not finished"):
        read_labels(labels)


def test_equal_texts_are_paid_once(judge, write_beir, tmp_path):
    passages = {"a": ("", "red apples"), "b": ("", "red apples"), "c": ("", "blue")}
    beir = write_beir(tmp_path / "beir", passages, {"q": "red"}, {})
    outcome = judge(make_pool(beir, tmp_path / "twins"), tmp_path / "labels")
    assert (outcome.pairs, outcome.asked) == (2, 1)
    one, other = read_labels(tmp_path / "labels")[0]
    assert one.reply_ref == other.reply_ref
    assert one.score == other.score


def test_a_judge_that_cannot_be_reached_stops_the_run(judge, wide, tmp_path, monkeypatch):
    monkeypatch.setattr("labelkit.engines.client.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("labelkit.engines.client.LONGEST_PAUSE", 0.002)
    monkeypatch.setattr("labelkit.engines.client.START_SECONDS", 0.1)
    with pytest.raises(EngineError, match=r"nothing listens at http://127.0.0.1:9/v1 .*: start the server"):
        judge(wide, tmp_path / "labels", "m", engine="openai", base_url=("http://127.0.0.1:9/v1",))
    assert not (tmp_path / "labels" / "unfinished.json").exists()


def test_reparse_reads_the_stored_replies_and_sends_nothing(judge, wide, labelkit, tmp_path):
    labels = tmp_path / "labels"
    judge(wide, labels, "garbage", method="utilsel")
    judge(wide, labels, "garbage", add_judge=True)
    before, journal, facts = judgement_bytes(labels), replies(labels), read_labels(labels)[2].facts
    for name in ("judgements", "ballots", "judges"):
        (labels / f"{name}.parquet").unlink()
    called = labelkit("annotate", tmp_path / "wide.pool", "-o", labels, "--reparse")
    assert called.code == 0, called.err
    assert "parsed again" in called.err
    assert (judgement_bytes(labels), replies(labels)) == (before, journal)
    assert read_labels(labels)[2].facts == facts


def test_reparse_without_a_run_is_refused(labelkit, pool, tmp_path):
    called = labelkit("annotate", pool, "-o", tmp_path / "labels", "--reparse")
    assert called.code == 2
    assert "contains no annotation run" in called.err
    assert not (tmp_path / "labels").exists()
    assert labelkit("annotate", pool, "-o", tmp_path / "labels").err == "error: model is not set; give --model\n"
