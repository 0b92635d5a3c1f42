"""What a calibration may be applied to: the judges that it knows, and only where it does not harm."""

import json
from pathlib import Path

import numpy as np
import pytest

from labelkit.corpora.qrels import read_qrels
from labelkit.quality.calibration.fit import fit_calibration
from labelkit.quality.calibration.models import read_calibration
from labelkit.quality.options import CalibrateOptions
from labelkit.records import JUDGE_SCHEMA, JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.storage.dataset import records_to_table
from labelkit.storage.folders import writing
from labelkit.storage.labels import read_labels

VALIDATION = Path(__file__).parents[3] / ".." / "shared" / "data" / "llmjudge-val"
needs_validation = pytest.mark.skipif(
    not VALIDATION.is_dir(), reason="needs ../shared/data/llmjudge-val beside the repository"
)
SCORED = Judge(judge_id="graded-m", kind="llm", name="m", engine="test", method="graded", label_grades=(0, 1, 2, 3))


@pytest.fixture
def graded(labelkit, write_qrels, tmp_path):
    """Six queries of 20 passages that people graded, and a function that imports a judge's grades of some of them."""
    draw = np.random.default_rng(0)
    human = {f"q{q}": {f"p{q}x{k}": int(draw.integers(0, 4)) for k in range(20)} for q in range(6)}
    noisy = {
        query: {pid: int(np.clip(grade + draw.integers(-1, 2), 0, 3)) for pid, grade in rows.items()}
        for query, rows in human.items()
    }

    def imported(folder: str, queries: list[str], judge: str = "m", kind: str = "llm") -> Path:
        grades = write_qrels(tmp_path / f"{folder}.tsv", {query: noisy[query] for query in queries})
        called = labelkit("import", grades, "-o", tmp_path / folder, "--judge", judge, "--kind", kind)
        assert called.code == 0, called.err
        made: Path = tmp_path / folder
        return made

    return write_qrels(tmp_path / "human.tsv", human), imported


SEEN, NEW = ["q0", "q1", "q2", "q3"], ["q4", "q5"]


def test_a_calibration_survives_another_import_of_its_judge(labelkit, graded, tmp_path):
    human, imported = graded
    labels, file = imported("seen", SEEN), tmp_path / "c.json"
    assert labelkit("calibrate", labels, "--human", human, "-o", file).code == 0
    command = ("--apply", file, "--apply-anyway", "-o", tmp_path / "done")
    called = labelkit("calibrate", imported("new", NEW), *command)
    assert called.code == 0, called.err
    rows, (judge,), _ = read_labels(tmp_path / "done")
    assert (len(rows), judge.name) == (40, "m")
    renamed = labelkit("calibrate", imported("other", NEW, "M (run 2)"), *command)
    assert renamed.code == 2
    assert "needs judge 'm' (llm)" in renamed.err
    assert labelkit("calibrate", tmp_path / "other", *command, "--as", "m").code == 0
    assert labelkit("calibrate", tmp_path / "other", *command, "--as", "M (run 2)=m").code == 0
    wrong = labelkit("calibrate", tmp_path / "other", *command, "--as", "n")
    assert (wrong.code, "judges of the calibration: 'm'" in wrong.err) == (2, True)
    assert "--as" in labelkit("calibrate", imported("kind", NEW, kind="imported"), *command).err


def test_a_file_of_an_older_version_applies_as_before_and_to_another_import(labelkit, graded, tmp_path):
    human, imported = graded
    labels, file = imported("seen", SEEN), tmp_path / "c.json"
    assert labelkit("calibrate", labels, "--human", human, "-o", file).code == 0
    old = json.loads(file.read_text())
    del old["judges"], old["worse_than_raw"], old["report"]["gain"], old["report"]["verdict"]
    file.write_text(json.dumps(old))
    assert read_calibration(file).judges == ()
    for folder in (labels, imported("new", NEW)):
        called = labelkit("calibrate", folder, "--apply", file, "-o", tmp_path / "done")
        assert called.code == 0, called.err


def test_judges_that_a_calibration_does_not_know_are_named(labelkit, graded, tmp_path):
    human, imported = graded
    labels, file = imported("seen", SEEN), tmp_path / "c.json"
    assert labelkit("calibrate", labels, "--human", human, "-o", file).code == 0
    stranger = imported("stranger", SEEN, "n")
    called = labelkit("calibrate", labels, stranger, "--apply", file, "--apply-anyway", "-o", tmp_path / "done")
    assert called.code == 2
    assert "not fitted to judge 'n' (llm" in called.err
    assert "judges of the calibration: 'm' (llm" in called.err


