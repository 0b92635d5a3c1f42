"""The table of a recipe: its measurements beside the published figures."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from recipes import Recipe

UNTRAINED = ("untrained", "")
Cell = tuple[str, str]
"""Regime of labels and objective."""


def table_of(recipe: Recipe, bakeoff: Path) -> str:
    """Write the table as Markdown, in percent: a row for each regime and objective, and the published figures.

    A published figure whose objective is not known has a row of its own.
    """
    measured, seeds = read_cells(bakeoff / "results", recipe.measure)
    published = {(one.labels, one.objective): one.value for one in recipe.published}
    of = f", mean of {len(groups(recipe.measured))} collections" if len(recipe.measured) > 1 else ""
    rows = [f"| labels | objective | {recipe.measure} here{of} | published |", "|---|---|---|---|"]
    for cell in dict.fromkeys((*measured, *published)):
        ours = f"{100 * measured[cell]:.1f}" if cell in measured else ""
        theirs = f"{published[cell]:.1f}" if cell in published else ""
        rows.append(f"| {cell[0]} | {cell[1] or ('' if cell == UNTRAINED else 'not named')} | {ours} | {theirs} |")
    return "\n".join([*rows, "", f"Percent; mean of {seeds} {'seed' if seeds == 1 else 'seeds'}. {recipe.origin}", ""])


def read_cells(results: Path, measure: str) -> tuple[dict[Cell, float], int]:
    """Return the mean of a measure for each cell over seeds and collections, and the number of seeds.

    The order is that of the runs: seed by seed, regime by regime.
    """
    values: dict[Cell, list[float]] = {}
    paths = sorted(results.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in paths:
        run = json.loads(path.read_text(encoding="utf-8"))["result"]
        means = {name: mean(of[measure].values()) for name, of in run["values"].items()}
        values.setdefault((run["regime"], run["objective"]), []).append(average(means))
    return {cell: mean(each) for cell, each in values.items()}, max(map(len, values.values()))


def average(means: Mapping[str, float]) -> float:
    """Average over collections as BEIR does: the forums of CQADupStack count as one."""
    return mean(mean(means[name] for name in names) for names in groups(means).values())


def groups(names: Mapping[str, float] | tuple[str, ...]) -> dict[str, list[str]]:
    """Group the names of collections by the collection that they are a part of."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault("cqadupstack" if name.startswith("cqadupstack-") else name, []).append(name)
    return found
