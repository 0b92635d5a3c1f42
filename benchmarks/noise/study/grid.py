"""The runs of the study, in the order of the design."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from study.judges import Kind

Regime = Literal["untrained", "llm", "merged", "curriculum", "single", "few", "few short", "few + llm", "all human"]
Start = Literal["tuned", "reset"]
RATES = (1e-5, 2e-5, 5e-5, 1e-4)
SEEDS = 3
STEPS = 64
FIVE = ("singlelh", "rand1lh", "jointlh", "summarglh", "lsepair")
ROBUST = ("rand1lh", "summarglh", "lsepair")
SAYING_MORE = ("lsepair+distil", "lsepair-graded", "jointlh-gain", "bixse")
"""Objectives that read probabilities or grades."""
HUMAN_ALONE = ("single", "few", "few short", "all human")
"""Regimes without a judge."""
LEVELS = (0.3, 0.5, 0.7, 0.85, 1.0)
"""Precision of the judges of the break-even curve."""
MANY = {"cranfield": 7.0, "cisi": 10.0, "cacm": 10.0, "scifact": 3.0}
FOLDS = {"cranfield": 2, "cisi": 2, "cacm": 2, "scifact": 1}


@dataclass(frozen=True)
class Cell:
    """One way to train on one collection. Its runs differ in fold and seed."""

    collection: str
    regime: Regime
    objective: str = "lsepair"
    kind: Kind = "near"
    precision: float = 1.0
    positives: float = 0.0
    """Per query, of the judge; 0 without a judge."""
    start: Start = "tuned"


@dataclass(frozen=True)
class Run:
    """A cell, a fold, a seed and a learning rate."""

    cell: Cell
    fold: int
    seed: int
    rate: float | None
    """None: the rate that block 1 chose for the objective."""

    @property
    def key(self) -> str:
        """The name of the run in the results."""
        cell = self.cell
        judge = f"{cell.kind} {cell.precision:g} {cell.positives:g}" if cell.positives else "no judge"
        parts = (cell.collection, cell.start, cell.regime, cell.objective, judge)
        return " | ".join([*parts, f"fold {self.fold}", f"seed {self.seed}", f"rate {self.rate:g}"])


@dataclass(frozen=True)
class Block:
    """Runs that belong together."""

    name: str
    cells: tuple[Cell, ...]
    seeds: int = SEEDS
    rates: tuple[float | None, ...] = (None,)
    folds: int | None = None
    """Only the first folds; None for all."""

    def runs(self) -> Iterator[Run]:
        """The runs, seed by seed."""
        for seed, cell in product(range(self.seeds), self.cells):
            for fold, rate in product(range(self.folds or FOLDS[cell.collection]), self.rates):
                if cell.regime == "untrained" and (fold or (seed and cell.start == "tuned")):
                    continue
                yield Run(cell, fold, seed, 0.0 if cell.regime == "untrained" else rate)


def judged(collection: str, objective: str, precision: float, *, regime: Regime = "llm") -> Cell:
    """Near misses and many positives per query."""
    return Cell(collection, regime, objective, "near", precision, MANY[collection])


def break_even(collection: str) -> tuple[Cell, ...]:
    """Human-few, the judges between, all human. SciFact gets one positive per query."""
    count = 1.0 if collection == "scifact" else MANY[collection]
    judges = [Cell(collection, "few + llm", precision=level, positives=count) for level in LEVELS]
    return Cell(collection, "few"), Cell(collection, "few short"), *judges, Cell(collection, "all human")


def rates(objectives: Sequence[str], start: Start = "tuned") -> tuple[Cell, ...]:
    """The cells on which learning rates are chosen."""
    pairs = product(objectives, (("cranfield", 0.7), ("scifact", 0.3)))
    return tuple(replace(judged(name, objective, precision), start=start) for objective, (name, precision) in pairs)


def noisy(objectives: Sequence[str], *precisions: float) -> tuple[Cell, ...]:
    """Objectives on Cranfield at some precisions and on SciFact at 0.3."""
    of_cranfield = [
        judged("cranfield", objective, precision) for precision, objective in product(precisions, objectives)
    ]
    return *of_cranfield, *(judged("scifact", objective, 0.3) for objective in objectives)


def reset(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The same cells from the model whose last layers were reset."""
    return tuple(replace(cell, start="reset") for cell in cells)


