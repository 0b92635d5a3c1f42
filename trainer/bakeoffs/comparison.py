"""What the runs of a bake-off show: cells with intervals, paired tests against the best, and a recommendation.

A cell is an objective on a regime of labels; a query counts with its mean over seeds. Intervals resample queries and,
where there are several, seeds, so that luck in either is in them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from trainer.bakeoffs.runner import UNTRAINED, RunResult
from trainer.retrieval.significance import (
    LEVEL,
    RESAMPLES,
    SEED,
    TELLING,
    Estimate,
    holm,
    permutation_p,
    queries_needed,
    show_p,
)

Values = list[NDArray[np.float64]]
"""Values of each collection, `[seeds, queries]`."""


@dataclass(frozen=True)
class Cell:
    """An objective on a regime of labels, or the untrained model."""

    regime: str
    objective: str
    seeds: int
    seconds: float
    """Of a run, on average."""
    values: Values
    mean: Estimate
    spread: float | None
    """Standard deviation of the mean over seeds; None with one seed."""

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return self.regime if self.regime == UNTRAINED else f"{self.objective} on {self.regime}"


@dataclass(frozen=True)
class Gap:
    """One cell minus another."""

    cell: Cell
    against: Cell
    mean: Estimate
    p_holm: float
    """Of a paired permutation test over queries, after Holm's correction for all gaps that are shown together."""

    @property
    def sure(self) -> bool:
        """Neither the queries nor the seeds explain it."""
        return self.p_holm <= LEVEL and (self.mean.low > 0 or self.mean.high < 0)


@dataclass(frozen=True)
class BakeoffVerdict:
    """What a bake-off shows for one measure."""

    measure: str
    cells: list[Cell]
    """The best first."""
    gaps: list[Gap]
    """The best trained cell against each other cell, in the same order."""
    queries: int

    @property
    def best(self) -> Cell:
        """The trained cell with the highest mean."""
        return next(cell for cell in self.cells if cell.regime != UNTRAINED)


def verdict(results: Sequence[RunResult], measure: str = "nDCG@10") -> BakeoffVerdict:
    """Compare all cells for which there are results."""
    cells = sorted(make_cells(results, measure), key=lambda cell: -cell.mean.mean)
    best = next(cell for cell in cells if cell.regime != UNTRAINED)
    gaps = _gaps([(best, cell) for cell in cells if cell is not best])
    return BakeoffVerdict(measure, cells, gaps, sum(values.shape[1] for values in best.values))


def make_cells(results: Sequence[RunResult], measure: str) -> Iterable[Cell]:
    """Runs that differ in their seed alone are one cell."""

    def of(result: RunResult) -> tuple[str, str]:
        return result.regime, result.objective

    for (regime, objective), each in groupby(sorted(results, key=of), key=of):
        runs = list(each)
        values = [
            np.array([list(run.values[data][measure].values()) for run in runs]) for data in sorted(runs[0].values)
        ]
        by_seed = np.mean([one.mean(axis=1) for one in values], axis=0)
        yield Cell(
            regime=regime,
            objective=objective,
            seeds=len(runs),
            seconds=float(np.mean([run.seconds for run in runs])),
            values=values,
            mean=_interval(values),
            spread=float(by_seed.std(ddof=1)) if len(runs) > 1 else None,
        )


def recommendation(found: BakeoffVerdict) -> list[str]:
    """What the numbers support, in words, and no more."""
    best, untrained = found.best, next((cell for cell in found.cells if cell.regime == UNTRAINED), None)
    words = [
        f"{best.name} has the highest {found.measure}, {_show(best.mean)}, over {best.seeds} "
        f"{'seed' if best.seeds == 1 else 'seeds'} and {found.queries:,} queries."
    ]
    gaps = {gap.against.name: gap for gap in found.gaps}
    if untrained is not None:
        gap = gaps[untrained.name]
        if not gap.sure:
            return [*words, f"It is not told apart from the untrained model ({_show_gap(gap)}): keep that one."]
        if gap.mean.mean < 0:
            return [*words, f"The untrained model is better ({_show_gap(gap)}): keep that one."]
        words.append(f"Against the untrained model that is {_show_gap(gap)}.")
    trained = [gap for gap in found.gaps if gap.against.regime != UNTRAINED]
    tied = [gap.against for gap in trained if not gap.sure]
    worse = [gap.against for gap in trained if gap.sure]
    if tied:
        fastest = min((best, *tied), key=lambda cell: cell.seconds)
        words.append(f"These are not told apart from it: {', '.join(cell.name for cell in tied)}.")
        words.append(f"Choose among them by cost: {fastest.name} took least time, {fastest.seconds:.0f} s a run.")
    if worse:
        words.append(f"These are worse: {', '.join(cell.name for cell in worse)}.")
    needed = queries_needed(np.concatenate(_differences(best, trained[0].against))) if trained else None
    if tied and needed is not None:
        words.append(
            f"To see a difference of {TELLING} between the two highest you need about {needed:,} queries; "
            f"these are {found.queries:,}."
        )
    if best.seeds == 1:
        words.append("With one seed the luck of a run is in no interval: repeat with more before you rely on it.")
    return words


