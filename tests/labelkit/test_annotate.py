"""Annotation runs with the scripted judge: counts, resuming, identity of judges, equal bytes."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from labelkit.annotate import annotate, read_labels
from labelkit.engines import Settings
from labelkit.errors import DataError, EngineError, LabelkitError, UsageError
from labelkit.pool import Recipe, make_pool, read_pool
from labelkit.prompts import load_prompt, shipped_prompts

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def candidates(pool):
    return read_pool(pool)


@pytest.fixture
def wide(write_beir, tmp_path):
    """A pool of 300 pairs."""
    words = ["ash", "birch", "cedar", "elm", "fir", "oak", "pine", "yew"]
    passages = {f"p{n:02}": ("", f"{words[n % 8]} {words[(n + 3) % 8]} tree number {n}") for n in range(30)}
    queries = {f"q{n}": f"tree {words[n % 8]} {words[(n * 3) % 8]} query{n}" for n in range(10)}
    beir = write_beir(tmp_path / "wide", passages, queries, {})
    return make_pool(beir, None, Recipe(bm25=30), tmp_path / "wide.pool", "test")


def judge(pool, folder, model="overlap", *, method="graded", prompt=None, limit=None, engine="scripted", **settings):
    return annotate(
        pool,
        folder,
        engine_name=engine,
        settings=Settings(model, **settings),
        method_name=method,
        prompt_name=prompt,
        limit=limit,
        command="test",
    )


def replies(folder: Path) -> list[tuple[str, int]]:
    """(key, attempt) of every reply in the journal."""
    with sqlite3.connect(folder / "journal.sqlite") as db:
        return db.execute("SELECT key, attempt FROM replies ORDER BY key, attempt").fetchall()


def judgement_bytes(folder: Path) -> bytes:
    return (folder / "judgements.parquet").read_bytes()


def test_every_pair_gets_a_judgement(candidates, tmp_path):
    outcome = judge(candidates, tmp_path / "labels")
    judgements, judges, manifest = read_labels(tmp_path / "labels")
    pairs = {(one.query_id, one.passage_id) for one in candidates.candidates}
    assert outcome.pairs == outcome.asked == len(judgements) == len(pairs)
    assert {(row.query_id, row.passage_id) for row in judgements} == pairs
    assert outcome.failures == {}
    assert [(one.kind, one.name, one.model_answered) for one in judges] == [("llm", "overlap", "scripted-overlap")]
    assert manifest["rows"] == {"judgements": len(pairs), "judges": 1}


def test_grades_scores_and_probabilities_agree(candidates, tmp_path):
    judge(candidates, tmp_path / "labels")
    judgements, judges, _ = read_labels(tmp_path / "labels")
    assert judges[0].label_grades == (0, 1, 2, 3)
    for row in judgements:
        assert sum(row.probs) == pytest.approx(1)
        assert row.score == pytest.approx(sum(p * grade for p, grade in zip(row.probs, range(4), strict=True)))
        assert row.probs[row.grade] == max(row.probs)
        assert row.label_mass == pytest.approx(1)
        assert row.tokens > 1
    by_pair = {(row.query_id, row.passage_id): row.score for row in judgements}
    assert by_pair["q3", "p2"] > by_pair["q3", "p6"]


def test_binary_gives_yes_grade_2_and_no_grade_0(candidates, tmp_path):
    judge(candidates, tmp_path / "labels", method="binary")
    judgements, _, _ = read_labels(tmp_path / "labels")
    assert {row.grade for row in judgements} == {0, 2}
    assert all((row.score > 0) == (row.grade == 2) for row in judgements)


def test_failures_carry_their_reason_and_are_never_grades(wide, tmp_path):
    outcome = judge(wide, tmp_path / "labels", "garbage")
    judgements, _, manifest = read_labels(tmp_path / "labels")
    failed = [row for row in judgements if row.failure is not None]
    assert 0 < len(failed) < len(judgements) == outcome.pairs == 300
    assert {row.failure for row in failed} == {"no label in 'I would say 3/10'"}
    assert all(row.grade is row.score is row.probs is None for row in failed)
    assert outcome.failures == {"no label": len(failed)} == manifest["facts"]["failures"]


def test_the_same_command_again_asks_nothing(wide, tmp_path):
    labels = tmp_path / "labels"
    judge(wide, labels, "garbage")
    before, journal = judgement_bytes(labels), replies(labels)
    again = judge(wide, labels, "garbage")
    assert (again.asked, again.pairs) == (0, 300)
    assert replies(labels) == journal
    assert len(journal) == 300
    assert judgement_bytes(labels) == before


def test_a_limit_and_then_more_asks_only_for_the_rest(wide, tmp_path):
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


KILLED = """
import os, signal, sys
from pathlib import Path
from labelkit import journal
from labelkit.annotate import annotate
from labelkit.engines import Settings
from labelkit.pool import read_pool
append, left = journal.Journal.append, int(sys.argv[3])
def counted(self, reply):
    global left
    append(self, reply)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal.append = counted