HUMAN_RATES = tuple(Cell(name, regime) for regime in ("few", "all human") for name in ("cranfield", "scifact"))
REGIMES = (
    *(
        judged("cranfield", objective, 0.7, regime=regime)
        for regime in ("merged", "curriculum")
        for objective in ROBUST
    ),
    *(Cell("cranfield", "all human", objective) for objective in ROBUST),
    Cell("cranfield", "single"),
)
BLOCKS = (
    Block("0 untrained", tuple(Cell(name, "untrained") for name in FOLDS), seeds=1),
    Block("1 rates", (*rates(FIVE), *HUMAN_RATES), seeds=1, rates=RATES, folds=1),
    Block("2 break-even", (*break_even("scifact"), *break_even("cranfield"))),
    Block("3 objectives", noisy(FIVE, 0.3, 0.7, 1.0)),
    Block("4 regimes", REGIMES),
    Block("5 rates of labels that say more", rates(SAYING_MORE), seeds=1, rates=RATES, folds=1),
    Block("5 labels that say more", noisy(SAYING_MORE, 0.3, 0.7)),
    Block("6 uniform noise", tuple(
        Cell("cranfield", "llm", objective, "uniform", precision, MANY["cranfield"])
        for precision, objective in product((0.3, 0.7), FIVE)
    )),
    Block("7 few positives", tuple(
        Cell("cranfield", "llm", objective, "near", precision, 3.0)
        for precision, objective in product((0.3, 0.7, 1.0), FIVE)
    )),
    Block("8 untrained reset model", (Cell("cranfield", "untrained", start="reset"),
                                      Cell("scifact", "untrained", start="reset"))),
    Block("8 rates of the reset model", rates(FIVE, "reset"), seeds=1, rates=RATES, folds=1),
    Block("8 reset model", reset(noisy(FIVE, 0.3, 1.0))),
    Block("9 collections", tuple(
        judged(name, objective, precision)
        for precision, name, objective in product((0.3, 0.7, 1.0), ("cisi", "cacm"), FIVE)
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """The runs for one kind of machine."""

    blocks: tuple[Block, ...]
    steps: int
    rate: float | None
    """Learning rate of every run; None: block 1 chooses it for each objective."""

    def settled(self, run: Run, dev: Mapping[str, float]) -> Run | None:
        """A run with its learning rate; None while that is not chosen. `dev` is that of `chosen_rate`."""
        rate = next((one for one in (run.rate, self.rate, chosen_rate(run.cell, dev)) if one is not None), None)
        return None if rate is None else replace(run, rate=rate)


PARTS = {
    "whole": Part(BLOCKS, STEPS, rate=None),
    "cpu": Part(
        (
            Block("untrained", (Cell("scifact", "untrained"), Cell("cranfield", "untrained")), seeds=1),
            Block("break-even on SciFact", break_even("scifact"), seeds=2),
            Block("break-even on Cranfield", break_even("cranfield"), seeds=2),
            Block("third seed on SciFact", break_even("scifact")),
            Block("third seed on Cranfield", break_even("cranfield")),
        ),
        32,
        rate=2e-5,
    ),
}
"""Name in the command line -> runs: all, or the part for a CPU."""


def rate_cells(cell: Cell) -> tuple[Cell, ...]:
    """The cells whose dev results choose the learning rate of a cell."""
    if cell.regime in ("few", "few short"):
        return tuple(one for one in HUMAN_RATES if one.regime == "few")
    if cell.regime in ("all human", "single") and cell.objective == "lsepair":
        return tuple(one for one in HUMAN_RATES if one.regime == "all human")
    return rates([cell.objective], cell.start)


def chosen_rate(cell: Cell, dev: Mapping[str, float]) -> float | None:
    """The learning rate with the best mean over the dev queries of both collections; None while a run is missing.

    `dev` has the mean nDCG@10 over the dev queries by the key of a run. Of equal rates the lower one is chosen.
    """
    means = {}
    for rate in RATES:
        keys = [Run(one, 0, 0, rate).key for one in rate_cells(cell)]
        if any(key not in dev for key in keys):
            return None
        means[rate] = sum(dev[key] for key in keys) / len(keys)
    return max(RATES, key=lambda rate: (means[rate], -rate))
