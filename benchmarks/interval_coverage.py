"""How often 95% intervals hold the truth, and how often equal cells of a bake-off are called different.

    python benchmarks/interval_coverage.py intervals [--worlds 1000]
    python benchmarks/interval_coverage.py bakeoff [--worlds 1000]

`intervals` draws worlds whose truth is known (a long run of the same generator) with 5, 10, 25, 50 and 100 queries, and
counts the worlds in which the interval of `labelkit.statistics.intervals` holds it; beside it the percentile bootstrap
over queries that it replaced. Queries differ as they do on real collections: nDCG is skewed and piles up at 0, half of
the paired differences are near 0 and some are large, agreement and prevalence vary from query to query, scores of one
query lie higher than those of another, and the number of pairs taken as positive varies. Worlds without an interval are
counted apart.

`bakeoff` draws 16 cells with the same mean, three seeds each, and counts runs in which any cell is called worse than
the best, and in which any two cells are called different; then the same with one better cell, and how often it is told
from all others. Beside it the best against each other with permutation tests under Holm's correction.
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
from labelkit.statistics.intervals import POSITIVE, SIGNED, UNIT, Bounds, estimate
from labelkit.statistics.paired import holm, permutation_p
from labelkit.statistics.simultaneous import Floats, Repeats, differences

QUERIES = (5, 10, 25, 50, 100)
RESAMPLES = 1_000
"""Of the percentile bootstrap."""
CELLS, SEEDS = 16, 3
LONG = 20_000
PARTS = 20
"""Worlds that the truth is taken from."""

Source = np.random.Generator
Statistic = Callable[[NDArray[Any]], Any]
"""A figure of how often each query counts: `[Q]` -> a number, `[resamples, Q]` -> `[resamples]`."""


class World(NamedTuple):
    """A figure that people estimate from queries."""

    draw: Callable[[Source, int], Statistic]
    bounds: Bounds
    long: int = LONG
    """Queries of each of the worlds that the truth is taken from."""


def mean_of(values: Floats) -> Statistic:
    return lambda draws: draws @ values / draws.sum(-1)


def ratio_of(above: Floats, below: Floats) -> Statistic:
    def of(draws: NDArray[Any]) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (draws @ above) / (draws @ below)

    return of


def ndcg(source: Source, queries: int) -> Statistic:
    """Skewed between 0 and 1: a sixth of the queries at 0, some at 1."""
    values = source.beta(0.9, 1.6, queries)
    values[source.random(queries) < 0.16] = 0.0
    values[source.random(queries) < 0.04] = 1.0
    return mean_of(values)


def paired_ndcg(source: Source, queries: int) -> Statistic:
    """Differences of two retrievers: two fifths do not move, the others have heavy tails."""
    values = np.clip(source.standard_t(3, queries) * 0.08 + 0.02, -1, 1)
    values[source.random(queries) < 0.4] = 0.0
    return mean_of(values)


def clustered_kappa(source: Source, queries: int) -> Statistic:
    """Cohen's kappa of four grades: prevalence, agreement and leaning of the judge belong to the query."""
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
    """AUC over the pairs of all queries: level and separation of the scores belong to the query."""
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
    """Pairs of a score in `high` and one in `low`, which is sorted, in which the first is greater; ties count half."""
    return float((np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")).sum()) / 2


def precision(source: Source, queries: int) -> Statistic:
    """Hits over pairs taken: the number taken and the chance of a hit belong to the query."""
    taken = source.poisson(source.gamma(2, 2.5, queries))
    hits = source.binomial(taken, source.beta(1.54, 0.66, queries))
    return ratio_of(hits.astype(float), taken.astype(float))


def variance_of_differences(source: Source, queries: int) -> Statistic:
    """The variance behind `queries_needed`, of paired differences with moderate tails."""
    values = source.standard_t(8, queries) * 0.08

    def of(draws: NDArray[Any]) -> Any:
        total = draws.sum(-1)
        return (draws @ values**2 / total - (draws @ values / total) ** 2) * total / (total - 1)

    return of


WORLDS = {
    "mean nDCG": World(ndcg, UNIT),
    "paired difference of nDCG": World(paired_ndcg, SIGNED),
    "kappa": World(clustered_kappa, SIGNED),
    "AUC": World(clustered_auc, UNIT, long=400),
    "precision": World(precision, UNIT),
    "variance, for queries needed": World(variance_of_differences, POSITIVE),
}


def truth_of(world: World) -> float:
    """The figure over very many queries."""
    source = np.random.default_rng(1)
    parts = [float(world.draw(source, world.long)(np.ones(world.long))) for _ in range(PARTS)]
    return float(np.mean(parts))


def percentiles(statistic: Statistic, queries: int, source: Source) -> tuple[float, float]:
    """The interval that was used before: percentiles of 1,000 resamples of the queries."""
    values = statistic(source.multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES).astype(float))
    low, high = np.percentile(values[np.isfinite(values)], (2.5, 97.5))
    return float(low), float(high)


def coverage(world: World, queries: int, worlds: int, truth: float) -> tuple[float, float, float]:
    """Shares of worlds: the new interval holds the truth, where there is one; there is none; the old one holds it."""
    new, old = [], []
    for number in range(worlds):
        source = np.random.default_rng((number, queries))
        statistic = world.draw(source, queries)
        found = estimate(lambda draws, of=statistic: float(of(draws.astype(float))), queries, world.bounds)  # type: ignore[misc]
        if found.low is not None and found.high is not None:
            new.append(found.low <= truth <= found.high)
        low, high = percentiles(statistic, queries, source)
        old.append(low <= truth <= high)
    return float(np.mean(new)), 1 - len(new) / worlds, float(np.mean(old))


def show_intervals(worlds: int) -> None:
    """Coverage of every figure at every number of queries."""
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
    """Worlds of a bake-off."""

    queries: int
    of_seeds: float
    """Standard deviation of the seed's effect on a run's mean."""
    better: float = 0.0
    """By how much the first cell is better than the others."""


def runs_of(grid: Grid, source: Source) -> list[Floats]:
    """`[seeds, queries]` of each cell: query, cell on query with heavy tails, seed, and noise of a run on a query."""
    hard = source.beta(1, 1.6, grid.queries)
    apart = source.standard_t(4, (CELLS, grid.queries)) * 0.057
    luck = source.normal(0, grid.of_seeds, (CELLS, SEEDS, 1))
    noise = source.standard_t(4, (CELLS, SEEDS, grid.queries)) * 0.035
    cells = [hard + apart[cell] + luck[cell] + noise[cell] for cell in range(CELLS)]
    return [cells[0] + grid.better, *cells[1:]]


def new_verdict(runs: list[Floats]) -> tuple[list[int], bool]:
    """Cells called worse than the best, and whether any two are called different."""
    pairs = list(combinations(range(len(runs)), 2))
    one = np.eye(len(runs))
    found = differences([Repeats([values]) for values in runs], np.array([one[a] - one[b] for a, b in pairs]))
    sure = [pair for pair, difference in zip(pairs, found, strict=True) if difference.p <= 0.05]
    best = int(np.argmax([values.mean() for values in runs]))
    return [a + b - best for a, b in sure if best in (a, b)], bool(sure)


def old_verdict(runs: list[Floats], source: Source) -> list[int]:
    """Cells called worse by permutation tests of the best against each other, Holm's correction, and a bootstrap of
    queries and seeds.
    """
    best = int(np.argmax([values.mean() for values in runs]))
    others = [cell for cell in range(len(runs)) if cell != best]
    p_values = holm([permutation_p([(runs[best] - runs[cell]).mean(0)]) for cell in others])
    sure = [cell for cell, p in zip(others, p_values, strict=True) if p <= 0.05]
    return [cell for cell in sure if not math.prod(bootstrap(runs[best], runs[cell], source)) < 0]


def bootstrap(one: Floats, other: Floats, source: Source) -> tuple[float, float]:
    """Percentiles of the difference over resampled queries and seeds."""
    seeds, queries = one.shape
    draws = source.multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES) / queries
    means = []
    for values in (one, other):
        counts = source.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
        means.append(((draws @ values.T) * counts).sum(1))
    low, high = np.percentile(means[0] - means[1], (2.5, 97.5))
    return float(low), float(high)


def show_bakeoff(worlds: int) -> None:
    """Error rates of equal cells, and how often one better cell is told from all others."""
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
    columns = ("queries", "sd of seeds", "better by", "told from all 15", "told from the second")
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
    """Runs of one bake-off after another."""
    for number in range(worlds):
        yield runs_of(grid, np.random.default_rng((number, grid.queries)))


def main() -> None:
    """Print the tables of one of the two simulations."""
    parser = argparse.ArgumentParser(description="Simulate how often intervals and verdicts are right.")
    parser.add_argument("what", choices=["intervals", "bakeoff"])
    parser.add_argument("--worlds", type=int, default=1_000, help="simulated worlds for each figure")
    given = parser.parse_args()
    simultaneous.DRAWS, paired.FLIPS = 1_999, 999  # a fifth and a tenth of what the product draws, for time
    {"intervals": show_intervals, "bakeoff": show_bakeoff}[given.what](given.worlds)


if __name__ == "__main__":
    main()