def compare_regimes(found: BakeoffVerdict) -> list[Gap]:
    """The best regime against each other, all objectives counted alike; of regimes that have every objective."""
    regimes: dict[str, dict[str, Cell]] = {}
    for cell in found.cells:
        if cell.regime != UNTRAINED:
            regimes.setdefault(cell.regime, {})[cell.objective] = cell
    every = sorted({cell.objective for cell in found.cells if cell.regime != UNTRAINED})
    complete = {regime: cells for regime, cells in regimes.items() if len(cells) == len(every)}
    merged = [_merged(regime, [cells[name] for name in every]) for regime, cells in complete.items()]
    if len(merged) < 2:
        return []
    best, *others = sorted(merged, key=lambda cell: -cell.mean.mean)
    return _gaps([(best, other) for other in others])


def compare_objectives(found: BakeoffVerdict) -> list[Gap]:
    """On each regime its best objective against each other, where there are several regimes."""
    regimes: dict[str, list[Cell]] = {}
    for cell in found.cells:  # the best first
        if cell.regime != UNTRAINED:
            regimes.setdefault(cell.regime, []).append(cell)
    pairs = [(best, other) for best, *others in regimes.values() for other in others]
    return _gaps(pairs) if len(regimes) > 1 else []


def _gaps(pairs: Sequence[tuple[Cell, Cell]]) -> list[Gap]:
    """The first cell of each pair minus the second; their p-values are corrected together."""
    corrected = holm([permutation_p(_differences(one, other)) for one, other in pairs])
    return [
        Gap(one, other, _interval(one.values, other.values), p)
        for (one, other), p in zip(pairs, corrected, strict=True)
    ]


def _merged(regime: str, cells: Sequence[Cell]) -> Cell:
    """Objectives as further seeds of one cell."""
    values = [np.concatenate([cell.values[place] for cell in cells]) for place in range(len(cells[0].values))]
    seconds = float(np.mean([cell.seconds for cell in cells]))
    return Cell(regime, "mean of all objectives", cells[0].seeds, seconds, values, _interval(values), None)


def _differences(cell: Cell, other: Cell) -> Values:
    """`[queries]` of each collection, means over seeds."""
    return [mine.mean(axis=0) - others.mean(axis=0) for mine, others in zip(cell.values, other.values, strict=True)]


def _interval(values: Values, minus: Values | None = None) -> Estimate:
    """The mean over collections, queries and seeds, or its difference to another cell's, and the 95% interval.

    A resample draws queries, the same for both cells, and seeds, each cell's its own.
    """
    generator = np.random.default_rng(SEED)
    means = np.zeros(RESAMPLES)
    for place, mine in enumerate(values):
        for start in range(0, RESAMPLES, 250):
            queries = generator.integers(mine.shape[1], size=(250, mine.shape[1]))
            drawn = _resampled(mine, queries, generator)
            if minus is not None:
                drawn = drawn - _resampled(minus[place], queries, generator)
            means[start : start + 250] += drawn / len(values)
    low, high = np.percentile(means, (2.5, 97.5))
    centre = np.mean([one.mean() for one in values]) - (np.mean([one.mean() for one in minus]) if minus else 0.0)
    return Estimate(float(centre), float(low), float(high))


def _resampled(
    values: NDArray[np.float64], queries: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """[resamples]: means over drawn seeds of the drawn queries `[resamples, n]`."""
    counts = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=len(queries))
    by_seed = np.stack([row[queries].mean(axis=1) for row in values], axis=1)
    means: NDArray[np.float64] = (by_seed * counts).sum(axis=1) / len(values)
    return means


def _show(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _show_gap(gap: Gap) -> str:
    e = gap.mean
    return f"{e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}], {show_p(gap.p_holm)}"
