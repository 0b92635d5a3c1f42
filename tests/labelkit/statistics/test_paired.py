"""Permutation tests, Holm's correction and the power note against counts and textbook values."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from present import present

from labelkit.statistics.paired import compare, holm, permutation_p, queries_needed, show_p


def test_the_permutation_test_counts_sign_patterns():
    """Six differences of one sign: 2 of 64 patterns are as far from 0."""
    assert permutation_p([np.full(6, 0.3)]) == 2 / 64
    assert permutation_p([np.array([0.5, -0.5])]) == 1.0
    assert permutation_p([np.zeros(5)]) == permutation_p([np.array([0.0, 0.0, 0.4])]) == 1.0
    assert permutation_p([np.full(100, 0.1)]) == pytest.approx(2 / 10_000)
    assert permutation_p([np.full(3, 0.3), np.full(3, 0.3)]) == 2 / 64
    assert permutation_p([np.array([0.0, 1.0, 2.0, -1.0, -2.0])]) == 1.0, "the sum is 0 but for rounding"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=5), min_size=1, max_size=2))
def test_every_sign_pattern_by_a_literal_loop(rows):
    samples = [np.array(row, dtype=float) for row in rows]
    weights = np.concatenate([sample / len(sample) / len(samples) for sample in samples])
    sums = [abs(float(np.dot(signs, weights))) for signs in product((-1, 1), repeat=len(weights))]
    expected = np.mean([value >= abs(weights.sum()) - 1e-12 for value in sums])
    assert permutation_p(samples) == pytest.approx(expected)


@pytest.mark.slow
def test_under_no_difference_one_in_twenty_is_below_five_percent():
    source = np.random.default_rng(1)
    p_values = [permutation_p([source.normal(size=30)]) for _ in range(200)]
    assert 2 <= sum(p < 0.05 for p in p_values) <= 20, "binomial(200, 0.05): 10 with standard deviation 3"


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert [test.p_holm for test in compare([[np.full(100, 0.1)], [np.zeros(4)]])] == pytest.approx([4 / 10_000, 1.0])


def test_the_queries_that_a_difference_wants():
    """n = (2.802 sd / d)^2: with sd 0.1 and d 0.01 that is 785, and twice the difference wants a quarter."""
    values = np.array([0.1, -0.1] * 500)
    assert present(queries_needed(values)).value == pytest.approx(785, abs=2)
    assert present(queries_needed(values, 0.02)).value == pytest.approx(197, abs=1)
    assert queries_needed(np.zeros(9)) is None
    assert queries_needed(np.array([0.3])) is None


def test_the_number_of_queries_has_an_interval_from_few_of_them():
    """30 normal differences: the number lies within a factor of about 1.7, as the chi-square interval says."""
    source = np.random.default_rng(0)
    found = [present(queries_needed(source.normal(0, 0.1, 30))) for _ in range(300)]
    ends = [(present(one.low), present(one.high)) for one in found]
    assert 0.88 <= np.mean([low <= 785 <= high for low, high in ends]) <= 0.99
    assert 2.0 <= np.median([high / low for low, high in ends]) <= 4.0
    one = found[0]
    assert str(one) == f"about {one.value:,} queries (95% confidence interval {one.low:,} to {one.high:,})"


def test_no_reader_sees_a_p_value_of_zero():
    assert [show_p(p) for p in (1.0, 0.0005, 1 / 10_001)] == ["p 1.000", "p 0.001", "p < 0.001"]
