"""Jackknife intervals against closed forms, textbook values and degenerate cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from present import present
from scipy import stats

from labelkit.statistics.intervals import (
    FEW_QUERIES,
    GROUPS,
    POSITIVE,
    SIGNED,
    UNIT,
    Estimate,
    estimate,
    few_queries,
    mean,
    mean_of_means,
    rate,
    ratio,
    share,
    standard_error,
    t_interval,
    variance,
)


def mean_under(values):
    return lambda draws: float(draws @ values / draws.sum())


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(0).normal(size=12)
    expected = stats.t.interval(0.95, 11, values.mean(), values.std(ddof=1) / math.sqrt(12))
    found = estimate(mean_under(values), 12)
    assert (found.low, found.high) == pytest.approx(expected)
    assert mean_of_means([values])[:] == pytest.approx(found[:])
    assert mean([f"q{n:02}" for n in range(12)], values)[:] == pytest.approx(found[:])


def test_the_jackknife_of_a_ratio_by_hand():
    """Hits 1, 0, 2 of 2, 2, 4 tries: 3/8, and 2/6, 3/6, 1/4 without each query."""
    hits, tries = np.array([1, 0, 2]), np.array([2, 2, 4])
    without = np.array([2 / 6, 3 / 6, 1 / 4])
    expected = math.sqrt(2 / 3 * ((without - without.mean()) ** 2).sum())
    assert standard_error(lambda draws: float(draws @ hits / (draws @ tries)), 3) == pytest.approx(expected)
    assert rate([1, 0, 2], [2, 2, 4]).value == 3 / 8


@settings(max_examples=30, deadline=None)
@given(st.integers(GROUPS + 1, 4 * GROUPS), st.integers(0, 10))
def test_groups_of_queries_estimate_the_same_error_as_single_ones(queries, seed):
    """The error from 100 groups has 99 degrees of freedom: it lies within about a fifth of the exact one."""
    values = np.random.default_rng(seed).normal(size=queries)
    assert standard_error(mean_under(values), queries) == pytest.approx(
        values.std(ddof=1) / math.sqrt(queries), rel=0.35
    )


def test_groups_of_unequal_size_are_weighted_by_busing():
    """150 queries in 100 groups: without correction the pairs of queries would count as single ones."""
    source = np.random.default_rng(5)
    errors = [standard_error(mean_under(source.normal(size=150)), 150) for _ in range(200)]
    assert np.mean(np.square(list(map(present, errors)))) == pytest.approx(1 / 150, rel=0.05)


def test_an_interval_stays_within_the_bounds_of_its_figure():
    values = np.array([1.0] * 7 + [0.6])
    plain, bounded = estimate(mean_under(values), 8), estimate(mean_under(values), 8, UNIT)
    assert present(plain.high) > 1 > present(bounded.high)
    assert present(bounded.high) > present(bounded.value) > present(bounded.low) > 0
    positive = estimate(mean_under(np.array([0.0, 0.0, 0.1, 2.0])), 4, POSITIVE)
    assert 0 < present(positive.low) < present(positive.value) < present(positive.high)


def test_a_bounded_interval_by_hand():
    """Logit of 0.8 is log 4; its error is 0.1 / (0.8 * 0.2), and t with 9 degrees of freedom is 2.262."""
    half = stats.t.ppf(0.975, 9) * 0.1 / 0.16
    odds = (4 * math.exp(-half), 4 * math.exp(half))
    assert t_interval(0.8, 0.1, 9, UNIT)[1:] == pytest.approx([one / (1 + one) for one in odds])
    z, half = math.atanh(0.6), stats.t.ppf(0.975, 9) * 0.1 / (1 - 0.6**2)
    assert t_interval(0.6, 0.1, 9, SIGNED)[1:] == pytest.approx([math.tanh(z - half), math.tanh(z + half)])
    half = stats.t.ppf(0.975, 9) * 0.1 / 2
    assert t_interval(2.0, 0.1, 9, POSITIVE)[1:] == pytest.approx([2 * math.exp(-half), 2 * math.exp(half)])
    assert t_interval(1.0, 0.1, 9, UNIT)[1:] == pytest.approx([1 - stats.t.ppf(0.975, 9) * 0.1, 1.0])
    assert present(t_interval(1e-300, 1e-5, 9, UNIT).low) >= 0


def test_no_interval_where_the_data_do_not_say_how_much_a_figure_varies():
    assert estimate(lambda draws: 0.5, 1) == (0.5, None, None), "one query"
    assert estimate(mean_under(np.full(7, 0.25)), 7) == (0.25, None, None), "all queries alike"
    assert estimate(lambda draws: math.nan, 5) == (None, None, None)
    only_there = np.array([1.0, 0.0, 0.0])
    assert estimate(lambda draws: ratio(2.0 * draws[0], float(draws @ only_there)), 3) == (2.0, None, None)
    assert mean([], []) == (None, None, None)
    assert mean_of_means([np.array([0.5]), np.array([0.1, 0.4])]) == (0.375, None, None)


def test_a_share_of_nothing_or_everything_has_an_interval_over_queries():
    """Clopper-Pearson with one attempt a query: 0 of 2 reaches up to 1 - 0.025 ** (1 / 2)."""
    expected = stats.binomtest(0, 2).proportion_ci(0.95)
    assert rate([0, 0, 0], [10, 10, 0])[1:] == pytest.approx((expected.low, expected.high))
    assert rate([10, 10], [10, 10]).low == pytest.approx(0.025 ** (1 / 2))
    assert rate([0], [0]).value is None
    assert share([], []) == (None, None, None)
    found = share(["a", "b", "a", "c"], [True, False, False, True])
    assert found == rate([1, 0, 1], [2, 1, 1])
    assert found.value == 0.5
    assert present(found.low) < 0.5 < present(found.high)


def test_an_average_of_two_collections_has_the_interval_of_a_mean_of_means():
    large, small = np.array([0.0, 1.0] * 200), np.array([0.0, 1.0] * 50)
    found = mean_of_means([large, small])
    error = math.sqrt(large.var(ddof=1) / 400 + small.var(ddof=1) / 100) / 2
    assert found.value == 0.5
    # Welch and Satterthwaite: mostly the small collection's 99 degrees of freedom.
    assert present(found.high) - present(found.low) == pytest.approx(2 * stats.t.ppf(0.975, 153) * error, rel=0.002)


def test_welch_s_degrees_of_freedom_are_scipy_s():
    one, other = np.random.default_rng(1).normal(size=9), 3 * np.random.default_rng(2).normal(size=5)
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    difference = mean_of_means([2 * one, -2 * other])
    assert (difference.low, difference.high) == pytest.approx((welch.low, welch.high))


def test_few_queries_are_said():
    assert few_queries(0) is None
    assert few_queries(FEW_QUERIES) is None
    assert present(few_queries(1)).startswith("1 query has no interval")
    assert present(few_queries(5)).startswith("5 queries are few: figures over fewer than 10 queries say little")


def test_an_estimate_is_written_with_its_interval():
    assert str(Estimate(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
    assert Estimate(0.5, 0.25, 0.75).shown("+.2f") == "+0.50 [+0.25, +0.75]"
    assert (str(Estimate(0.5)), str(Estimate(None))) == ("0.500", "undefined")


def test_the_interval_of_a_variance_is_around_the_jackknife_of_its_logarithm():
    """Five values by loops: leave one out, and the kurtosis around a trimmed mean by Bonett's formula."""
    values = np.array([0.3, -0.1, 0.05, -0.4, 0.2])
    without = [math.log(np.delete(values, one).var(ddof=1)) for one in range(5)]
    jackknife = math.sqrt(4 / 5 * sum((one - np.mean(without)) ** 2 for one in without))
    centre = 5 * math.log(values.var(ddof=1)) - 4 * np.mean(without)
    middle = np.mean(sorted(values)[2:3])  # 1 / (2 sqrt(5 - 4)) of the values are trimmed at each end
    kurtosis = 5 * sum((values - middle) ** 4) / sum((values - values.mean()) ** 2) ** 2
    z = stats.norm.ppf(0.975)
    bonett = 5 / (5 - z) * math.sqrt((kurtosis - 2 / 5) / 4)
    half = stats.t.ppf(0.975, 4) * max(jackknife, bonett)
    found = variance(values + 7)
    expected = (values.var(ddof=1), math.exp(centre - half), math.exp(centre + half))
    assert found[:] == pytest.approx(expected, rel=1e-9)


def test_the_interval_of_a_variance_covers_with_few_queries_and_heavy_tails():
    """The jackknife of the variance itself covers 0.88 of these."""
    source = np.random.default_rng(0)
    found = [variance(source.standard_t(8, 10)) for _ in range(600)]
    assert 0.94 <= np.mean([present(one.low) <= 8 / 6 <= present(one.high) for one in found]) <= 0.99


def test_a_variance_without_an_interval():
    assert variance(np.array([0.3])) == variance(np.full(9, 0.1)) == Estimate(None)
    value, low, high = variance(np.array([0.0, 0.0, 0.0, 0.5]))
    assert value == pytest.approx(0.0625)
    assert (low, high) == (None, None), "one query alone differs"
    assert variance(np.array([0.1, 0.4])).low is None
