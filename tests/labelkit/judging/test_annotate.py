"""Annotation runs with the scripted judge: counts, failures, identity of judges, foreign folders."""

import sqlite3

import pytest
from present import present

from labelkit.engines import EngineFacts
from labelkit.errors import DataError, UsageError
from labelkit.judging.annotate import make_judge
from labelkit.judging.options import AnnotateOptions
from labelkit.judging.prompts import load_prompt, shipped_prompts
from labelkit.judging.reading import Reading
from labelkit.judging.request_keys import digest, identity_of
from labelkit.pooling.pool import make_pool
from labelkit.storage.labels import read_labels


def test_every_pair_gets_a_judgement(judge, candidates, tmp_path):
    outcome = judge(candidates, tmp_path / "labels")
    judgements, judges, manifest = read_labels(tmp_path / "labels")
    pairs = {(one.query_id, one.passage_id) for one in candidates.candidates}
    assert outcome.pairs == outcome.asked == len(judgements) == len(pairs)
    assert {(row.query_id, row.passage_id) for row in judgements} == pairs
    assert outcome.failures == {}
    assert [(one.kind, one.name, one.model_answered) for one in judges] == [("llm", "overlap", "scripted-overlap")]
    assert manifest.rows == {"judgements": len(pairs), "ballots": 0, "judges": 1}


def test_grades_scores_and_probabilities_agree(judge, candidates, tmp_path):
    judge(candidates, tmp_path / "labels")
    judgements, judges, _ = read_labels(tmp_path / "labels")
    assert judges[0].label_grades == (0, 1, 2, 3)
    for row in judgements:
        probs = present(row.probs)
        assert sum(probs) == pytest.approx(1)
        assert row.score == pytest.approx(sum(p * grade for p, grade in zip(probs, range(4), strict=True)))
        assert probs[present(row.grade)] == max(probs)
        assert row.label_mass == pytest.approx(1)
        assert present(row.tokens) > 1
    by_pair = {(row.query_id, row.passage_id): present(row.score) for row in judgements}
    assert by_pair["q3", "p2"] > by_pair["q3", "p6"]


def test_binary_gives_yes_grade_2_and_no_grade_0(judge, candidates, tmp_path):
    judge(candidates, tmp_path / "labels", method="binary")
    judgements, _, _ = read_labels(tmp_path / "labels")
    assert {row.grade for row in judgements} == {0, 2}
    assert all((present(row.score) > 0) == (row.grade == 2) for row in judgements)


def test_failures_carry_their_reason_and_are_never_grades(judge, wide, tmp_path):
    outcome = judge(wide, tmp_path / "labels", "garbage")
    judgements, _, manifest = read_labels(tmp_path / "labels")
    failed = [row for row in judgements if row.failure is not None]
    assert 0 < len(failed) < len(judgements) == outcome.pairs == 300
    assert {row.failure for row in failed} == {"no label in 'I would say 3/10'"}
    assert all((row.grade, row.score, row.probs) == (None, None, None) for row in failed)
    assert outcome.failures == {"no label": len(failed)} == manifest.facts.failures


def test_another_judge_adds_to_the_folder(judge, candidates, tmp_path):
    labels = tmp_path / "labels"
    judge(candidates, labels)
    graded, _, _ = read_labels(labels)
    judge(candidates, labels, method="binary", add_judge=True)
    both, judges, _ = read_labels(labels)
    assert len(judges) == 2
    assert len(both) == 2 * len(graded)
    assert [row for row in both if row.judge_id == graded[0].judge_id] == graded


def test_a_changed_prompt_byte_is_another_judge(judge, candidates, tmp_path):
    labels, prompt = tmp_path / "labels", tmp_path / "mine.toml"
    text = shipped_prompts()["graded"].read_text()
    prompt.write_text(text)
    judge(candidates, labels)
    assert judge(candidates, labels, prompt=str(prompt)).asked == 0
    prompt.write_text(text + "# a comment\n")
    changed = judge(candidates, labels, prompt=str(prompt), add_judge=True)
    assert changed.asked == changed.pairs
    assert len(read_labels(labels)[1]) == 2


