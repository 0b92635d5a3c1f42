"""Relabelled datasets: each judgment changes the label that the rule names, and nothing else changes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from killed import KILLED_AFTER_REPLIES
from present import present

from labelkit.datasets.mix import mix
from labelkit.datasets.options import MixOptions, ReplayOptions, ShowOptions
from labelkit.datasets.replay import replay
from labelkit.datasets.show import show
from labelkit.datasets.verify import verify
from labelkit.errors import BudgetError, UsageError
from labelkit.judging.annotate import annotate
from labelkit.judging.journal import Journal
from labelkit.judging.options import AnnotateOptions
from labelkit.quality.options import CascadeOptions
from labelkit.relabelling.options import RelabelOptions
from labelkit.relabelling.relabel import plan_relabel, relabel
from labelkit.storage import folders
from labelkit.storage.dataset import read_dataset
from labelkit.storage.labels import read_labels
from labelkit.storage.manifest import DATASET

pytestmark = pytest.mark.slow  # every test judges a dataset

REPOSITORY = Path(__file__).parents[3]
JUDGE = AnnotateOptions(model="overlap", engine="scripted", defence=("none",))
RULES = RelabelOptions(llm_positive=0.5, llm_negative=0.3)


def labels_of(folder):
    """(query, passage) -> role and label, and the pairs in order."""
    return {
        (one.query_id, label.passage_id): (role, label)
        for one in read_dataset(folder).examples
        for role in ("positives", "negatives", "ignored")
        for label in getattr(one, role)
    }


def beliefs(folder):
    """(query, passage) -> P(grade >= 2), or None without a grade, and the grade."""
    rows, judges, _ = read_labels(folder)
    grades = {judge.judge_id: present(judge.label_grades) for judge in judges}
    return {
        (row.query_id, row.passage_id): row.probs
        and sum(p for p, grade in zip(row.probs, grades[row.judge_id], strict=True) if grade >= 2)
        for row in rows
    }


def replies(folder):
    with Journal(folder) as journal:
        return journal.spent().replies


def test_each_negative_goes_where_its_probability_says(mined, tmp_path):
    made = relabel(mined, tmp_path / "out", RULES, judge=JUDGE)
    before, after, believed = labels_of(mined), labels_of(tmp_path / "out"), beliefs(tmp_path / "out.labels")
    counts = {"positives": 0, "negatives": 0, "ignored": 0}
    for pair, (role, label) in before.items():
        if role == "positives":
            assert after[pair] == (role, label), "labels by people do not change"
            continue
        belief = believed[pair]
        wanted = "positives" if belief >= 0.5 else "ignored" if belief > 0.3 else "negatives"
        assert after[pair][0] == wanted
        counts[wanted] += 1
        if wanted == "negatives":
            assert after[pair][1] == label
        else:
            assert after[pair][1].source == "llm"
            assert after[pair][1].probability == pytest.approx(belief, abs=1e-6)
    assert after.keys() == before.keys()
    assert min(counts.values()) > 0, "the data show every case"
    assert (made.promoted, made.ignored, made.kept) == (counts["positives"], counts["ignored"], counts["negatives"])
    (flips,) = made.by_source
    assert (flips.role, flips.source, flips.judged) == ("negative", "mined", made.judged)
    assert present(flips.promoted_share.low) < made.promoted / made.judged < present(flips.promoted_share.high)
    assert made.not_judged == {"human positives": sum(role == "positives" for role, _ in before.values())}


def test_unchanged_labels_keep_their_order_and_changed_ones_follow(mined, tmp_path):
    relabel(mined, tmp_path / "out", RULES, judge=JUDGE)
    for old, new in zip(read_dataset(mined).examples, read_dataset(tmp_path / "out").examples, strict=True):
        assert new.positives[: len(old.positives)] == old.positives
        gone = {label.passage_id for label in (*new.positives[len(old.positives) :], *new.ignored)}
        assert new.negatives == tuple(label for label in old.negatives if label.passage_id not in gone)


def test_the_old_label_and_its_evidence_stay_in_the_dataset(mined, tmp_path):
    made = relabel(mined, tmp_path / "out", RULES, judge=JUDGE)
    rows = pq.read_table(tmp_path / "out" / "relabelled.parquet").to_pylist()
    before, after = labels_of(mined), labels_of(tmp_path / "out")
    assert len(rows) == made.promoted + made.ignored
    for row in rows:
        _, label = before[row["query_id"], row["passage_id"]]
        assert (row["old_role"], row["old_source"], row["old_judge_id"]) == ("negative", "mined", label.judge_id)
        now = after[row["query_id"], row["passage_id"]]
        assert now[0] == {"promote": "positives", "ignore": "ignored"}[row["action"]]
        assert (now[1].judge_id, now[1].grade) == (row["judge_id"], row["grade"])
        bar = {"promote": ">= 0.5", "ignore": "> 0.3"}[row["action"]]
        assert row["rule"] == f"negative with P(grade >= 2) {bar}"
    assert verify(tmp_path / "out").kind == "dataset"
    assert replay(tmp_path / "out", ReplayOptions(sample=20)).mismatches == []
    promoted = next(row for row in rows if row["action"] == "promote")
    wanted = ShowOptions(query=promoted["query_id"], passage=promoted["passage_id"])
    (shown,) = show(tmp_path / "out", wanted).labels
    assert shown.evidence[0].exchanges
    assert present(shown.relabelled)["old_source"] == "mined"
    facts = read_dataset(tmp_path / "out").manifest.facts
    assert facts.relabelled[0]["promoted"] == made.promoted
    assert facts.negatives == sum(role == "negatives" for role, _ in after.values())
    assert "relabelled" in (tmp_path / "out" / "README.md").read_text()


def test_a_second_run_keeps_the_changes_of_the_first(mined, tmp_path):
    first = relabel(mined, tmp_path / "one", RelabelOptions(llm_positive=0.9, llm_negative=0.5), judge=JUDGE)
    second = relabel(tmp_path / "one", tmp_path / "two", RULES, judge=JUDGE)
    rows = pq.read_table(tmp_path / "two" / "relabelled.parquet").to_pylist()
    assert [row["run"] for row in rows] == [1] * (first.promoted + first.ignored) + [2] * (
        second.promoted + second.ignored
    )
    assert second.judged == first.kept
    judgements = read_dataset(tmp_path / "two").manifest.rows["judgements"]
    assert judgements == read_dataset(tmp_path / "one").manifest.rows["judgements"]
    assert replay(tmp_path / "two", ReplayOptions(sample=20)).mismatches == []


def test_positives_and_people_are_judged_only_if_asked_for(mined, tmp_path):
    rules = RelabelOptions(positives=True)
    made = relabel(mined, tmp_path / "a", rules, judge=JUDGE)
    assert {(one.role, one.source) for one in made.by_source} == {("negative", "mined")}
    made = relabel(mined, tmp_path / "b", rules.but(overturn_human=True, llm_negative=0.4), judge=JUDGE)
    flips = {(one.role, one.source): one for one in made.by_source}
    people = flips["positive", "human"]
    assert (people.promoted, people.judged) == (0, made.not_judged.get("human positives", 0) + people.judged)
    assert people.ignored > 0, "the scripted judge finds some of them irrelevant"
    before, after = labels_of(mined), labels_of(tmp_path / "b")
    believed = beliefs(tmp_path / "b.labels")
    for pair, (role, _) in before.items():
        if role == "positives":
            assert (after[pair][0] == "ignored") == (believed[pair] <= 0.4)
    with pytest.raises(UsageError, match=r"no label to judge \(.*human positives\): --positives judges"):
        relabel(mined.parent / "human", tmp_path / "c", RelabelOptions(), judge=JUDGE)


def test_labels_without_a_grade_stay(mined, tmp_path):
    made = relabel(mined, tmp_path / "out", RULES, judge=JUDGE.but(model="garbage"))
    failed = {(row.query_id, row.passage_id) for row in read_labels(tmp_path / "out.labels")[0] if row.grade is None}
    before, after = labels_of(mined), labels_of(tmp_path / "out")
    assert made.without_grade == len(failed) > 0
    assert all(after[pair] == before[pair] for pair in failed)


def test_only_unsure_pairs_go_to_the_second_judge(mined, tmp_path):
    cheap, strong = JUDGE.but(method="binary"), CascadeOptions(model="overlap", method="graded", share=0.3)
    made = relabel(mined, tmp_path / "out", RULES, judge=cheap, strong=strong)
    joined = {(row.query_id, row.passage_id): row for row in read_labels(tmp_path / "out.cascade")[0]}
    by_strong = [row for row in joined.values() if row.judge_id.startswith("graded")]
    assert len(by_strong) == present(made.cascade).strong_pairs == round(0.3 * made.judged)
    rows = pq.read_table(tmp_path / "out" / "relabelled.parquet").to_pylist()
    assert all(row["judge_id"] == joined[row["query_id"], row["passage_id"]].judge_id for row in rows)
    assert {row["judge_id"].partition("-")[0] for row in rows} == {"binary", "graded"}
    judgements = pq.read_table(tmp_path / "out" / "judgements.parquet")["judge_id"].to_pylist()
    assert sum(name.startswith("binary") for name in judgements) == made.judged
    assert replay(tmp_path / "out", ReplayOptions(sample=20)).mismatches == []
    paid = replies(tmp_path / "out.cascade.cheap"), replies(tmp_path / "out.cascade.strong")
    assert relabel(mined, tmp_path / "out", RULES, judge=cheap, strong=strong) == made
    assert (replies(tmp_path / "out.cascade.cheap"), replies(tmp_path / "out.cascade.strong")) == paid


KILLED = f"""{KILLED_AFTER_REPLIES}
from labelkit.relabelling.options import RelabelOptions
from labelkit.relabelling.relabel import relabel
judge = AnnotateOptions(model="overlap", engine="scripted", defence=("none",))
relabel(sys.argv[1], sys.argv[2], RelabelOptions(llm_positive=0.5), judge=judge)
"""


def test_a_killed_run_resumes_and_pays_for_no_reply_twice(mined, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-c", KILLED, mined, killed, "25"]
    assert subprocess.run(command, cwd=REPOSITORY).returncode == -signal.SIGKILL
    assert not killed.exists()
    assert replies(tmp_path / "killed.labels") == 25
    made = relabel(mined, killed, RULES, judge=JUDGE)
    with Journal(tmp_path / "killed.labels") as journal:
        assert [row[1] for row in journal.records()] == [1] * made.judged
    relabel(mined, whole, RULES, judge=JUDGE)
    for name in ("train", "judgements", "relabelled"):
        assert (killed / f"{name}.parquet").read_bytes() == (whole / f"{name}.parquet").read_bytes()


def test_a_cap_leaves_no_half_of_a_dataset(mined, tmp_path):
    with pytest.raises(BudgetError, match="raise --max-usd or --max-tokens"):
        relabel(mined, tmp_path / "out", RULES, judge=JUDGE.but(max_tokens=9000))
    paid = replies(tmp_path / "out.labels")
    assert paid > 0
    assert not (tmp_path / "out").exists()
    made = relabel(mined, tmp_path / "out", RULES, judge=JUDGE)
    assert replies(tmp_path / "out.labels") == made.judged > paid


def test_a_plan_sends_nothing(mined, tmp_path):
    plans = plan_relabel(mined, tmp_path / "out", RULES, judge=JUDGE, strong=CascadeOptions(model="overlap"))
    assert plans["strong"].pairs == round(0.2 * plans["judge"].pairs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pool"]


def test_a_dataset_of_an_earlier_version_gets_its_columns_of_scores(mined, tmp_path):
    manifest = folders.read_manifest(mined, DATASET)
    with folders.writing(tmp_path / "old", DATASET, "test") as draft:
        for name in manifest.rows:
            table = pq.read_table(mined / f"{name}.parquet")
            scores = [column for column in table.schema.names if column.endswith("_scores") and name == "train"]
            draft.write_table(name, table.drop_columns(scores))
        draft.facts = manifest.facts
        (draft.path / "README.md").write_text("")
    made = relabel(tmp_path / "old", tmp_path / "out", RULES, judge=JUDGE)
    assert made == relabel(mined, tmp_path / "new", RULES, judge=JUDGE)
    tables = [pq.read_table(tmp_path / name / "train.parquet") for name in ("out", "new")]
    assert tables[0].equals(tables[1])


def test_a_judge_without_grades_is_refused(mined, tmp_path):
    with pytest.raises(UsageError, match="needs a judge that gives grades"):
        relabel(mined, tmp_path / "out", RULES, judge=JUDGE.but(method="rerank", defence=()))
    with pytest.raises(UsageError, match="would replace it"):
        relabel(mined, mined, RULES, judge=JUDGE)
    with pytest.raises(UsageError, match="--llm-negative-grade must be below"):
        RelabelOptions(by="grade", llm_negative_grade=2)


def test_the_stage_of_the_models_changes_and_the_stage_of_people_does_not(scifact, mined, tmp_path):
    annotate(mined.parent / "pool", tmp_path / "labels", JUDGE.but(method="binary"))
    human = scifact / "qrels" / "test.tsv"
    rules = MixOptions(data=scifact, human=human, llm=(tmp_path / "labels",), policy="staged")
    mix(tmp_path / "staged", rules)
    made = relabel(tmp_path / "staged", tmp_path / "out", RULES.but(by="grade"), judge=JUDGE)
    assert {(one.role, one.source) for one in made.by_source} == {("negative", "llm")}
    assert made.promoted + made.ignored > 0
    people = [pq.read_table(folder / "stage_human.parquet") for folder in (tmp_path / "staged", tmp_path / "out")]
    assert people[0].equals(people[1])
    rows = pq.read_table(tmp_path / "out" / "relabelled.parquet").to_pylist()
    models = {row["query_id"]: row for row in pq.read_table(tmp_path / "out" / "stage_llm.parquet").to_pylist()}
    assert all(row["rule"].startswith("negative with grade >") for row in rows)
    for row in rows:
        side = {"promote": "positive_ids", "ignore": "ignored_ids"}[row["action"]]
        assert row["passage_id"] in models[row["query_id"]][side]
        assert row["passage_id"] not in models[row["query_id"]]["negative_ids"]


def test_the_command_reports_by_source(labelkit, mined, tmp_path):
    command = ("relabel", mined, "-o", tmp_path / "out", "--engine", "scripted", "--model", "overlap")
    planned = labelkit(*command, "--plan", "--json")
    assert json.loads(planned.out)["judge"]["pairs"] > 0
    called = labelkit(*command, "--llm-positive", "0.5", "--json")
    assert called.code == 0, called.err
    found = json.loads(called.out)
    assert found["by_source"][0]["source"] == "mined"
    assert set(found["by_source"][0]["promoted_share"]) == {"value", "low", "high"}
    assert "human positives not judged" in called.err
    table = labelkit(*command, "--llm-positive", "0.5")
    assert "mined negative" in table.out
