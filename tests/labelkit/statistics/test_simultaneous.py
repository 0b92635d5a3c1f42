"""Simultaneous inference on repeated runs: against closed forms, in simulated worlds, and on degenerate values."""

from itertools import combinations

import numpy as np
import pytest
from present import present
from scipy import stats

from labelkit.statistics import simultaneous
from labelkit.statistics.simultaneous import Repeats, cell_intervals, differences, seed_effect


def all_pairs(cells: int) -> np.ndarray:
    one = np.eye(cells)
    return np.array([one[a] - one[b] for a, b in combinations(range(cells), 2)])


def world(source, *, cells=6, seeds=3, queries=40, of_seeds=0.0, effects=None):
    """Cells over the same queries, with a random effect of the query, of cell and query, of the seed, and noise."""
    hard, apart = source.beta(1, 1.6, queries), source.standard_t(4, (cells, queries)) * 0.06
    luck, noise = source.normal(0, of_seeds, (cells, seeds, 1)), source.normal(0, 0.04, (cells, seeds, queries))
    moved = np.zeros(cells) if effects is None else effects
    return [Repeats([hard + apart[c] + luck[c] + noise[c] + moved[c]]) for c in range(cells)]


def test_the_difference_of_two_cells_is_the_paired_one():
    """Two cells, one seed: nothing but the paired differences of their queries."""
    source = np.random.default_rng(0)
    one, other = source.normal(0.03, 0.1, 60), np.zeros(60)
    (found,) = differences([Repeats([one[None]]), Repeats([other[None]])], all_pairs(2))
    classic = stats.ttest_1samp(one, 0)
    assert found.estimate.value == pytest.approx(one.mean())
    assert found.p == pytest.approx(classic.pvalue, abs=0.01)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(classic.confidence_interval(0.95), abs=0.002)


@pytest.mark.parametrize("of_seeds", [0.0, 0.003, 0.01])
def test_equal_cells_seldom_differ_anywhere(monkeypatch, of_seeds):
    """Of 200 worlds 10 with standard deviation 3 have a difference that is called significant."""
    monkeypatch.setattr(simultaneous, "DRAWS", 999)
    source = np.random.default_rng(3)
    wrong = sum(
        any(one.p <= 0.05 for one in differences(world(source, of_seeds=of_seeds), all_pairs(6))) for _ in range(200)
    )
    assert wrong <= 19


def test_seeds_that_differ_widen_the_interval():
    source = np.random.default_rng(4)
    calm, lucky = (differences(world(np.random.default_rng(4), of_seeds=s), all_pairs(6)) for s in (0.0, 0.05))
    assert sum(one.p <= 0.05 for one in lucky) == 0
    widths = [
        np.mean([present(one.estimate.high) - present(one.estimate.low) for one in found]) for found in (calm, lucky)
    ]
    assert widths[1] > 1.8 * widths[0]
    (found, *_) = differences(world(source, effects=[0.1, 0, 0, 0, 0, 0], queries=200), all_pairs(6))
    assert found.p <= 0.001
    assert present(found.estimate.low) < 0.1 < present(found.estimate.high)


def test_p_values_and_intervals_say_the_same():
    found = differences(world(np.random.default_rng(8), effects=np.linspace(0, 0.08, 6)), all_pairs(6))
    sure = [one.p <= 0.05 for one in found]
    assert sure == [not present(one.estimate.low) <= 0 <= present(one.estimate.high) for one in found]
    assert any(sure)
    assert not all(sure)


def test_the_seeds_variance_is_found_and_an_unstable_cell_keeps_its_own():
    source = np.random.default_rng(1)
    cells = world(source, cells=40, seeds=4, queries=100, of_seeds=0.02)
    assert seed_effect(cells).pooled() == pytest.approx(0.02**2, rel=0.3)
    calm = world(source, cells=10, seeds=4, queries=100)
    effect = seed_effect([*calm, Repeats([calm[0].values[0] + np.array([[-0.2], [0.2], [0.1], [-0.1]])])])
    added = effect.of_means(effect.observed)
    assert added[-1] > 5 * added[0] >= 0
    assert seed_effect([Repeats([np.zeros((1, 5))])]).pooled() == 0.0, "one seed tells nothing"


def test_the_interval_of_a_cell_counts_queries_and_seeds():
    """Queries do not vary at all; three seeds do: Student's interval with 2 degrees of freedom."""
    values = np.array([[0.4], [0.45], [0.5]]) * np.ones((1, 50))
    (found,) = cell_intervals([Repeats([values])], (-np.inf, np.inf))
    expected = stats.t.interval(0.95, 2, 0.45, 0.05 / np.sqrt(3))
    assert found[:] == pytest.approx((0.45, *expected))
    queries = np.random.default_rng(0).uniform(size=(1, 30))
    (single,) = cell_intervals([Repeats([queries], seeded=False)], (-np.inf, np.inf))
    expected = stats.t.interval(0.95, 29, queries.mean(), queries.std(ddof=1) / np.sqrt(30))
    assert single[1:] == pytest.approx(expected)


def test_cells_that_are_the_same_and_queries_that_are_one():
    values = np.random.default_rng(0).uniform(size=(2, 20))
    same, other, third = differences(
        [Repeats([values]), Repeats([values]), Repeats([values[::-1] + 0.3])], all_pairs(3)
    )
    assert (same.estimate, same.p) == ((0.0, None, None), 1.0)
    assert other.p == third.p <= 0.001
    (alone,) = differences([Repeats([np.array([[0.5]])]), Repeats([np.array([[0.1]])])], all_pairs(2))
    assert (alone.estimate.value, alone.estimate.low, alone.p) == (0.4, None, 1.0)
