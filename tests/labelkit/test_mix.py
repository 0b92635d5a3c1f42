"""Mixing: who wins, what is ignored, where the lines are, and equal bytes for equal inputs."""

import json

import pytest

from labelkit.annotate import read_labels
from labelkit.dataset import read_dataset
from labelkit.errors import DataError, UsageError
from labelkit.mix import Rules, mix, mix_judgements
from labelkit.schema import Judge, Judgement

HUMAN = Judge(judge_id="human-x", kind="human", name="x")
GRADED = Judge(judge_id="graded-m", kind="llm", name="m", label_grades=(0, 1, 2, 3))
BINARY = Judge(judge_id="binary-m", kind="llm", name="m", label_grades=(0, 2))
BARE = Judge(judge_id="imported-y", kind="imported", name="y")
JUDGES = {judge.judge_id: judge for judge in (HUMAN, GRADED, BINARY, BARE)}


def said(judge, passage_id, grade=None, probs=None, query_id="q"):
    failure = "no label" if grade is None else None
    return Judgement(
        query_id=query_id, passage_id=passage_id, judge_id=judge.judge_id, grade=grade, probs=probs, failure=failure
    )


def sure(passage_id, relevant, judge=GRADED, query_id="q"):
    """A judge that puts this share of its probability on grades from 2 up."""
    grade = 2 if relevant >= 0.5 else 0
    probs = (1 - relevant, 0.0, relevant, 0.0) if judge is GRADED else (1 - relevant, relevant)
    return said(judge, passage_id, grade, probs, query_id)


def mixed(*rows, **rules):
    """Ids by side of query q, and the whole mixture."""
    made = mix_judgements(rows, JUDGES, {"q": "text of q", "r": "text of r"}, Rules(**rules))
    example = made.examples[0]
    sides = {name: [one.passage_id for one in getattr(example, name)] for name in ("positives", "negatives", "ignored")}
    return sides, made


@pytest.mark.parametrize(("grade", "side"), [(0, "negatives"), (1, "negatives"), (2, "positives"), (3, "positives")])
def test_a_human_grade_decides_whatever_the_llm_says(grade, side):
    for relevant in (0.0, 0.5, 1.0):
        sides, made = mixed(sure("a", relevant), said(HUMAN, "a", grade))
        assert sides.pop(side) == ["a"]
        assert not any(sides.values())
        (label,) = getattr(made.examples[0], side)
        assert (label.source, label.judge_id, label.grade) == ("human", "human-x", grade)


@pytest.mark.parametrize(
    ("relevant", "side"),
    [
        (0.0, "negatives"),
        (0.3, "negatives"),
        (0.31, "ignored"),
        (0.5, "ignored"),
        (0.69, "ignored"),
        (0.7, "positives"),
        (1.0, "positives"),
    ],
)
def test_an_unsure_llm_is_ignored(relevant, side):
    sides, made = mixed(sure("a", relevant))
    assert sides[side] == ["a"]
    (label,) = getattr(made.examples[0], side)
    assert label.probability == pytest.approx(relevant)
    assert label.source == "llm"


def test_the_lines_can_be_moved():
    assert mixed(sure("a", 0.6), llm_positive=0.6)[0]["positives"] == ["a"]
    assert mixed(sure("a", 0.4), llm_negative=0.4)[0]["negatives"] == ["a"]
    assert mixed(said(HUMAN, "a", 1), positive_grade=1)[0]["positives"] == ["a"]
    assert mixed(said(HUMAN, "a", 2), positive_grade=3)[0]["negatives"] == ["a"]


def test_the_probability_is_the_mass_on_grades_from_2_up():
    _, made = mixed(said(GRADED, "a", 1, (0.1, 0.4, 0.2, 0.3)), sure("b", 0.8, BINARY))
    labels = {label.passage_id: label.probability for label in made.examples[0].ignored + made.examples[0].positives}
    assert labels == {"a": pytest.approx(0.5), "b": pytest.approx(0.8)}


@pytest.mark.parametrize(("grade", "side"), [(0, "negatives"), (1, "ignored"), (2, "positives"), (3, "positives")])
def test_a_bare_grade_without_probabilities_has_its_side(grade, side):
    assert mixed(said(BARE, "a", grade))[0][side] == ["a"]


def test_failures_are_ignored_and_counted():
    sides, made = mixed(said(GRADED, "a"), said(GRADED, "b"), sure("c", 1.0))
    assert (sides["ignored"], sides["positives"], made.failed) == (["a", "b"], ["c"], 2)
    assert [label.grade for label in made.examples[0].ignored] == [None, None]


def test_a_failure_gives_way_to_another_judge():
    sides, made = mixed(said(BINARY, "a"), sure("a", 1.0))
    assert (sides["positives"], made.failed, made.conflicts) == (["a"], 1, 0)


def test_conflicts_are_pairs_on_different_sides():
    rows = [
        *(sure("agree", 1.0), said(HUMAN, "agree", 3)),
        *(sure("against", 0.0), said(HUMAN, "against", 3)),
        *(sure("unsure", 0.5), said(HUMAN, "unsure", 3)),
        *(said(GRADED, "failed"), said(HUMAN, "failed", 0)),
        *(sure("machines", 1.0), sure("machines", 0.0, BINARY)),
    ]
    assert mixed(*rows)[1].conflicts == 2


