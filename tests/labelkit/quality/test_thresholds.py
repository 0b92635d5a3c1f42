"""Thresholds between grades: the best of all triples, never equal, and no grade that people used is lost."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from labelkit.quality.calibration.thresholds import SEPARATION, candidate_places, choose_thresholds, graded


def given(expected, human):
    return graded(expected, choose_thresholds(expected, human))


@pytest.mark.parametrize("seed", range(4))
def test_no_other_thresholds_that_give_all_grades_agree_better(seed):
    draw = np.random.default_rng(seed)
    human = draw.integers(0, 4, 60)
    expected = np.round(4 * np.clip(human + draw.normal(size=60), 0, 3)) / 4
    found = choose_thresholds(expected, human)
    best = -1.0
    for triple in combinations(candidate_places(expected), 3):
        grades = graded(expected, triple)
        enough = all((grades == grade).sum() >= 0.25 * (human == grade).sum() for grade in range(4))
        if enough and min(np.diff(triple)) >= SEPARATION - 1e-9:
            best = max(best, cohen_kappa_score(human, grades))
    assert cohen_kappa_score(human, graded(expected, found)) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("spread", [0.005, 0.3, 3.0])
def test_thresholds_are_apart_whatever_the_scores(seed, spread):
    draw = np.random.default_rng(seed)
    human = draw.choice(4, 200, p=[0.6, 0.3, 0.05, 0.05])
    expected = 0.8 + spread * draw.random(200)
    assert min(np.diff(choose_thresholds(expected, human))) >= SEPARATION - 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_every_grade_that_people_used_is_given(seed):
    """A judge that knows nothing of grade 2: the greatest kappa would leave it out."""
    draw = np.random.default_rng(seed)
    human = draw.choice(4, 200, p=[0.6, 0.3, 0.05, 0.05])
    expected = np.clip(np.array([0, 1, 0.5, 3])[human] + draw.normal(size=200) / 2, 0, 3)
    assert set(given(expected, human)) == {0, 1, 2, 3}
    coarse = np.array([0.2, 0.5, 0.9, 1.4])[draw.integers(0, 4, 200)]
    assert set(given(coarse, human)) == {0, 1, 2, 3}


def test_scores_with_two_values_give_the_two_grades_that_people_used():
    human = np.array([0, 2] * 50)
    assert np.array_equal(given(np.where(human > 0, 1.0, 0.7), human), human)


def test_scores_with_one_value_give_one_grade():
    thresholds = choose_thresholds(np.full(100, 0.7), np.array([0, 2] * 50))
    assert min(np.diff(thresholds)) >= SEPARATION
    assert len(set(graded(np.full(100, 0.7), thresholds))) == 1
