"""Simulate the coverage of 95% confidence intervals and the error rate of bake-offs.

    python benchmarks/interval_coverage.py intervals [--worlds 1000]
    python benchmarks/interval_coverage.py bakeoff [--worlds 1000]

`intervals` simulates data sets ("worlds") of 5, 10, 25, 50 and 100 queries whose true value is known from a long run of
the same generator. It counts the worlds in which the interval of `labelkit.statistics.intervals` contains the true
value, and, for comparison, the interval of the percentile bootstrap over queries that it replaced. Queries differ as on
real collections: nDCG is skewed and often 0, half of the paired differences are near 0 and some are large, and
agreement, prevalence, the level of scores and the number of positives vary between queries. Worlds without an interval
are counted separately.

`bakeoff` simulates 16 cells with the same mean and three seeds each. It counts runs in which any cell is called worse
than the best cell, and runs in which any two cells are called different. It then repeats this with one better cell, and
counts how often that cell is significantly better than all others. For comparison, the best cell is also tested against
each other cell with permutation tests and Holm's correction.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from labelkit.quality.agreement_metrics import GRADES, kappa
from labelkit.statistics import paired, simultaneous
from labelkit.statistics.intervals import POSITIVE, SIGNED, UNIT, Bounds, Estimate, estimate, variance
from labelkit.statistics.paired import holm, permutation_p
from labelkit.statistics.simultaneous import Floats, Repeats, differences

QUERIES = (5, 10, 25, 50, 100)
RESAMPLES = 1_000
"""Resamples of the percentile bootstrap."""
CELLS, SEEDS = 16, 3
LONG = 20_000
"""Queries per world from which the true value is computed."""
PARTS = 20
"""Number of worlds from which the true value is computed."""

Source = np.random.Generator
Statistic = Callable[[NDArray[Any]], Any]
"""Weights of queries -> value of a figure: `[Q]` -> a number, `[resamples, Q]` -> `[resamples]`."""


class World(NamedTuple):
    """A simulated figure that is estimated from queries."""

    draw: Callable[[Source, int], Statistic]
    """Random generator, number of queries -> the figure in one simulated world."""
    bounds: Bounds
    long: int = LONG
    """Queries per world from which the true value is computed."""
    values: Callable[[Source, int], Floats] | None = None
    """Random generator, number of queries -> `[Q]` values; only for a figure that is the variance of values."""

    def interval(self, statistic: Statistic, seed: tuple[int, int]) -> Estimate:
        """Compute the interval that the product prints in the world of a seed: its number and the number of queries."""
        if self.values:
            return variance(self.values(np.random.default_rng(seed), seed[-1]))
        return estimate(lambda draws: float(statistic(draws.astype(float))), seed[-1], self.bounds)


def mean_of(values: Floats) -> Statistic:
    """Make the weighted mean of values `[Q]`."""
    return lambda draws: draws @ values / draws.sum(-1)


def ratio_of(above: Floats, below: Floats) -> Statistic:
    """Make the ratio of the weighted sums of two arrays `[Q]`."""

    def of(draws: NDArray[Any]) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (draws @ above) / (draws @ below)

    return of


def ndcg(source: Source, queries: int) -> Statistic:
    """Simulate mean nDCG: skewed between 0 and 1, with a sixth of the queries at 0 and some at 1."""
    values = source.beta(0.9, 1.6, queries)
    values[source.random(queries) < 0.16] = 0.0
    values[source.random(queries) < 0.04] = 1.0
    return mean_of(values)


def paired_ndcg(source: Source, queries: int) -> Statistic:
    """Simulate the mean difference of two retrievers: two fifths of the queries at 0, the others with heavy tails."""
    values = np.clip(source.standard_t(3, queries) * 0.08 + 0.02, -1, 1)
    values[source.random(queries) < 0.4] = 0.0
    return mean_of(values)


def clustered_kappa(source: Source, queries: int) -> Statistic:
    """Simulate Cohen's kappa of four grades, whose prevalence, agreement and bias of the judge vary between queries."""
    tables = np.zeros((queries, GRADES * GRADES))
    for query in range(queries):
        pairs = int(source.integers(10, 40))
        grades = source.choice(GRADES, pairs, p=source.dirichlet([3.0, 1.5, 0.9, 0.6]))
        guesses = source.choice(GRADES, pairs, p=source.dirichlet(np.full(GRADES, 2.0)))
        judged = np.where(source.random(pairs) < source.beta(4, 3), grades, guesses)
        np.add.at(tables[query], grades * GRADES + judged, 1)
    unequal = 1 - np.eye(GRADES)

    def of(draws: NDArray[Any]) -> Any:
        confusion = (draws @ tables).reshape(*draws.shape[:-1], GRADES, GRADES)
        if confusion.ndim == 2:
            return kappa(confusion, unequal)
        return np.array([kappa(one, unequal) for one in confusion])

    return of


