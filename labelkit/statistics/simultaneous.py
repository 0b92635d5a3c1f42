"""Simultaneous inference on repeated runs: intervals and p-values that are valid for many differences together.

A cell is one way to train, run with several seeds and measured per query. Its value is the sum of a fixed effect, a
random effect of the query, a random effect of the seed, and noise. Queries and seeds are both samples. For each
difference of cells

    variance = variance over queries of the difference / queries + variance between seeds / seeds,

the variance between seeds is pooled over all cells, and the part due to the noise of single queries is subtracted. The
largest of all |difference| / standard error is compared with its distribution under no difference at all (max-T:
Westfall and Young 1993; Romano and Wolf, Econometrica 73, 2005): signs of the queries' centred values are flipped
jointly for all cells, which preserves their dependence, seed effects are drawn again, and both variances are estimated
again. A family of all pairs is also valid for a pair that was chosen after seeing the results, such as the best cell
and another one, as in Tukey's test (for retrieval systems see Carterette, TOIS 30, 2012). The
command `benchmarks/interval_coverage.py bakeoff` simulates the error rates.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelkit.statistics.intervals import LEVEL, NOTHING, UNIT, Bounds, Estimate, freedom_of, t_interval

DRAWS = 9_999
BLOCK = 1_000
"""Number of draws made at a time."""
SEED = 0

Floats = NDArray[np.float64]
Values = Sequence[Floats]
"""Values of one cell in each collection, `[seeds, queries]`; `[1, queries]` for a model that is not trained."""


class Repeats(NamedTuple):
    """Values of one cell, repeated with several seeds, and whether they depend on seeds."""

    values: Values
    seeded: bool = True


class SeedEffect(NamedTuple):
    """Variance between the runs of one cell that differ only in their seed."""

    observed: Floats
    """`[cells]` variance between runs of the mean over queries; 0 for a cell with fewer than two seeds."""
    noise: float
    """The part of the variance that is due to the noise of single queries, pooled over all cells."""
    freedom: NDArray[np.int64]
    """`[cells]` degrees of freedom, seeds - 1; if all are 0, the variance is unknown."""
    per_seed: Floats
    """`[cells]` 1 / seeds; 0 for a cell that does not depend on seeds."""

    def pooled(self) -> float:
        """Return the variance of the seed effect, assumed equal for all cells."""
        return float(max(0.0, self.observed @ self.freedom / max(1, self.freedom.sum()) - self.noise))

    def of_means(self, observed: Floats) -> Floats:
        """Compute the part of seeds in the variance of each cell's mean, `[..., cells]`, from observed variances of
        that shape.

        A cell has the greater of the pooled variance and its own, since one objective may be less stable than the
        others.
        """
        pooled = (observed @ self.freedom / max(1, self.freedom.sum()))[..., None]
        added: Floats = np.maximum(0.0, np.maximum(pooled, observed) - self.noise) * self.per_seed
        return added


class Difference(NamedTuple):
    """A difference of cells with its simultaneous confidence interval and its p-value, corrected for the
    whole family.
    """

    estimate: Estimate
    p: float


def seed_effect(cells: Sequence[Repeats]) -> SeedEffect:
    """Estimate the variance between seeds by the method of moments."""
    observed, freedom = np.zeros(len(cells)), np.zeros(len(cells), dtype=np.int64)
    noise = 0.0
    for place, cell in enumerate(cells):
        seeds = len(cell.values[0])
        if not cell.seeded or seeds < 2:
            continue
        observed[place] = np.mean([one.mean(1) for one in cell.values], axis=0).var(ddof=1)
        freedom[place] = seeds - 1
        for one in cell.values:
            left = one - one.mean(0) - one.mean(1, keepdims=True) + one.mean()
            noise += float((left**2).sum()) / max(1, one.shape[1] - 1) / one.shape[1] / len(cell.values) ** 2
    per_seed = np.array([1 / len(cell.values[0]) if cell.seeded and freedom.any() else 0.0 for cell in cells])
    return SeedEffect(observed, noise / max(1, int(freedom.sum())), freedom, per_seed=per_seed)


def cell_intervals(cells: Sequence[Repeats], bounds: Bounds = UNIT) -> list[Estimate]:
    """Estimate the mean of each cell over collections, queries and seeds, with an interval for it alone.

    The interval includes the variance of queries and of seeds.
    """
    effect = seed_effect(cells)
    added = effect.of_means(effect.observed).tolist()
    found = []
    for cell, of_seeds in zip(cells, added, strict=True):
        value = float(np.mean([one.mean() for one in cell.values]))
        if any(one.shape[1] < 2 for one in cell.values):
            found.append(Estimate(value))
            continue
        parts = [
            (float(one.mean(0).var(ddof=1)) / one.shape[1] / len(cell.values) ** 2, one.shape[1] - 1)
            for one in cell.values
        ]
        parts.append((of_seeds, max(1, int(effect.freedom.sum()))))
        found.append(t_interval(value, math.sqrt(sum(part for part, _ in parts)), freedom_of(parts), bounds=bounds))
    return found


def differences(cells: Sequence[Repeats], contrasts: Floats) -> list[Difference]:
    """Compare cells by one difference for each row of `contrasts` `[differences, cells]`, whose weights add up to 0.

    All rows are one family: with probability 95% all intervals contain the true differences, and with probability 5%
    any p-value of equal cells is at or below 5%.
    """
    means = [np.stack([cell.values[place].mean(0) for cell in cells]) for place in range(len(cells[0].values))]
    values = contrasts @ np.mean([one.mean(1) for one in means], axis=0)
    if any(one.shape[1] < 2 for one in means):
        return [Difference(Estimate(float(value)), 1.0) for value in values]
    effect = seed_effect(cells)
    apart = [contrasts @ one for one in means]  # [differences, queries] of each collection
    of_queries = sum(one.var(1, ddof=1) / one.shape[1] for one in apart) / len(apart) ** 2
    errors = np.sqrt(of_queries + effect.of_means(effect.observed) @ (contrasts**2).T)
    fuzz = NOTHING * np.maximum(1.0, np.abs(values))
    distance = np.abs(values) / np.maximum(errors, fuzz)
    distance[np.abs(values) <= fuzz] = 0.0
    largest = np.sort(largest_by_chance(means, contrasts, effect))[::-1]
    critical = largest[math.floor((1 - LEVEL) * (DRAWS + 1)) - 1]
    found = []
    for value, error, far in zip(values.tolist(), errors.tolist(), distance.tolist(), strict=True):
        p = (1 + int((largest >= far).sum())) / (DRAWS + 1)
        half = float(critical) * error
        known = error > NOTHING * max(1.0, abs(value))
        found.append(Difference(Estimate(value, value - half, value + half) if known else Estimate(value), p))
    return found


def largest_by_chance(means: Sequence[Floats], contrasts: Floats, effect: SeedEffect) -> Floats:
    """Draw `[draws]` values of the largest |difference| / standard error under the assumption that no cells differ.

    `means`: mean of each cell over seeds, `[cells, queries]` for each collection.
    """
    generator = np.random.default_rng(SEED)
    centred = [one - one.mean(1, keepdims=True) for one in means]
    squares = [((contrasts @ one) ** 2).mean(1) for one in centred]  # not changed by flipping signs
    pooled = effect.pooled()
    several = np.maximum(1, effect.freedom)
    largest = []
    for start in range(0, DRAWS, BLOCK):
        size = min(BLOCK, DRAWS - start)
        moved, variance = np.zeros((size, len(contrasts))), np.zeros((size, len(contrasts)))
        for one, square in zip(centred, squares, strict=True):
            queries = one.shape[1]
            signs = generator.integers(2, size=(size, queries)).astype(float) * 2 - 1
            drawn = (signs @ one.T / queries) @ contrasts.T
            moved += drawn / len(means)
            variance += (square - drawn**2) / (queries - 1) / len(means) ** 2
        luck = generator.normal(size=(size, len(several))) * np.sqrt(pooled * effect.per_seed)
        observed = (pooled + effect.noise) * generator.chisquare(several, size=(size, len(several))) / several
        moved += luck @ contrasts.T
        variance += effect.of_means(observed * (effect.freedom > 0)) @ (contrasts**2).T
        known = variance > NOTHING**2
        ratios = np.abs(moved) / np.sqrt(np.where(known, variance, 1.0))
        largest.append(np.where(known, ratios, 0.0).max(axis=1))
    return np.concatenate(largest)
