"""Grades on other scales are mapped to 0 to 3 wherever they are read, and the original grade is kept beside."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from labelkit.corpora.qrels import read_qrels
from labelkit.corpora.scales import SCALES, read_scale
from labelkit.datasets.options import ReplayOptions
from labelkit.datasets.replay import replay
from labelkit.datasets.verify import verify
from labelkit.errors import DataError, UsageError
from labelkit.judging.annotate import reparse
from labelkit.judging.reading import Reading
from labelkit.judging.request_keys import identity_of
from labelkit.records import MAX_GRADE
from labelkit.storage import folders
from labelkit.storage.labels import read_labels, read_records
from labelkit.storage.manifest import document_sha256

RATED = {
    "q1": {"p1": 5, "p5": 3, "p2": 1},
    "q2": {"p3": 5},
    "q3": {"p2": 4, "p6": 2},
}
"""Grades of the small collection from 1 to 5."""
MAPPED = {"q1": {"p1": 3, "p5": 1, "p2": 0}, "q2": {"p3": 3}, "q3": {"p2": 2, "p6": 1}}
PROMPT = """
name = "stars"
version = "1"
method = "graded"
citation = "none"
system = "Rate the passage."
user = \'\'\'
Query: {query}

Passage: {passage}\'\'\'
"""
SCALED = {
    "range": 'scale = "1-5"\n',
    "names": 'scale = "off topic=0,related=1,complete=3"\n',
    "labels": 'labels = [{text = "bad", grade = 0}, {text = "fair", grade = 1}, {text = "good", grade = 3}]\n',
}


@pytest.mark.parametrize("text", SCALES)
def test_a_range_maps_its_ends_to_0_and_to_a_positive_and_keeps_the_order(text):
    low, high = map(int, text.split("-"))
    grades = read_scale(text).grades
    assert list(grades) == [str(grade) for grade in range(low, high + 1)]
    assert list(grades.values()) == sorted(grades.values())
    assert grades[str(low)] == 0
    assert grades[str(high)] == (2 if text == "0-1" else MAX_GRADE)


NO_SCALES = ("", "0-9", "5-1", "a=0", "a=4,b=0", "a=0,a=1", "a=0,A=2", "1=0,1.0=2", "a,b", "=0,b=1")


@pytest.mark.parametrize("text", NO_SCALES)
def test_a_scale_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="the scale"):
        read_scale(text)


@pytest.mark.parametrize("raw", ["exact", " Exact ", "EXACT"])
def test_names_differ_by_more_than_case(tmp_path, raw):
    path = tmp_path / "qrels.tsv"
    path.write_text(f"q\tp\t{raw}\nq\tr\tnot relevant\n")
    assert read_qrels(path, scale="exact=3,not relevant=0") == {"q": {"p": 3, "r": 0}}


def test_a_grade_outside_its_scale_names_the_flag_and_the_scale(tmp_path):
    path = tmp_path / "qrels"
    path.write_text("q 0 a 1\nq 0 b 5.0\nq 0 c -1\n")
    assert read_qrels(path, scale="1-5") == {"q": {"a": 0, "b": 3}}
    with pytest.raises(DataError, match=r"qrels:2: the grade '5\.0' .* give --scale with 0-1, 0-4, 1-5, or"):
        read_qrels(path)
    with pytest.raises(DataError, match=r"qrels:2: the grade '5\.0' is not a grade of --scale 0-4: 0, 1, 2, 3, 4"):
        read_qrels(path, scale="0-4")


Command = Callable[[Path, Path], list[str | Path]]
"""(BEIR folder with grades from 1 to 5, folder of the test with pool and labels) -> arguments of labelkit."""
COMMANDS: dict[str, Command] = {
    "pool": lambda beir, here: ["pool", beir, "--human", beir / "qrels/test.tsv", "-o", here / "out"],
    "pool of a split": lambda beir, here: ["pool", beir, "--split", "test", "-o", here / "out"],
    "import": lambda beir, here: ["import", beir / "qrels/test.tsv", "--judge", "x", "-o", here / "out"],
    "import of a dataset": lambda beir, here: ["import", beir, "--judge", "x", "--from", "beir", "-o", here / "out"],
    "agree": lambda beir, here: ["agree", here / "labels", "--human", beir / "qrels/test.tsv"],
    "bias": lambda beir, here: ["bias", here / "labels", "--data", beir, "--human", beir / "qrels/test.tsv"],
    "select": lambda beir, here: [
        *("select", here / "labels", "--pool", here / "pool", "--budget", "2"),
        *("--human", beir / "qrels/test.tsv", "-o", here / "out"),
    ],
    "report": lambda beir, here: [
        *("report", here / "labels", "--human", beir / "qrels/test.tsv", "-o", here / "out.html")
    ],
    "redteam": lambda beir, here: [
        *("redteam", beir, "--human", beir / "qrels/test.tsv", "--model", "overlap", "--engine", "scripted"),
        *("--prompt", "binary", "--attack", "authority", "--defence", "none", "-o", here / "out"),
    ],
    "mix": lambda beir, here: ["mix", "--data", beir, "--human", beir / "qrels/test.tsv", "-o", here / "out"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_reads_human_grades_takes_a_scale_and_names_it(
    labelkit, judge, candidates, write_qrels, beir, tmp_path, name
):
    judge(candidates, tmp_path / "labels")
    write_qrels(beir / "qrels" / "test.tsv", RATED)
    words = COMMANDS[name](beir, tmp_path)
    refused = labelkit(*words)
    assert refused.code == 1
    assert "test.tsv:2: the grade '5' is not a whole number from 0 to 3; for another scale give --scale" in refused.err
    unknown = labelkit(*words, "--scale", "1-6")
    assert (unknown.code, "the scale '1-6' is unknown" in unknown.err) == (2, True)
    accepted = labelkit(*words, "--scale", "1-5")
    assert accepted.code == 0, accepted.err


def test_a_calibration_is_fitted_to_the_mapped_grades(labelkit, judge, wide, write_qrels, tmp_path):
    judge(wide, tmp_path / "labels")
    judged = read_labels(tmp_path / "labels")[0]
    made = {}
    for name, grades, flags in (("ours", "0123", ()), ("stars", "1345", ("--scale", "1-5"))):
        rated: dict[str, dict[str, int]] = {row.query_id: {} for row in judged}
        for number, row in enumerate(judged):
            rated[row.query_id][row.passage_id] = int(grades[(number + (row.grade or 0)) % 4])
        human = write_qrels(tmp_path / f"{name}.tsv", rated)
        words = ["calibrate", tmp_path / "labels", "--human", human, *flags, "-o", tmp_path / f"{name}.json", "--json"]
        called = labelkit(*words)
        assert called.code == 0, called.err
        made[name] = json.loads(called.out)
    assert made["stars"]["report"].pop("scale") == "1-5"
    for one in made.values():
        del one["report"]["command"], one["report"]["human"]
    assert made["stars"] == made["ours"]


def test_evaluation_sets_have_a_scale_of_their_own(labelkit, judge, candidates, write_beir, beir, tmp_path):
    judge(candidates, tmp_path / "labels")
    held = write_beir(tmp_path / "held", queries={"h": "an unrelated held-out question"}, qrels={"h": {"p1": 5}})
    words = ["mix", "--data", beir, "--llm", tmp_path / "labels", "--eval", held, "-o", tmp_path / "set"]
    assert "give --eval-scale" in labelkit(*words).err
    assert "of --eval-scale 0-4" in labelkit(*words, "--eval-scale", "0-4").err
    assert labelkit(*words, "--eval-scale", "1-5").code == 0
    assert "give --eval-scale" in labelkit("audit", tmp_path / "set", "--eval", held).err
    assert labelkit("audit", tmp_path / "set", "--eval", held, "--eval-scale", "1-5").code == 0


def test_tidy_keeps_lines_on_the_scale(labelkit, write_qrels, beir, tmp_path):
    path = write_qrels(beir / "qrels" / "test.tsv", RATED)
    assert labelkit("tidy", beir, "-o", tmp_path / "lossy").code == 0
    assert (tmp_path / "lossy/qrels/test.tsv").stat().st_size < path.stat().st_size
    assert labelkit("tidy", beir, "--scale", "1-5", "-o", tmp_path / "whole").code == 0
    assert (tmp_path / "whole/qrels/test.tsv").read_bytes() == path.read_bytes()


def test_imported_and_mixed_grades_keep_the_grade_as_given(labelkit, write_qrels, beir, tmp_path):
    human = write_qrels(tmp_path / "human.tsv", RATED)
    words = ["import", human, "--judge", "a", "--kind", "human"]
    assert labelkit(*words, "--scale", "1-5", "-o", tmp_path / "in").code == 0
    judgements, (judge,), _ = read_labels(tmp_path / "in")
    assert judge.scale == "1=0,2=1,3=1,4=2,5=3"
    pairs = [(query_id, pid) for query_id, graded in RATED.items() for pid in graded]
    assert {(row.query_id, row.passage_id): (row.grade, row.raw_grade) for row in judgements} == {
        (query_id, pid): (MAPPED[query_id][pid], str(RATED[query_id][pid])) for query_id, pid in pairs
    }
    assert labelkit(*words, "--scale", "1=0,2=0,3=0,4=3,5=3", "-o", tmp_path / "other").code == 0
    assert read_labels(tmp_path / "other")[1][0].judge_id != judge.judge_id
    for source, flags in ((human, ["--scale", "1-5"]), (tmp_path / "in", [])):
        assert labelkit("mix", "--data", beir, "--human", source, *flags, "-o", tmp_path / "set").code == 0
        rows = pq.read_table(tmp_path / "set" / "judgements.parquet").to_pylist()
        assert {row["raw_grade"] for row in rows} == {"1", "2", "3", "4", "5"}
        shown = labelkit("show", tmp_path / "set", "--query", "q1", "--passage", "p5")
        assert "grade: 1" in shown.out
        assert "grade as given: 3" in shown.out


def test_answers_of_people_keep_the_answer_as_given(labelkit, tmp_path):
    ids = {"query_id": "q", "passage_id": "p"}
    records = [{"metadata": ids, "responses": {"grade": [{"user_id": "u", "value": "Very good"}]}}]
    (tmp_path / "records.json").write_text(json.dumps(records))
    words = ["import", tmp_path / "records.json", "--from", "argilla", "--judge", "a", "-o", tmp_path / "in"]
    assert "give --scale" in labelkit(*words).err
    assert labelkit(*words, "--scale", "bad=0,good=2,very good=3").code == 0
    ((row,), (judge,), _) = read_labels(tmp_path / "in")
    assert (row.grade, row.raw_grade, judge.scale) == (3, "Very good", "bad=0,good=2,very good=3")


def stars(tmp_path: Path, labels: str) -> str:
    path = tmp_path / "stars.toml"
    path.write_text(PROMPT.replace("user =", labels + "user =", 1) if labels.startswith("scale") else PROMPT + labels)
    return str(path)


@pytest.mark.parametrize(("form", "votes"), [("range", 1), ("names", 3), ("labels", 1)])
def test_a_prompt_on_another_scale_keeps_the_label_and_replays(judge, wide, tmp_path, form, votes):
    labels = tmp_path / "labels"
    judge(wide, labels, prompt=stars(tmp_path, SCALED[form]), reading=Reading(votes=votes))
    judgements, (model,), _ = read_labels(labels)
    mapping = read_scale(model.scale or "").grades
    assert tuple(mapping.values()) == model.label_grades
    for row in (*judgements, *read_records(labels, "ballots", type(judgements[0]))):
        assert row.grade == mapping[row.raw_grade or ""]
        assert 0 <= (row.score or 0) <= MAX_GRADE
    assert len({row.raw_grade for row in judgements}) > 1
    before = [(labels / f"{name}.parquet").read_bytes() for name in ("judgements", "ballots", "judges")]
    reparse(wide, labels)
    assert before == [(labels / f"{name}.parquet").read_bytes() for name in ("judgements", "ballots", "judges")]
    verify(str(labels))
    replayed = replay(labels, ReplayOptions(sample=10_000))
    assert (replayed.labels, replayed.mismatches) == (300, [])


def test_a_changed_label_does_not_replay(judge, wide, tmp_path):
    labels = tmp_path / "labels"
    judge(wide, labels, prompt=stars(tmp_path, SCALED["range"]))
    rewrite(
        labels,
        "judgements",
        lambda rows: rows.set_column(rows.column_names.index("raw_grade"), "raw_grade", [["2"] * len(rows)]),
    )
    assert 0 < len(replay(labels, ReplayOptions(sample=10_000)).mismatches) < 300


def test_labels_of_earlier_versions_replay_and_mix(labelkit, judge, wide, tmp_path):
    labels = tmp_path / "labels"
    judge(wide, labels, method="binary", reading=Reading(votes=3))
    assert {row.raw_grade for row in read_labels(labels)[0]} == {"Yes", "No"}
    for table in ("judgements", "ballots"):
        rewrite(labels, table, lambda rows: rows.drop_columns(["raw_grade"]))
    rewrite(labels, "judges", lambda rows: rows.drop_columns(["scale"]))
    assert replay(labels, ReplayOptions(sample=300)).mismatches == []
    called = labelkit("mix", "--data", tmp_path / "wide", "--llm", labels, "-o", tmp_path / "set")
    assert called.code == 0, called.err
    assert replay(tmp_path / "set", ReplayOptions(sample=300)).mismatches == []


def rewrite(folder, table, change):
    """Rewrite a table of a folder and the manifest over it."""
    path = folder / f"{table}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    place = folder / folders.MANIFEST
    document = json.loads(place.read_text())
    document["files"][path.name] = folders.file_sha256(path)
    place.write_text(json.dumps(document | {"sha256": document_sha256(document)}))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (
            'labels = [{text = "1", grade = 0}, {text = "5", grade = 5}]\n',
            'or write scale = "1-5"',
        ),
        ('scale = "1-6"\n', "scale: the scale '1-6' is unknown"),
        ('scale = "1-5"\nlabels = []\n', "give labels or scale, not both"),
        ('scale = "a=1,b=2"\n', "a label of grade 0"),
    ],
)
def test_a_wrong_scale_of_a_prompt_is_named(judge, candidates, tmp_path, labels, said):
    with pytest.raises(DataError, match=said):
        judge(candidates, tmp_path / "labels", prompt=stars(tmp_path, labels))


def test_the_scale_of_a_judge_changes_no_request_of_earlier_versions(judge, candidates, tmp_path):
    judge(candidates, tmp_path / "labels")
    assert "scale" not in identity_of(read_labels(tmp_path / "labels")[1][0])
