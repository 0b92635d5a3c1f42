"""The results of the study by cell, and tables of cells and of their differences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelkit.statistics.intervals import Estimate
from labelkit.statistics.paired import show_p
from labelkit.statistics.simultaneous import Difference, Repeats, cell_intervals, differences
from study.collections import Collection, read
from study.grid import FOLDS, RATES, SEEDS, Cell, Part, Run
from study.workers import Results

MEASURES = ("nDCG@10", "R@100", "AP@100")
LEAST_SEEDS = 2
Floats = NDArray[np.float64]
Contrast = tuple[str, dict[int, float]]
"""A difference in words, and the weight of each cell by its place."""


class Found(NamedTuple):
    """A cell that is complete."""

    cell: Cell
    seeds: tuple[int, ...]
    rate: float
    drift: float
    """Mean over runs, of the passages."""
    labels: dict[str, float]
    """Means over runs of what the judge's labels were like."""
    values: dict[str, dict[int, Floats]]
    """Measure -> seed -> values of the measured queries."""


class Study:
    """The results by cell."""

    def __init__(self, folder: Path, part: Part) -> None:
        self.part = part
        self.collections = {path.stem: read(path) for path in sorted((folder / "prepared").glob("*.zip"))}
        self.results = Results(folder / "results.jsonl")
        self.results.load(self.collections)
        self._found: dict[Cell, Found | None] = {}

    def of(self, cell: Cell) -> Found | None:
        """A cell with the seeds of which all folds are done; None with fewer than `LEAST_SEEDS`."""
        if cell not in self._found:
            self._found[cell] = self._collect(cell)
        return self._found[cell]

    def _collect(self, cell: Cell) -> Found | None:
        collection = self.collections[cell.collection]
        lines: dict[int, list[dict[str, Any]]] = {}
        untrained = cell.regime == "untrained"
        once = untrained and cell.start == "tuned"
        for seed in range(1 if once else SEEDS):
            runs = [Run(cell, fold, seed, 0.0 if untrained else None)
                    for fold in range(1 if untrained else FOLDS[cell.collection])]  # fmt: skip
            settled = [self.part.settled(run, self.results.dev) for run in runs]
            found = [self.results.lines.get(run.key) for run in settled if run is not None]
            whole = [line for line in found if line is not None]
            if len(whole) == len(runs):
                lines[seed] = whole
        if len(lines) < (1 if once else LEAST_SEEDS):
            return None
        every = [line for each in lines.values() for line in each]
        order = [query_id for part in collection.parts for query_id in part.measured]
        values = {
            name: {seed: _in_order(each, name, collection, order) for seed, each in lines.items()} for name in MEASURES
        }
        facts = every[0]["labels"]
        return Found(
            cell,
            tuple(lines),
            every[0]["rate"],
            float(np.mean([line["drift"]["passages"] for line in every])),
            {name: float(np.mean([line["labels"][name] for line in every])) for name in facts},
            values,
        )

    def missing(self) -> Iterator[str]:
        """Each block with the number of its runs that are not done."""
        for block in self.part.blocks:
            runs = list(block.runs())
            settled = [self.part.settled(run, self.results.dev) for run in runs]
            done = sum(run is not None and run.key in self.results.lines for run in settled)
            yield f"| {block.name} | {done} of {len(runs)} |"


def _in_order(lines: Sequence[Mapping[str, Any]], measure: str, collection: Collection, order: Sequence[str]) -> Floats:
    """Values of the queries, each from the fold that measured it: not from a fold in which it was for training."""
    values: dict[str, float] = {}
    if len(lines) == 1:
        values = dict(lines[0]["values"][measure])
    else:
        for part, line in zip(collection.parts, lines, strict=True):
            values |= {query_id: line["values"][measure][query_id] for query_id in part.measured}
    return np.array([values[query_id] for query_id in order])


class Family(NamedTuple):
    """Differences that are read side by side."""

    title: str
    cells: list[Found]
    names: list[str]
    contrasts: list[Contrast]
    """What is compared, and the weight of each cell."""