def test_a_changed_model_or_method_asks_again(judge, candidates, tmp_path):
    labels = tmp_path / "labels"
    first = judge(candidates, labels)
    assert judge(candidates, labels, "garbage", add_judge=True).asked == first.pairs
    assert judge(candidates, labels, method="binary", add_judge=True).asked == first.pairs
    assert len(read_labels(labels)[1]) == 3


def test_a_changed_context_asks_nothing(judge, candidates, tmp_path):
    judge(candidates, tmp_path / "labels", max_model_len=1024)
    assert judge(candidates, tmp_path / "labels", max_model_len=2048).asked == 0


def test_a_changed_passage_asks_for_its_pairs_alone(judge, write_beir, tmp_path):
    passages = {"a": ("", "red apples"), "b": ("", "red cherries")}
    beir = write_beir(tmp_path / "one", passages, {"q": "red"}, {})
    labels = tmp_path / "labels"
    judge(make_pool(beir, tmp_path / "one.pool"), labels)
    beir = write_beir(tmp_path / "two", passages | {"b": ("", "red, sweet cherries")}, {"q": "red"}, {})
    assert judge(make_pool(beir, tmp_path / "two.pool"), labels).asked == 1
    assert len(read_labels(labels)[0]) == 2


def test_long_passages_are_cut_and_counted(judge, write_beir, tmp_path):
    passages = {"long": ("", "red " + "word " * 500), "short": ("", "red " + "word " * 200)}
    pool = make_pool(write_beir(tmp_path / "b", passages, {"q": "red"}, {}), tmp_path / "p")
    assert judge(pool, tmp_path / "labels").cut_passages == 1
    judgements, _, manifest = read_labels(tmp_path / "labels")
    assert manifest.facts.cut_passages == 1
    tokens = {row.passage_id: present(row.tokens) for row in judgements}
    assert 400 < tokens["long"] < 420


def test_a_foreign_folder_is_refused(judge, candidates, tmp_path, labelkit, beir):
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


def test_a_prompt_for_another_method_is_refused(judge, candidates, tmp_path):
    with pytest.raises(UsageError, match="is for method 'graded', not 'binary'"):
        judge(candidates, tmp_path / "labels", method="binary", prompt="graded")
    assert not (tmp_path / "labels").exists()


def test_the_journal_keeps_the_prompt_it_asked_with(judge, candidates, tmp_path):
    judge(candidates, tmp_path / "labels")
    with sqlite3.connect(tmp_path / "labels" / "journal.sqlite") as db:
        assert db.execute("SELECT prompt FROM judges").fetchall() == [(load_prompt("graded").content,)]


def test_an_empty_pool_gives_empty_labels(judge, write_beir, tmp_path):
    beir = write_beir(tmp_path / "b", {"a": ("", "red")}, {"q": "blue"}, {})
    outcome = judge(make_pool(beir, tmp_path / "p"), tmp_path / "labels")
    assert (outcome.pairs, outcome.asked) == (0, 0)
    assert read_labels(tmp_path / "labels")[0] == []


def test_a_prompt_with_a_grade_that_is_none_is_refused_before_anything_is_asked(judge, candidates, tmp_path):
    prompt = tmp_path / "mine.toml"
    prompt.write_text(shipped_prompts()["graded"].read_text().replace("grade = 3", "grade = 7"))
    with pytest.raises(DataError, match=r"mine\.toml"):
        judge(candidates, tmp_path / "labels", prompt=str(prompt))
    assert not (tmp_path / "labels").exists()


def test_models_behind_a_server_are_told_apart_by_name_and_weights_here_by_revision(tmp_path):
    folders = [tmp_path / parent / "model" for parent in ("one", "other")]
    for folder in folders:
        folder.mkdir(parents=True)

    def identities(facts):
        made = [
            make_judge(facts, AnnotateOptions(model=str(folder)), load_prompt("graded"), reading=Reading())
            for folder in folders
        ]
        return {digest(identity_of(judge)) for judge in made}

    assert len(identities(EngineFacts("openai", "1"))) == 2
    assert len(identities(EngineFacts("openai", "1", revision="main"))) == 2
    assert len(identities(EngineFacts("local", "1", revision="sha256:1", dtype="float32"))) == 1
