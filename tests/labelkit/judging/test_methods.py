"""The scores of the pointwise methods against slow arithmetic on plain probabilities."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelkit.errors import UnknownNameError
from labelkit.judging.methods import METHODS, WRITING, method_named
from labelkit.judging.methods.binary import log_odds
from labelkit.judging.methods.graded import expected_grade
from labelkit.judging.prompts import STEPS, load_prompt, parse_prompt, shipped_prompts
from labelkit.judging.reply_parser import label_probabilities

GRADED, BINARY = load_prompt("graded"), load_prompt("binary")

MASSES = st.floats(1e-6, 1)


def expected(logprobs):
    """The expected grade of a reply with these log-probabilities."""
    return expected_grade(label_probabilities(logprobs, GRADED.label_texts)[0], GRADED)


@given(st.tuples(MASSES, MASSES, MASSES, MASSES))
def test_the_expected_grade_is_the_mean_of_the_grades(masses):
    logprobs = {label: math.log(mass) for label, mass in zip("0123", masses, strict=True)}
    slow = sum(grade * mass for grade, mass in enumerate(masses)) / sum(masses)
    assert expected(logprobs) == pytest.approx(slow)


@given(MASSES, MASSES)
def test_log_odds_are_the_logarithm_of_the_odds(yes, no):
    assert log_odds({"Yes": math.log(yes), "No": math.log(no)}, BINARY) == pytest.approx(math.log(yes / no), abs=1e-9)


def test_labels_on_one_side_add_up():
    content = BINARY.content.decode() + '\n[[labels]]\ntext = "Perhaps"\ngrade = 1\n'
    prompt = parse_prompt(content.encode(), "three.toml")
    masses = {"No": 0.2, "Yes": 0.5, "Perhaps": 0.1}
    found = log_odds({label: math.log(mass) for label, mass in masses.items()}, prompt)
    assert found == pytest.approx(math.log((0.5 + 0.1) / 0.2))


@pytest.mark.parametrize(("values", "grade"), [((0, -9999, -9999, -9999), 0), ((-9999, -9999, -9999, 0), 3)])
def test_a_sure_judge_expects_its_grade(values, grade):
    assert expected(dict(zip("0123", map(float, values), strict=True))) == grade


def test_a_judge_without_any_idea_expects_the_middle():
    assert expected(dict.fromkeys("0123", -9999.0)) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("yes", "no", "odds"), [(0.0, -9999.0, 9999.0), (-9999.0, 0.0, -9999.0), (-9999.0, -9999.0, 0.0)]
)
def test_extreme_log_odds_stay_finite(yes, no, odds):
    assert log_odds({"Yes": yes, "No": no}, BINARY) == pytest.approx(odds)


def test_every_method_has_a_shipped_prompt_of_its_own():
    assert {load_prompt(name).method for name in METHODS} == set(METHODS) == set(STEPS) - set(WRITING)
    assert {load_prompt(name).method for name in shipped_prompts() if name.startswith("write-")} == set(WRITING)


def test_an_unknown_method_lists_the_choices():
    with pytest.raises(
        UnknownNameError, match="unknown method 'x'; choose one of: binary, graded, relsel, rerank, utilrank, utilsel"
    ):
        method_named("x")