def cell_tables(study: Study) -> Iterator[str]:
    """Every complete cell with its means, by block."""
    for block in study.part.blocks:
        if len(block.rates) > 1:
            yield rate_table(study, block.cells, block.name)
            continue
        found = [one for cell in block.cells if (one := study.of(cell)) is not None]
        if not found:
            continue
        rows = [f"## Block {block.name}", "",
                "| cell | seeds | rate | precision | recall | AUC | drift | nDCG@10 | R@100 | AP@100 |",
                "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
        for one in found:
            means = [str(estimate(one, measure)) for measure in MEASURES]
            facts = [f"{one.labels[name]:.2f}" if one.labels else "" for name in ("precision", "recall", "auc")]
            rate = f"{one.rate:.0e}" if one.rate else ""
            rows.append(f"| {name_of(one.cell)} | {len(one.seeds)} | {rate} | {' | '.join(facts)} | {one.drift:.3f} | "
                        f"{' | '.join(means)} |")  # fmt: skip
        yield "\n".join(rows)


def rate_table(study: Study, cells: Sequence[Cell], name: str) -> str:
    """The dev results by learning rate."""
    head = " | ".join(f"{rate:.0e}" for rate in RATES)
    rows = [f"## Block {name}: nDCG@10 of the dev queries", "", f"| cell | {head} |", "|---|" + "---|" * len(RATES)]
    for cell in cells:
        values = [study.results.dev.get(Run(cell, 0, 0, rate).key) for rate in RATES]
        rows.append(f"| {name_of(cell)} | " + " | ".join("" if one is None else f"{one:.4f}" for one in values) + " |")
    return "\n".join(rows)


def estimate(found: Found, measure: str) -> Estimate:
    """Mean over seeds and queries with its own interval."""
    return cell_intervals([repeats(found, measure, found.seeds)])[0]


def repeats(found: Found, measure: str, seeds: Sequence[int]) -> Repeats:
    """The values of a cell for some seeds; a model that is not trained has none."""
    if found.seeds == (0,) and found.cell.regime == "untrained":
        return Repeats([found.values[measure][0][None]], seeded=False)
    return Repeats([np.stack([found.values[measure][seed] for seed in seeds])])


def compared(family: Family, measure: str = MEASURES[0]) -> list[Difference]:
    """The differences of a family, over the seeds that all of its cells have."""
    seeded = [set(one.seeds) for one in family.cells if one.cell.regime != "untrained" or one.cell.start == "reset"]
    seeds = sorted(set.intersection(*seeded))
    cells = [repeats(one, measure, seeds) for one in family.cells]
    weights = np.zeros((len(family.contrasts), len(cells)))
    for row, (_, each) in enumerate(family.contrasts):
        for place, weight in each.items():
            weights[row, place] = weight
    return differences(cells, weights)


def difference_table(family: Family) -> str:
    """The differences of a family in all measures; the first decides."""
    tables = [compared(family, measure) for measure in MEASURES]
    rows = [
        f"### {family.title}",
        "",
        f"| difference | {' | '.join(MEASURES)} | p of {MEASURES[0]} |",
        "|---|---|---|---|---|",
    ]
    for number, (name, _) in enumerate(family.contrasts):
        shown = [with_star(table[number].estimate) for table in tables]
        rows.append(f"| {name} | {' | '.join(shown)} | {show_p(tables[0][number].p)} |")
    return "\n".join(rows)


def with_star(found: Estimate) -> str:
    """An estimate, with a star where its interval excludes 0."""
    star = "*" if found.low is not None and found.high is not None and not found.low <= 0 <= found.high else ""
    return found.shown("+.3f") + star


def pairs(names: Sequence[str]) -> list[Contrast]:
    """All pairs, the first minus the second."""
    return [
        (f"{names[one]} - {names[other]}", {one: 1.0, other: -1.0})
        for one in range(len(names))
        for other in range(one + 1, len(names))
    ]


def against(names: Sequence[str], base: int) -> list[Contrast]:
    """Every cell minus one of them."""
    return [(f"{name} - {names[base]}", {place: 1.0, base: -1.0}) for place, name in enumerate(names) if place != base]


def family(study: Study, title: str, cells: Mapping[str, Cell], contrasts: Callable[[list[str]], Any]) -> Iterator[str]:
    """The table of a family, or which of its cells are missing."""
    found = {name: study.of(cell) for name, cell in cells.items()}
    lacking = [name for name, one in found.items() if one is None]
    if lacking:
        yield f"### {title}\n\nNot complete: {', '.join(lacking)}."
        return
    whole = [one for one in found.values() if one is not None]
    yield difference_table(Family(title, whole, list(found), contrasts(list(found))))


def name_of(cell: Cell) -> str:
    """A cell in words."""
    judge = f", {cell.kind}, precision {cell.precision:g}, {cell.positives:g} positives" if cell.positives else ""
    start = ", reset model" if cell.start == "reset" else ""
    what = cell.regime if cell.regime == "untrained" else f"{cell.objective}, {cell.regime}"
    return f"{cell.collection}, {what}{judge}{start}"
