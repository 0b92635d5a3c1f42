"""Compare the runs of a bake-off: means of cells, simultaneous confidence intervals of differences, a recommendation.

A cell is an objective on a regime of labels; the value of a query is its mean over seeds. All pairs of cells and all
pairs of regimes form one family of simultaneous intervals and p-values, which include the variance of queries and of
seeds (`labelkit.statistics.simultaneous`). They remain valid if the best cell is chosen after seeing the results.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

import numpy as np

from labelkit.statistics.intervals import Estimate, few_queries
from labelkit.statistics.paired import ALPHA, TELLING, queries_needed, show_p
from labelkit.statistics.simultaneous import Floats, Repeats, Values, cell_intervals, differences
from trainer.bakeoffs.runner import UNTRAINED, RunResult


@dataclass(frozen=True)
class Cell:
    """An objective on a regime of labels, or the untrained model."""

    regime: str
    objective: str
    seeds: int
    seconds: float
    """Mean training time of a run."""
    values: Values
    """Values of the measure, `[seeds, queries]` for each collection."""
    mean: Estimate
    """Mean over collections, with its 95% confidence interval over queries and seeds."""
    spread: float | None
    """Standard deviation of the mean over seeds; None with one seed."""

    @property
    def name(self) -> str:
        """Displayed name."""
        return self.regime if self.regime == UNTRAINED else f"{self.objective} on {self.regime}"


@dataclass(frozen=True)
class Gap:
    """The difference of one cell, or regime of labels, minus another."""

    name: str
    against: str
    difference: Estimate
    """Difference with its simultaneous 95% confidence interval."""
    p: float
    """p-value, corrected for all pairs of cells and regimes; at most 5% exactly if the interval does not contain 0."""

    @property
    def sure(self) -> bool:
        """True for a significant difference, after correction for all pairs."""
        return self.p <= ALPHA

    @property
    def turned(self) -> "Gap":
        """The same difference with the opposite sign."""
        value, low, high = (None if end is None else -end for end in self.difference)
        return Gap(self.against, self.name, Estimate(value, high, low), p=self.p)


@dataclass(frozen=True)
class BakeoffVerdict:
    """The comparison of all cells and regimes of a bake-off in one measure."""

    measure: str
    cells: list[Cell]
    """All cells, best first."""
    pairs: dict[tuple[str, str], Gap]
    """Names of two cells, the better first -> their difference."""
    regimes: dict[str, float]
    """Regime with results for every objective -> mean over objectives, best first; empty for fewer than two regimes."""
    regime_gaps: list[Gap]
    """Differences of the best regime minus each other regime."""
    queries: int
    """Number of evaluation queries of all collections."""

    @property
    def best(self) -> Cell:
        """The trained cell with the highest mean."""
        return next(cell for cell in self.cells if cell.regime != UNTRAINED)

    @property
    def gaps(self) -> list[Gap]:
        """The differences of the best trained cell minus each other cell, ordered by the mean of the other cell."""
        return [self.gap(self.best, cell) for cell in self.cells if cell is not self.best]

    def gap(self, cell: Cell, other: Cell) -> Gap:
        """Return the difference of one cell minus another."""
        found = self.pairs.get((cell.name, other.name))
        return found if found else self.pairs[other.name, cell.name].turned


def verdict(results: Sequence[RunResult], measure: str = "nDCG@10") -> BakeoffVerdict:
    """Compare all cells with results, and all regimes with results for every objective, in one measure."""
    cells = cells_of(results, measure)
    regimes = regime_weights(cells)
    of_cells = {cell.name: weight for cell, weight in zip(cells, np.eye(len(cells)), strict=True)}
    pairs = [*combinations(of_cells, 2), *combinations(regimes, 2)]
    weights = [part[one] - part[other] for part in (of_cells, regimes) for one, other in combinations(part, 2)]
    found = differences([repeats(cell) for cell in cells], np.array(weights)) if weights else []
    gaps = [Gap(*names, *difference) for names, difference in zip(pairs, found, strict=True)]
    of_regimes = gaps[len(gaps) - math.comb(len(regimes), 2) :]
    means = np.array([cell.mean.value for cell in cells])
    return BakeoffVerdict(
        measure=measure,
        cells=cells,
        pairs={(gap.name, gap.against): gap for gap in gaps[: len(gaps) - len(of_regimes)]},
        regimes={regime: float(weight @ means) for regime, weight in regimes.items()},
        regime_gaps=[gap for gap in of_regimes if gap.name == next(iter(regimes))],
        queries=sum(values.shape[1] for values in cells[0].values),
    )


def cells_of(results: Sequence[RunResult], measure: str) -> list[Cell]:
    """Group runs that differ only in their seed into cells, best first."""

    def of(result: RunResult) -> tuple[str, str]:
        return result.regime, result.objective

    groups = [list(each) for _, each in groupby(sorted(results, key=of), key=of)]
    values = [
        [np.array([list(run.values[data][measure].values()) for run in runs]) for data in sorted(runs[0].values)]
        for runs in groups
    ]
    means = cell_intervals(
        [Repeats(each, runs[0].regime != UNTRAINED) for runs, each in zip(groups, values, strict=True)]
    )
    cells = [
        Cell(
            regime=runs[0].regime,
            objective=runs[0].objective,
            seeds=len(runs),
            seconds=float(np.mean([run.seconds for run in runs])),
            values=each,
            mean=mean,
            spread=float(np.mean([one.mean(axis=1) for one in each], axis=0).std(ddof=1)) if len(runs) > 1 else None,
        )
        for runs, each, mean in zip(groups, values, means, strict=True)
    ]
    return sorted(cells, key=lambda cell: -(cell.mean.value or 0.0))


def repeats(cell: Cell) -> Repeats:
    """Convert a cell to the input of `labelkit.statistics.simultaneous`."""
    return Repeats(cell.values, cell.regime != UNTRAINED)


def regime_weights(cells: Sequence[Cell]) -> dict[str, Floats]:
    """Compute the weights `[cells]` of the mean over objectives, for each regime with results for every objective.

    Regimes are ordered best first; fewer than two of them give an empty dict.
    """
    trained = [cell for cell in cells if cell.regime != UNTRAINED]
    every = {cell.objective for cell in trained}
    found = {}
    for regime in dict.fromkeys(cell.regime for cell in trained):
        mine = np.array([float(cell.regime == regime) for cell in cells])
        if mine.sum() == len(every):
            found[regime] = mine / len(every)
    means = np.array([cell.mean.value for cell in cells])
    best_first = sorted(found, key=lambda regime: -float(found[regime] @ means))
    return {regime: found[regime] for regime in best_first} if len(found) > 1 else {}


def compare_objectives(found: BakeoffVerdict) -> Iterator[tuple[str, Cell, list[tuple[Cell, Gap]]]]:
    """Yield each regime, its best cell, and its other cells with the differences of the best cell minus each of them.

    Yields nothing for a single regime or a single objective.
    """
    regimes: dict[str, list[Cell]] = {}
    for cell in found.cells:  # best first
        if cell.regime != UNTRAINED:
            regimes.setdefault(cell.regime, []).append(cell)
    for regime, (best, *others) in regimes.items():
        if len(regimes) > 1 and others:
            yield regime, best, [(other, found.gap(best, other)) for other in others]


def recommendation(found: BakeoffVerdict) -> list[str]:
    """Write the recommendation that the comparison supports, as lines of text."""
    best, untrained = found.best, next((cell for cell in found.cells if cell.regime == UNTRAINED), None)
    words = [
        f"{best.name} has the highest {found.measure}, {best.mean}, over {best.seeds} "
        f"{'seed' if best.seeds == 1 else 'seeds'} and {found.queries:,} queries."
    ]
    if warning := few_queries(found.queries):
        words.append(f"{warning}.")
    if untrained is not None:
        gap = found.gap(best, untrained)
        if not gap.sure:
            return [*words, f"No significant difference from the untrained model ({show_gap(gap)}): keep that model."]
        if (gap.difference.value or 0.0) < 0:
            return [*words, f"The untrained model is better ({show_gap(gap)}): keep it."]
        words.append(f"The difference from the untrained model is {show_gap(gap)}.")
    others = [cell for cell in found.cells if cell is not best and cell.regime != UNTRAINED]
    worse = [cell for cell in others if found.gap(best, cell).sure]
    tied = [cell for cell in others if cell not in worse]
    if tied:
        fastest = min((best, *tied), key=lambda cell: cell.seconds)
        words.append(f"No significant difference from {best.name}: {', '.join(cell.name for cell in tied)}.")
        words.append(f"Choose among them by cost: {fastest.name} took least time, {fastest.seconds:.0f} s per run.")
    if worse:
        words.append(f"Significantly worse than {best.name}: {', '.join(cell.name for cell in worse)}.")
    if others:
        words.append("Intervals and p-values of differences are corrected for all pairs and for choosing the best.")
    needed = queries_needed(np.concatenate(query_differences(best, others[0]))) if tied else None
    if needed is not None:
        words.append(
            f"To detect a difference of {TELLING} between the two highest you need {needed}; this evaluation has "
            f"{found.queries:,}."
        )
    if best.seeds == 1:
        words.append("With one seed, intervals do not include the variance of seeds: use more seeds before you decide.")
    return words


def query_differences(cell: Cell, other: Cell) -> list[Floats]:
    """Compute the differences of means over seeds, `[queries]` per collection, minus the collection's mean."""
    apart = [mine.mean(axis=0) - others.mean(axis=0) for mine, others in zip(cell.values, other.values, strict=True)]
    return [one - one.mean() for one in apart]


def show_gap(gap: Gap) -> str:
    """Format a difference with its interval and p-value."""
    return f"{gap.difference.shown('+.3f')}, {show_p(gap.p)}"
