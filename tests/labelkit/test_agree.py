"""Agreement figures against slow loops, hand values, and two real judges."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import krippendorff
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from labelkit.agree import agree, measure
from labelkit.errors import DataError
from labelkit.schema import Judgement

VALIDATION = Path(__file__).parents[2] / ".." / "shared" / "data" / "llmjudge-val"


def judgement(number: int, grade: int | None, score: float | None = None) -> Judgement:
    failure = "no label" if grade is None else None
    return Judgement(query_id="q", passage_id=f"p{number}", judge_id="j", grade=grade, score=score, failure=failure)


def figures(humans: Sequence[int], theirs: Sequence[int | None], scores: Sequence[float] | None = None):
    rows = [judgement(n, grade, scores[n] if scores else None) for n, grade in enumerate(theirs)]
    return measure("j", "judge", list(zip(rows, humans, strict=True)))


def slow_kappa(humans, theirs, weight):
    """1 - observed / expected disagreement, pair by pair."""
    observed = sum(weight(a, b) for a, b in zip(humans, theirs, strict=True)) / len(humans)
    expected = sum(weight(a, b) for a, b in product(humans, theirs)) / len(humans) ** 2
    return None if expected == 0 else 1 - observed / expected


def slow_alpha(humans, theirs):
    """Krippendorff (2011), ordinal metric, two raters without gaps."""
    values = [*humans, *theirs]
    count = {grade: values.count(grade) for grade in range(4)}

    def distance(a, b):
        low, high = sorted((a, b))
        return (sum(count[grade] for grade in range(low, high + 1)) - (count[low] + count[high]) / 2) ** 2

    expected = sum(distance(a, b) for a, b in product(values, values)) / (len(values) * (len(values) - 1))
    observed = sum(distance(a, b) for a, b in zip(humans, theirs, strict=True)) / len(humans)
    return None if expected == 0 else 1 - observed / expected


def slow_auc(humans, scores):
    """Share of pairs (relevant, not) that the score puts in order; ties count half."""
    pairs = [(a, b) for (g, a), (h, b) in product(zip(humans, scores, strict=True), repeat=2) if g >= 2 > h]
    return None if not pairs else sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


def close(one, other):
    return one is other is None or math.isclose(one, other, abs_tol=1e-9)


GRADES = st.integers(0, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(GRADES, GRADES, st.floats(-5, 5)), min_size=1, max_size=12))
def test_every_figure_is_that_of_a_slow_loop(rows):
    humans, theirs, scores = map(list, zip(*rows, strict=True))
    found = figures(humans, theirs, scores)
    assert close(found.kappa, slow_kappa(humans, theirs, lambda a, b: a != b))
    assert close(found.kappa_binary, slow_kappa(humans, theirs, lambda a, b: (a >= 2) != (b >= 2)))
    assert close(found.kappa_quadratic, slow_kappa(humans, theirs, lambda a, b: (a - b) ** 2))
    assert close(found.alpha_ordinal, slow_alpha(humans, theirs))
    assert close(found.auc, slow_auc(humans, scores))
    assert found.confusion == [
        [sum(pair == (h, t) for pair in zip(humans, theirs, strict=True)) for t in range(4)] for h in range(4)
    ]


def test_with_all_grades_the_figures_are_those_of_the_packages():
    humans, theirs = [0, 1, 2, 3, 3, 2, 1, 0, 2, 0], [0, 0, 2, 3, 2, 3, 1, 1, 1, 0]
    found = figures(humans, theirs)
    assert found.kappa == pytest.approx(cohen_kappa_score(humans, theirs))
    assert found.kappa_quadratic == pytest.approx(cohen_kappa_score(humans, theirs, weights="quadratic"))
    relevant = [grade >= 2 for grade in humans]
    assert found.kappa_binary == pytest.approx(cohen_kappa_score(relevant, [grade >= 2 for grade in theirs]))
    assert found.auc == pytest.approx(roc_auc_score(relevant, theirs))
    alpha = krippendorff.alpha(reliability_data=[humans, theirs], level_of_measurement="ordinal")
    assert found.alpha_ordinal == pytest.approx(alpha)


def test_a_hand_value_of_kappa():
    """Agreement on 6 of 8, chance 3/8: (0.75 - 0.375) / 0.625."""
    found = figures([0, 0, 0, 0, 3, 3, 1, 1], [0, 0, 0, 1, 3, 3, 1, 3])
    assert found.kappa == pytest.approx((6 / 8 - (4 * 3 + 2 * 2 + 2 * 3) / 64) / (1 - (4 * 3 + 2 * 2 + 2 * 3) / 64))


def test_quadratic_kappa_knows_the_distance_to_a_grade_that_nobody_gave():
    """Grades 0, 2 and 3 only: from 2 to 0 is further than from 2 to 3."""
    humans, theirs = [0, 2, 3, 3, 0], [0, 2, 3, 2, 2]
    assert figures(humans, theirs).kappa_quadratic == pytest.approx(
        slow_kappa(humans, theirs, lambda a, b: (a - b) ** 2)
    )


def test_perfect_agreement_is_1():
    found = figures([0, 1, 2, 3], [0, 1, 2, 3])
    assert (found.kappa, found.kappa_binary, found.kappa_quadratic, found.alpha_ordinal, found.auc) == (1, 1, 1, 1, 1)


@pytest.mark.parametrize(("humans", "theirs"), [([2, 2], [2, 2]), ([0], [0]), ([3], [3])])
def test_what_the_data_cannot_support_is_none(humans, theirs):
    found = figures(humans, theirs)
    assert (found.kappa, found.kappa_binary, found.kappa_quadratic, found.alpha_ordinal, found.auc) == (None,) * 5
    assert found.pairs == len(humans)


def test_a_constant_judge_has_kappa_0():
    found = figures([0, 1, 2, 3], [1, 1, 1, 1])
    assert (found.kappa, found.kappa_binary, found.auc) == (0, 0, 0.5)


def test_failures_are_counted_and_measured_nowhere():
    found = figures([0, 1, 2, 3, 3], [0, None, 2, 3, None])
    assert (found.pairs, found.failures) == (3, 2)
    assert found.kappa == 1


def test_a_judge_that_always_fails_has_no_figures():
    found = figures([0, 3], [None, None])
    assert (found.pairs, found.failures, found.kappa, found.alpha_ordinal, found.auc) == (0, 2, None, None, None)


def test_auc_reads_the_score_and_else_the_grade():
    assert figures([0, 1, 2, 3], [1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4]).auc == 1
    assert figures([0, 1, 2, 3], [0, 1, 2, 3]).auc == 1


def test_pairs_that_only_one_side_graded_are_left_out(labelkit, tmp_path, write_qrels):
    theirs = write_qrels(tmp_path / "theirs.tsv", {"q1": {"a": 3, "b": 0, "c": 1}, "q9": {"a": 1}})
    human = write_qrels(tmp_path / "human.tsv", {"q1": {"a": 3, "b": 0, "z": 2}})
    labelkit("import", theirs, "-o", tmp_path / "labels", "--judge", "x", "--kind", "llm")
    (found,) = agree(tmp_path / "labels", human)
    assert (found.pairs, found.judge_name, found.kappa) == (2, "x", 1)
    other = write_qrels(tmp_path / "other.tsv", {"q7": {"a": 1}})
    with pytest.raises(DataError, match="have no pair in common"):
        agree(tmp_path / "labels", other)


def test_every_judge_of_a_folder_is_measured(labelkit, beir, pool, tmp_path):
    for method in ("graded", "binary"):
        command = ("annotate", pool, "-o", tmp_path / "labels", "--engine", "scripted", "--model", "overlap")
        assert labelkit(*command, "--method", method).code == 0
    found = agree(tmp_path / "labels", beir / "qrels" / "test.tsv")
    assert [one.judge_id.split("-")[0] for one in found] == ["binary", "graded"]


def test_a_judge_s_name_is_printed_as_it_is(labelkit, beir, tmp_path):
    human = beir / "qrels" / "test.tsv"
    assert labelkit("import", human, "-o", tmp_path / "labels", "--judge", "[/b] [red]x").code == 0
    called = labelkit("agree", tmp_path / "labels", "--human", human)
    assert called.code == 0
    assert "[/b] [red]x" in called.out


@pytest.mark.skipif(not VALIDATION.is_dir(), reason=f"{VALIDATION} is not on this machine")
@pytest.mark.parametrize(
    ("file", "expected"),
    [("llm.gpt-4o.tsv", (0.279, 0.298, 0.505)), ("llm.llama-3-70b.tsv", (0.172, 0.257, 0.352))],
)
def test_two_real_judges_agree_as_published(labelkit, tmp_path, file, expected):
    called = labelkit("import", VALIDATION / file, "-o", tmp_path / "labels", "--judge", "real", "--kind", "llm")
    assert called.code == 0
    (found,) = agree(tmp_path / "labels", VALIDATION / "qrels" / "test.tsv")
    assert (found.pairs, found.failures) == (1731, 0)
    assert (found.kappa, found.kappa_binary, found.kappa_quadratic) == pytest.approx(expected, abs=0.0005)