annotate(read_pool(Path(sys.argv[1])), Path(sys.argv[2]), engine_name="scripted", settings=Settings("garbage"),
         method_name="graded", prompt_name=None, limit=None, command="test")
"""


def test_a_killed_run_resumes_to_the_bytes_of_an_uninterrupted_one(wide, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for count in (1, 96):
        command = [sys.executable, "-c", KILLED, tmp_path / "wide.pool", killed, str(count)]
        assert subprocess.run(command, cwd=REPOSITORY).returncode == -signal.SIGKILL
        with pytest.raises(LabelkitError, match="not a finished labels; run the command"):
            read_labels(killed)
    assert len(replies(killed)) == 97
    outcome = judge(wide, killed, "garbage")
    assert (outcome.pairs, outcome.asked) == (300, 203)
    assert [attempt for _, attempt in replies(killed)] == [1] * 300
    judge(wide, whole, "garbage")
    assert judgement_bytes(killed) == judgement_bytes(whole)


def test_damaged_replies_are_asked_again_alone(wide, tmp_path):
    labels = tmp_path / "labels"
    judge(wide, labels)
    before = judgement_bytes(labels)
    with sqlite3.connect(labels / "journal.sqlite") as db:
        key = db.execute("SELECT max(key) FROM replies").fetchone()[0]
        db.execute("UPDATE replies SET reply = replace(reply, 'stop', 'stoq') WHERE key = ?", (key,))
    assert judge(wide, labels).asked == 1
    assert (key, 2) in replies(labels)
    assert judgement_bytes(labels) == before


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE asked SET passage_id = 'q1' WHERE passage_id = 'p1'",
        "UPDATE asked SET key = (SELECT max(key) FROM replies) WHERE passage_id = 'p1'",
        "UPDATE judges SET prompt = replace(CAST(prompt AS TEXT), 'grade = 3', 'grade = 2')",
    ],
    ids=["passage", "key", "prompt"],
)
def test_damage_to_what_was_asked_never_changes_a_judgement_in_silence(candidates, tmp_path, damage):
    labels = tmp_path / "labels"
    judge(candidates, labels)
    before, _, _ = read_labels(labels)
    with sqlite3.connect(labels / "journal.sqlite") as db:
        assert db.execute(damage).rowcount > 0
    try:
        judge(candidates, labels, method="binary")
    except LabelkitError:
        return
    known = {row.judge_id for row in before}
    after = [row for row in read_labels(labels)[0] if row.judge_id in known]
    assert set(map(repr, after)) <= set(map(repr, before))


def test_another_judge_adds_to_the_folder(candidates, tmp_path):
    labels = tmp_path / "labels"
    judge(candidates, labels)
    graded, _, _ = read_labels(labels)
    judge(candidates, labels, method="binary")
    both, judges, _ = read_labels(labels)
    assert len(judges) == 2
    assert len(both) == 2 * len(graded)
    assert [row for row in both if row.judge_id == graded[0].judge_id] == graded


def test_a_changed_prompt_byte_is_another_judge(candidates, tmp_path):
    labels, prompt = tmp_path / "labels", tmp_path / "mine.toml"
    text = shipped_prompts()["graded"].read_text()
    prompt.write_text(text)
    judge(candidates, labels)
    assert judge(candidates, labels, prompt=str(prompt)).asked == 0
    prompt.write_text(text + "# a comment\n")
    changed = judge(candidates, labels, prompt=str(prompt))
    assert changed.asked == changed.pairs
    assert len(read_labels(labels)[1]) == 2


def test_a_changed_model_or_method_asks_again(candidates, tmp_path):
    labels = tmp_path / "labels"
    first = judge(candidates, labels)
    assert judge(candidates, labels, "garbage").asked == first.pairs
    assert judge(candidates, labels, method="binary").asked == first.pairs
    assert len(read_labels(labels)[1]) == 3


def test_a_changed_concurrency_asks_nothing(candidates, tmp_path):
    judge(candidates, tmp_path / "labels", concurrency=1)
    assert judge(candidates, tmp_path / "labels", concurrency=7).asked == 0


def test_a_changed_passage_asks_for_its_pairs_alone(write_beir, tmp_path):
    passages = {"a": ("", "red apples"), "b": ("", "red cherries")}
    beir = write_beir(tmp_path / "one", passages, {"q": "red"}, {})
    labels = tmp_path / "labels"
    judge(make_pool(beir, None, Recipe(), tmp_path / "one.pool", "test"), labels)
    beir = write_beir(tmp_path / "two", passages | {"b": ("", "red, sweet cherries")}, {"q": "red"}, {})
    assert judge(make_pool(beir, None, Recipe(), tmp_path / "two.pool", "test"), labels).asked == 1
    assert len(read_labels(labels)[0]) == 2


def test_equal_texts_are_paid_once(write_beir, tmp_path):
    passages = {"a": ("", "red apples"), "b": ("", "red apples"), "c": ("", "blue")}
    beir = write_beir(tmp_path / "beir", passages, {"q": "red"}, {})
    outcome = judge(make_pool(beir, None, Recipe(), tmp_path / "twins", "test"), tmp_path / "labels")
    assert (outcome.pairs, outcome.asked) == (2, 1)
    one, other = read_labels(tmp_path / "labels")[0]
    assert one.reply_ref == other.reply_ref
    assert one.score == other.score


def test_long_passages_are_cut_and_counted(write_beir, tmp_path):
    passages = {"long": ("", "red " + "word " * 400), "short": ("", "red " + "word " * 200)}
    pool = make_pool(write_beir(tmp_path / "b", passages, {"q": "red"}, {}), None, Recipe(), tmp_path / "p", "test")
    assert judge(pool, tmp_path / "labels").cut_passages == 1
    judgements, _, manifest = read_labels(tmp_path / "labels")
    assert manifest["facts"]["cut_passages"] == 1
    tokens = {row.passage_id: row.tokens for row in judgements}
    assert 300 < tokens["long"] < 320


def test_a_foreign_folder_is_refused(candidates, tmp_path, labelkit, beir):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    imported = tmp_path / "imported"
    assert labelkit("import", beir / "qrels" / "test.tsv", "--judge", "x", "-o", imported).code == 0
    before = {path.name: path.read_bytes() for path in imported.iterdir()}
    for folder in (tmp_path / "mine", imported, tmp_path / "pool"):
        with pytest.raises(UsageError, match=str(folder)):
            judge(candidates, folder)
    assert {path.name: path.read_bytes() for path in imported.iterdir()} == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_a_prompt_for_another_method_is_refused(candidates, tmp_path):
    with pytest.raises(UsageError, match="is for method 'graded', not 'binary'"):
        judge(candidates, tmp_path / "labels", method="binary", prompt="graded")
    assert not (tmp_path / "labels").exists()


def test_the_journal_keeps_the_prompt_it_asked_with(candidates, tmp_path):
    judge(candidates, tmp_path / "labels")
    with sqlite3.connect(tmp_path / "labels" / "journal.sqlite") as db:
        assert db.execute("SELECT prompt FROM judges").fetchall() == [(load_prompt("graded").content,)]


def test_a_judge_that_cannot_be_reached_stops_the_run(wide, tmp_path, monkeypatch):
    monkeypatch.setattr("labelkit.engines.openai.FIRST_PAUSE", 0.001)
    monkeypatch.setattr("labelkit.engines.openai.LONGEST_PAUSE", 0.002)
    with pytest.raises(EngineError, match="the judge answers nothing"):
        judge(wide, tmp_path / "labels", "m", engine="openai", base_url="http://127.0.0.1:9/v1")
    assert len(replies(tmp_path / "labels")) < 60
    with pytest.raises(LabelkitError, match="run the command"):
        read_labels(tmp_path / "labels")


def test_an_empty_pool_gives_empty_labels(write_beir, tmp_path):
    beir = write_beir(tmp_path / "b", {"a": ("", "red")}, {"q": "blue"}, {})
    outcome = judge(make_pool(beir, None, Recipe(), tmp_path / "p", "test"), tmp_path / "labels")
    assert (outcome.pairs, outcome.asked) == (0, 0)
    assert read_labels(tmp_path / "labels")[0] == []


def test_a_prompt_with_a_grade_that_is_none_is_refused_before_anything_is_asked(candidates, tmp_path):
    prompt = tmp_path / "mine.toml"
    prompt.write_text(shipped_prompts()["graded"].read_text().replace("grade = 3", "grade = 7"))
    with pytest.raises(DataError, match=r"mine\.toml"):
        judge(candidates, tmp_path / "labels", prompt=str(prompt))
    assert not (tmp_path / "labels").exists()
