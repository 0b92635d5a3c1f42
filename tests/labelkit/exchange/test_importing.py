"""Grades made elsewhere become judgements of a named judge."""

import pytest
from present import present

from labelkit.errors import DataError
from labelkit.exchange.importing import KINDS, import_grades
from labelkit.exchange.options import ImportOptions
from labelkit.storage.labels import read_labels


def imported(path, target, kind="human", name="somebody"):
    count = import_grades(path, target, ImportOptions(judge=name, kind=kind))
    judgements, (judge,), manifest = read_labels(target)
    assert count == len(judgements) == manifest.rows["judgements"]
    assert manifest.inputs == {str(path): present(judge.revision).removeprefix("sha256:")}
    return judgements, judge


@pytest.mark.parametrize("kind", KINDS)
def test_every_grade_becomes_a_judgement_sorted_by_pair(tmp_path, write_qrels, kind):
    path = write_qrels(tmp_path / "grades.tsv", {"q2": {"b": 0}, "q1": {"b": 3, "a": 1}})
    judgements, judge = imported(path, tmp_path / "labels", kind)
    assert [(row.query_id, row.passage_id, row.grade) for row in judgements] == [
        ("q1", "a", 1),
        ("q1", "b", 3),
        ("q2", "b", 0),
    ]
    assert (judge.kind, judge.name) == (kind, "somebody")
    assert {row.judge_id for row in judgements} == {judge.judge_id}
    assert all(row.score is row.probs is row.failure is row.reply_ref is None for row in judgements)


def test_trec_qrels_are_imported_as_beir_qrels_are(tmp_path, write_qrels):
    (tmp_path / "trec").write_text("q1 0 a 1\nq1 0 b 3\n")
    beir = write_qrels(tmp_path / "beir.tsv", {"q1": {"a": 1, "b": 3}})
    one, _ = imported(tmp_path / "trec", tmp_path / "one")
    other, _ = imported(beir, tmp_path / "other")
    assert [row.grade for row in one] == [row.grade for row in other] == [1, 3]


def test_another_file_kind_or_name_is_another_judge(tmp_path, write_qrels):
    first = write_qrels(tmp_path / "first.tsv", {"q": {"a": 1}})
    second = write_qrels(tmp_path / "second.tsv", {"q": {"a": 2}})
    made = [
        (first, "human", "x"),
        (second, "human", "x"),
        (first, "llm", "x"),
        (first, "human", "y"),
        (first, "human", "x"),
    ]
    ids = [imported(path, tmp_path / f"l{n}", kind, name)[1].judge_id for n, (path, kind, name) in enumerate(made)]
    assert len(set(ids)) == 4
    assert ids[0] == ids[-1]


def test_importing_again_replaces_the_folder_byte_for_byte(tmp_path, write_qrels):
    path = write_qrels(tmp_path / "grades.tsv", {"q": {"a": 1}})
    seen = []
    for _ in range(2):
        imported(path, tmp_path / "labels")
        seen.append({file.name: file.read_bytes() for file in (tmp_path / "labels").iterdir()})
    assert seen[0] == seen[1]


def test_a_bad_grade_leaves_no_folder(tmp_path, write_qrels):
    path = write_qrels(tmp_path / "grades.tsv", {"q": {"a": 7}})
    with pytest.raises(DataError, match=r"grades\.tsv:2: the grade '7'"):
        import_grades(path, tmp_path / "labels", ImportOptions(judge="x", kind="llm"))
    assert not (tmp_path / "labels").exists()
