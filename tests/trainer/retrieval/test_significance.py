"""Intervals and tests against textbook values."""

import math

import numpy as np
import pytest

from trainer.retrieval.significance import bootstrap, compare, holm, permutation_p, queries_needed, show_p


def test_the_interval_of_a_share_is_the_textbooks() -> None:
    found = bootstrap(np.array([0.0, 1.0] * 200))
    assert found.mean == 0.5
    half = 1.96 * math.sqrt(0.25 / 400)
    assert found.low == pytest.approx(0.5 - half, abs=0.004)
    assert found.high == pytest.approx(0.5 + half, abs=0.004)
    assert bootstrap(np.array([0.0, 1.0] * 200)) == found
    constant = bootstrap(np.full(7, 0.25))
    assert (constant.low, constant.high) == (0.25, 0.25)


def test_an_average_of_two_collections_has_the_interval_of_a_mean_of_means() -> None:
    large, small = np.array([0.0, 1.0] * 200), np.array([0.0, 1.0] * 50)
    found = bootstrap(large, small)
    # Both are resampled from one seed, but as samples of different size they are independent.
    half = 1.96 * math.sqrt(0.25 / 400 + 0.25 / 100) / 2
    assert found.mean == 0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)


def test_the_permutation_test_counts_sign_patterns() -> None:
    """Six differences of one sign: 2 of 64 patterns are as far from 0."""
    assert permutation_p([np.full(6, 0.3)]) == pytest.approx(2 / 64, abs=0.006)
    assert permutation_p([np.array([0.5, -0.5])]) == 1.0
    assert permutation_p([np.zeros(5)]) == 1.0
    assert permutation_p([np.full(100, 0.1)]) == pytest.approx(1 / 10_001)
    assert permutation_p([np.full(3, 0.3), np.full(3, 0.3)]) == pytest.approx(2 / 64, abs=0.006)


def test_under_no_difference_one_in_twenty_is_below_five_percent() -> None:
    source = np.random.default_rng(1)
    p_values = [permutation_p([source.normal(size=30)]) for _ in range(200)]
    assert 2 <= sum(p < 0.05 for p in p_values) <= 20, "binomial(200, 0.05): 10 with standard deviation 3"


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert [test.p_holm for test in compare([[np.full(100, 0.1)], [np.zeros(4)]])] == pytest.approx([2 / 10_001, 1.0])


def test_the_queries_that_a_difference_wants() -> None:
    """n = (2.802 sd / d)^2: with sd 0.1 and d 0.01 that is 785, and twice the difference wants a quarter."""
    values = np.array([0.1, -0.1] * 500)
    assert queries_needed(values) == pytest.approx(785, abs=2)
    assert queries_needed(values, 0.02) == pytest.approx(197, abs=1)
    assert queries_needed(np.zeros(9)) is None
    assert queries_needed(np.array([0.3])) is None


def test_no_reader_sees_a_p_value_of_zero() -> None:
    assert [show_p(p) for p in (1.0, 0.0005, 1 / 10_001)] == ["p 1.000", "p 0.001", "p < 0.001"]