def clustered_auc(source: Source, queries: int) -> Statistic:
    """Simulate AUC over the pairs of all queries, whose level and separation of scores vary between queries."""
    scores: dict[bool, list[Floats]] = {True: [], False: []}
    for _ in range(queries):
        relevant = source.random(int(source.integers(10, 40))) < source.beta(1.2, 3)
        score = np.round(source.normal(source.normal(0, 0.5) + relevant * source.normal(1, 0.5)), 1)
        for side in (True, False):
            scores[side].append(np.sort(score[relevant == side]))
    wins = np.array([[wins_of(high, low) for low in scores[False]] for high in scores[True]])
    counts = {side: np.array([float(len(one)) for one in each]) for side, each in scores.items()}

    def of(draws: NDArray[Any]) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((draws @ wins) * draws).sum(-1) / ((draws @ counts[True]) * (draws @ counts[False]))

    return of


def wins_of(high: Floats, low: Floats) -> float:
    """Count the pairs of a score in `high` and a lower score in `low`, which is sorted; ties count as half a pair."""
    return float((np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")).sum()) / 2


def precision(source: Source, queries: int) -> Statistic:
    """Simulate precision, hits divided by positives, both of which vary between queries."""
    taken = source.poisson(source.gamma(2, 2.5, queries))
    hits = source.binomial(taken, source.beta(1.54, 0.66, queries))
    return ratio_of(hits.astype(float), taken.astype(float))


def differences_with_tails(source: Source, queries: int) -> Floats:
    """Simulate paired differences with a kurtosis of 4.5, similar to 4.3 between two models on Cranfield."""
    return source.standard_t(8, queries) * 0.08


def differences_mostly_none(source: Source, queries: int) -> Floats:
    """Simulate paired differences of which 60% are 0, similar to 69% between two models on SciFact."""
    return np.where(source.random(queries) < 0.6, 0.0, source.normal(0, 0.3, queries))


def variance_world(values: Callable[[Source, int], Floats]) -> World:
    """Make the variance of paired differences, from which `queries_needed` is computed, a simulated figure."""

    def draw(source: Source, queries: int) -> Statistic:
        found = values(source, queries)

        def of(draws: NDArray[Any]) -> Any:
            total = draws.sum(-1)
            return (draws @ found**2 / total - (draws @ found / total) ** 2) * total / (total - 1)

        return of

    return World(draw, POSITIVE, values=values)


WORLDS = {
    "mean nDCG": World(ndcg, UNIT),
    "paired difference of nDCG": World(paired_ndcg, SIGNED),
    "kappa": World(clustered_kappa, SIGNED),
    "AUC": World(clustered_auc, UNIT, long=400),
    "precision": World(precision, UNIT),
    "queries needed: variance": variance_world(differences_with_tails),
    "queries needed: most differences 0": variance_world(differences_mostly_none),
}


def truth_of(world: World) -> float:
    """Compute the true value of a figure from many queries."""
    source = np.random.default_rng(1)
    parts = [float(world.draw(source, world.long)(np.ones(world.long))) for _ in range(PARTS)]
    return float(np.mean(parts))


def percentiles(statistic: Statistic, queries: int, source: Source) -> tuple[float, float]:
    """Compute the previously used interval, percentiles of 1,000 resamples of the queries."""
    values = statistic(source.multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES).astype(float))
    low, high = np.percentile(values[np.isfinite(values)], (2.5, 97.5))
    return float(low), float(high)


def coverage(world: World, queries: int, worlds: int, truth: float) -> tuple[float, float, float]:
    """Compute shares of worlds: the new interval, if it exists, contains the truth; it does not exist; the old one
    contains the truth.
    """
    new, old = [], []
    for number in range(worlds):
        source = np.random.default_rng((number, queries))
        statistic = world.draw(source, queries)
        found = world.interval(statistic, (number, queries))
        if found.low is not None and found.high is not None:
            new.append(found.low <= truth <= found.high)
        low, high = percentiles(statistic, queries, source)
        old.append(low <= truth <= high)
    return float(np.mean(new)), 1 - len(new) / worlds, float(np.mean(old))


def show_intervals(worlds: int) -> None:
    """Print the coverage of every figure at every number of queries."""
    out = Console(width=120)
    table = Table("figure", *(f"{queries} queries" for queries in QUERIES), title=f"new (old), {worlds:,} worlds each")
    for name, world in WORLDS.items():
        truth = truth_of(world)
        cells = []
        for queries in QUERIES:
            new, none, old = coverage(world, queries, worlds, truth)
            cells.append(f"{new:.3f} ({old:.3f})" + (f", none {none:.1%}" if none else ""))
        table.add_row(name, *cells)
    out.print(table)


class Grid(NamedTuple):
    """Parameters of a simulated bake-off."""

    queries: int
    of_seeds: float
    """Standard deviation of the seed's effect on a run's mean."""
    better: float = 0.0
    """Difference of the first cell from the others."""


def runs_of(grid: Grid, source: Source) -> list[Floats]:
    """Simulate `[seeds, queries]` for each cell: sum of effects of query, cell on query, seed, and run on query."""
    hard = source.beta(1, 1.6, grid.queries)
    apart = source.standard_t(4, (CELLS, grid.queries)) * 0.057
    luck = source.normal(0, grid.of_seeds, (CELLS, SEEDS, 1))
    noise = source.standard_t(4, (CELLS, SEEDS, grid.queries)) * 0.035
    cells = [hard + apart[cell] + luck[cell] + noise[cell] for cell in range(CELLS)]
    return [cells[0] + grid.better, *cells[1:]]


def new_verdict(runs: list[Floats]) -> tuple[list[int], bool]:
    """Compare all pairs of cells as a bake-off does: cells called worse than the best, whether any two differ."""
    pairs = list(combinations(range(len(runs)), 2))
    one = np.eye(len(runs))
    found = differences([Repeats([values]) for values in runs], np.array([one[a] - one[b] for a, b in pairs]))
    sure = [pair for pair, difference in zip(pairs, found, strict=True) if difference.p <= 0.05]
    best = int(np.argmax([values.mean() for values in runs]))
    return [a + b - best for a, b in sure if best in (a, b)], bool(sure)


def old_verdict(runs: list[Floats], source: Source) -> list[int]:
    """Find the cells called worse than the best by the previous method.

    It combined permutation tests of the best cell against each other cell, Holm's correction, and a bootstrap of
    queries and seeds.
    """
    best = int(np.argmax([values.mean() for values in runs]))
    others = [cell for cell in range(len(runs)) if cell != best]
    p_values = holm([permutation_p([(runs[best] - runs[cell]).mean(0)]) for cell in others])
    sure = [cell for cell, p in zip(others, p_values, strict=True) if p <= 0.05]
    return [cell for cell in sure if not math.prod(bootstrap(runs[best], runs[cell], source)) < 0]


def bootstrap(one: Floats, other: Floats, source: Source) -> tuple[float, float]:
    """Compute the 95% percentile interval of a difference over resampled queries and seeds."""
    seeds, queries = one.shape
    draws = source.multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES) / queries
    means = []
    for values in (one, other):
        counts = source.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
        means.append(((draws @ values.T) * counts).sum(1))
    low, high = np.percentile(means[0] - means[1], (2.5, 97.5))
    return float(low), float(high)