def test_of_two_llm_judges_the_first_by_id_speaks():
    sides, made = mixed(sure("a", 1.0), sure("a", 0.0, BINARY), sure("b", 1.0), sure("c", 1.0, BINARY))
    assert sides == {"positives": ["b", "c"], "negatives": ["a"], "ignored": []}
    assert made.conflicts == 1


def test_positives_stand_best_first():
    rows = [
        said(GRADED, "sure-3", 3, (0.0, 0.0, 0.1, 0.9)),
        said(GRADED, "less-sure-3", 3, (0.1, 0.0, 0.0, 0.9)),
        sure("b-2", 0.9),
        sure("a-2", 0.9),
        said(HUMAN, "human-2", 2),
        said(HUMAN, "human-3", 3),
    ]
    best = ["human-3", "human-2", "sure-3", "less-sure-3", "a-2", "b-2"]
    assert mixed(*rows)[0]["positives"] == best
    sides, _ = mixed(*rows, max_positives=2)
    assert sides["positives"] == best[:2]
    assert sides["ignored"] == sorted(best[2:])
    assert sides["negatives"] == []


def test_queries_stand_by_id():
    _, made = mixed(sure("a", 1.0, query_id="r"), sure("a", 1.0, query_id="q"))
    assert [(one.query_id, one.query) for one in made.examples] == [("q", "text of q"), ("r", "text of r")]


@pytest.fixture
def labels(labelkit, pool, tmp_path):
    for model in ("overlap", "garbage"):
        called = labelkit("annotate", pool, "-o", tmp_path / model, "--engine", "scripted", "--model", model)
        assert called.code == 0
    return tmp_path / "overlap"


def test_the_folder_holds_every_judgement_and_judge(labels, beir, tmp_path):
    human, target = beir / "qrels" / "test.tsv", tmp_path / "dataset"
    made = mix(beir, human, [labels, tmp_path / "garbage"], Rules(), target, "test")
    dataset = read_dataset(target)
    assert dataset.examples == [
        one.model_copy(
            update={name: getattr(dataset.examples[n], name) for name in ("positives", "negatives", "ignored")}
        )
        for n, one in enumerate(made.examples)
    ]
    judged = sum(len(read_labels(folder)[0]) for folder in (labels, tmp_path / "garbage"))
    assert dataset.manifest["rows"] == {
        "train": 3, "corpus": 6, "queries": 3, "judges": 3, "judgements": judged + 7,
    }  # fmt: skip
    facts = dataset.manifest["facts"]
    assert facts["failed_judgements"] == made.failed > 0
    assert facts["positives"] == sum(len(one.positives) for one in made.examples)
    assert set(dataset.manifest["inputs"]) == {
        *(str(beir / name) for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")),
        *(str(folder / "manifest.json") for folder in (labels, tmp_path / "garbage")),
    }


def test_human_labels_alone_and_llm_labels_alone_make_datasets(labels, beir, tmp_path):
    alone = mix(beir, beir / "qrels" / "test.tsv", [], Rules(), tmp_path / "human", "test")
    assert [[label.passage_id for label in one.positives] for one in alone.examples] == [["p1"], ["p3"], ["p2"]]
    machine = mix(beir, None, [labels], Rules(), tmp_path / "llm", "test")
    assert {label.source for one in machine.examples for label in one.positives + one.negatives} == {"llm"}


def test_the_same_inputs_give_the_same_bytes(labelkit, labels, beir, tmp_path):
    human, target = beir / "qrels" / "test.tsv", tmp_path / "dataset"
    seen = []
    for _ in range(2):
        called = labelkit("mix", "--data", beir, "--human", human, "--llm", labels, "--json", "-o", target)
        assert called.code == 0
        assert json.loads(called.out)["queries"] == 3
        seen.append({path.name: path.read_bytes() for path in target.iterdir()})
    assert len(seen[0]) == 7
    assert seen[0] == seen[1]


def test_binary_qrels_need_a_word(beir, write_qrels, tmp_path):
    human = write_qrels(tmp_path / "human.tsv", {"q1": {"p1": 1, "p2": 0}})
    with pytest.raises(UsageError, match="no human grade reaches 2; binary qrels need --positive-grade 1"):
        mix(beir, human, [], Rules(), tmp_path / "dataset", "test")
    assert not (tmp_path / "dataset").exists()
    (example,) = mix(beir, human, [], Rules(positive_grade=1), tmp_path / "dataset", "test").examples
    assert [label.passage_id for label in example.positives] == ["p1"]


@pytest.mark.parametrize(("qrels", "what"), [({"q9": {"p1": 3}}, "query 'q9'"), ({"q1": {"p9": 3}}, "passage 'p9'")])
def test_unknown_ids_are_refused(beir, write_qrels, tmp_path, qrels, what):
    with pytest.raises(DataError, match=rf"{what}, which is not in (queries|corpus)\.jsonl"):
        mix(beir, write_qrels(tmp_path / "human.tsv", qrels), [], Rules(), tmp_path / "dataset", "test")
    assert not (tmp_path / "dataset").exists()


def test_the_same_labels_twice_are_refused(labels, beir, tmp_path):
    with pytest.raises(UsageError, match="comes from another source too; give it once"):
        mix(beir, None, [labels, labels], Rules(), tmp_path / "dataset", "test")