def test_two_parts_of_a_judge_are_one_judge(labelkit, graded, tmp_path):
    human, imported = graded
    parts = [imported("one", ["q0", "q1"]), imported("two", ["q2", "q3"])]
    fitted = fit_calibration(parts, CalibrateOptions(human=human))
    assert [judge.name for judge in fitted.judges] == ["m"]
    assert fitted.report["pairs"] == 80
    again = labelkit("calibrate", *parts, imported("three", ["q3"]), "--human", human, "-o", tmp_path / "c.json")
    assert (again.code, "in two of these labels" in again.err) == (2, True)


def test_queries_of_which_people_graded_the_best_passage_alone_are_warned_of(labelkit, graded, write_qrels, tmp_path):
    human, imported = graded
    labels, command = imported("labels", SEEN + NEW), ("--human", human, "-o", tmp_path / "c.json")
    assert "only relevant passages" not in labelkit("calibrate", labels, *command).err
    rows = read_qrels(human)
    for query in NEW:
        best = max(rows[query], key=rows[query].__getitem__)
        rows[query] = {best: rows[query][best]}
    write_qrels(human, rows)
    called = labelkit("calibrate", labels, *command)
    assert called.code == 0, called.err
    assert "of 2 of 6 queries only relevant passages have human grades" in " ".join(called.err.split())


@pytest.fixture
def misled(write_beir, tmp_path):
    """A judge whose grades are nearly right and whose scores are noise: a fit on the scores can only harm."""
    draw = np.random.default_rng(1)
    passages = {f"p{n:02}": ("", f"passage {n}") for n in range(30)}
    human = {f"q{n}": {pid: int(draw.integers(0, 4)) for pid in passages} for n in range(5)}
    beir = write_beir(tmp_path / "beir", passages, {name: f"query {name}" for name in human}, human)
    rows = [
        Judgement(query_id=query, passage_id=pid, judge_id="graded-m", grade=grade, score=float(draw.normal()))
        for query, graded in human.items()
        for pid, grade in graded.items()
    ]
    with writing(tmp_path / "labels", "labels", "test") as draft:
        draft.write_table("judgements", records_to_table(rows, JUDGEMENT_SCHEMA))
        draft.write_table("judges", records_to_table([SCORED], JUDGE_SCHEMA))
    return beir, tmp_path / "labels"


def test_a_calibration_that_harms_is_refused_unless_told(labelkit, misled, tmp_path):
    beir, labels = misled
    file = tmp_path / "c.json"
    called = labelkit("calibrate", labels, "--human", beir / "qrels" / "test.tsv", "-o", file)
    assert called.code == 0
    assert "worse than raw: do not apply" in called.out
    assert read_calibration(file).worse_than_raw
    apply = ("calibrate", labels, "--apply", file, "-o", tmp_path / "done")
    mix = ("mix", "--data", beir, "--llm", labels, "--calibration", file, "--llm-positive", 0.5, "-o", tmp_path / "set")
    for command in (apply, mix):
        refused = labelkit(*command)
        assert (refused.code, "--apply-anyway" in refused.err) == (1, True)
        done = labelkit(*command, "--apply-anyway")
        assert done.code == 0, done.err


@needs_validation
@pytest.mark.parametrize("held", ["q10", "q12", "q26", "q27", "q48"])
def test_a_real_judge_is_not_harmed_on_queries_that_nobody_labelled(labelkit, tmp_path, held):
    """Llama-3-70B as published: fitted to four queries and applied to the fifth, imported from another file."""
    for name, source in (("human", "qrels/test.tsv"), ("judge", "llm.llama-3-70b.tsv")):
        header, *rows = (VALIDATION / source).read_text().splitlines(keepends=True)
        for part in ("seen", "new"):
            mine = [row for row in rows if (row.split("\t")[0] == held) == (part == "new")]
            (tmp_path / f"{name}.{part}.tsv").write_text(header + "".join(mine))
    for part in ("seen", "new"):
        command = ("import", tmp_path / f"judge.{part}.tsv", "-o", tmp_path / part, "--judge", "llama", "--kind", "llm")
        assert labelkit(*command).code == 0
    file = tmp_path / "c.json"
    assert labelkit("calibrate", tmp_path / "seen", "--human", tmp_path / "human.seen.tsv", "-o", file).code == 0
    assert labelkit("calibrate", tmp_path / "new", "--apply", file, "-o", tmp_path / "done").code == 0
    agree = ("agree", tmp_path / "new", tmp_path / "done", "--human", tmp_path / "human.new.tsv", "--json")
    before, after = json.loads(labelkit(*agree).out)["comparisons"][:2]
    assert after["judge"] == "llama"
    assert after["figures"]["kappa"]["value"] >= before["figures"]["kappa"]["value"] - 1e-9
    assert all(sum(row[grade] for row in after["confusion"]) > 0 for grade in range(4))