def show_bakeoff(worlds: int) -> None:
    """Print the error rates of equal cells, and how often one better cell is significantly better than the others."""
    out = Console(width=120)
    table = Table(
        "queries", "sd of seeds", "any worse", "any pair", "old: any worse", title=f"equal cells, {worlds:,} runs each"
    )
    for queries in (50, 225):
        for of_seeds in (0.0, 0.003, 0.01):
            grid = Grid(queries, of_seeds)
            new = [(bool(worse), different) for worse, different in map(new_verdict, simulated(grid, worlds))]
            old = [bool(old_verdict(runs, np.random.default_rng(1))) for runs in simulated(grid, max(1, worlds // 5))]
            shares = (*np.mean(new, axis=0), np.mean(old))
            table.add_row(f"{queries}", f"{of_seeds}", *(f"{share:.1%}" for share in shares))
    out.print(table)
    columns = ("queries", "sd of seeds", "better by", "better than all 15", "better than the second")
    table = Table(*columns, title="one better cell")
    for grid in (Grid(225, 0.003, 0.03), Grid(225, 0.003, 0.05), Grid(225, 0.01, 0.05), Grid(50, 0.003, 0.1)):
        told = []
        for runs in simulated(grid, max(1, worlds // 5)):
            worse, _ = new_verdict(runs)
            best, second = np.argsort([-values.mean() for values in runs])[:2]
            told.append((best == 0 and len(worse) == CELLS - 1, best == 0 and int(second) in worse))
        row = (f"{grid.queries}", f"{grid.of_seeds}", f"{grid.better}")
        table.add_row(*row, *(f"{share:.0%}" for share in np.mean(told, axis=0)))
    out.print(table)


def simulated(grid: Grid, worlds: int) -> Iterator[list[Floats]]:
    """Yield the runs of simulated bake-offs."""
    for number in range(worlds):
        yield runs_of(grid, np.random.default_rng((number, grid.queries)))


def main() -> None:
    """Print the tables of one of the two simulations."""
    parser = argparse.ArgumentParser(description="Simulate the coverage of intervals and the errors of bake-offs.")
    parser.add_argument("what", choices=["intervals", "bakeoff"])
    parser.add_argument("--worlds", type=int, default=1_000, help="number of simulated worlds per figure")
    given = parser.parse_args()
    simultaneous.DRAWS, paired.FLIPS = 1_999, 999  # a fifth and a tenth of the product's numbers, to save time
    {"intervals": show_intervals, "bakeoff": show_bakeoff}[given.what](given.worlds)


if __name__ == "__main__":
    main()
