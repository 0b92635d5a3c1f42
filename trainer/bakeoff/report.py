"""The report of a bake-off: `README.md`, `report.html` with everything in it, `table.json`, and plots as PNG."""

import base64
import html
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from labelkit.errors import MissingPackageError
from labelkit.storage.atomic import write_text
from trainer.bakeoff.comparison import BakeoffVerdict, Gap, compare_objectives, compare_regimes, recommendation, verdict
from trainer.bakeoff.runner import UNTRAINED, RunResult
from trainer.retrieval.significance import LEVEL, show_p

MEASURES = ("nDCG@10", "RR@10", "AP@100", "R@100")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Content security policy of the page: it runs no script and loads nothing."""
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } td, th { padding: .3rem .6rem; text-align: left }
tr + tr { border-top: 1px solid #8884 } img { max-width: 100%; background: white; border-radius: 6px }
pre { overflow-x: auto }
"""


def load_plotting() -> Any:
    """matplotlib, drawing into files. Raises `MissingPackageError`."""
    try:
        import matplotlib
    except ImportError:
        raise MissingPackageError("matplotlib", "plots") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def write_report(output: Path, results: Sequence[RunResult], title: str, command: str) -> list[str]:
    """Write all files of the report into `output`; the words of the recommendation."""
    found = {measure: verdict(results, measure) for measure in MEASURES}
    first = found[MEASURES[0]]
    words = recommendation(first) + regime_words(first) + objective_words(first)
    rows = table_rows(found)
    images = {"means.png": _plot_means(first, output / "means.png")}
    if any(points for result in results for points in result.dev):
        images["dev.png"] = _plot_dev(results, output / "dev.png")
    facts = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    write_text(output / "table.json", json.dumps({"table": facts, "recommendation": words}, indent=2) + "\n")
    write_text(output / "README.md", _markdown(title, words, rows, images, command))
    write_text(output / "report.html", _page(title, words, rows, images, command))
    return words


def table_rows(found: dict[str, BakeoffVerdict]) -> list[list[str]]:
    """Header and a row a cell: means with intervals, and the gap of the best to it."""
    first = found[MEASURES[0]]
    gaps = {gap.against.name: gap for gap in first.gaps}
    rows = [["labels", "objective", *MEASURES, "best minus this", "after Holm", "spread over seeds", "s a run"]]
    for cell in first.cells:
        means = []
        for measure in MEASURES:
            mean = next(other.mean for other in found[measure].cells if other.name == cell.name)
            means.append(f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]")
        gap = gaps.get(cell.name)
        shown = f"{gap.mean.mean:+.3f} [{gap.mean.low:+.3f}, {gap.mean.high:+.3f}]" if gap else "best"
        spread = "" if cell.spread is None else f"{cell.spread:.3f}"
        p = show_p(gap.p_holm) if gap else ""
        rows.append([cell.regime, cell.objective, *means, shown, p, spread, f"{cell.seconds:.0f}"])
    return rows


def regime_words(found: BakeoffVerdict) -> list[str]:
    """The label regimes, all objectives together."""
    gaps = compare_regimes(found)
    if not gaps:
        return []
    best = gaps[0].cell
    words = [f"Over all objectives the labels '{best.regime}' have the highest mean, {best.mean.mean:.3f}:"]
    return words + [_gap_words(gap, gap.against.regime) for gap in gaps]


def objective_words(found: BakeoffVerdict) -> list[str]:
    """The objectives, on each regime of labels."""
    words = []
    for regime, each in groupby(compare_objectives(found), key=lambda gap: gap.cell.regime):
        gaps = list(each)
        best = gaps[0].cell
        words.append(f"On the labels '{regime}' {best.objective} has the highest mean, {best.mean.mean:.3f}:")
        words += [_gap_words(gap, gap.against.objective) for gap in gaps]
    return words


def _gap_words(gap: Gap, name: str) -> str:
    e = gap.mean
    seeds = ": the interval, which counts the luck of the seeds too, holds 0" if gap.p_holm <= LEVEL else ""
    told = "" if gap.sure else f", not told apart{seeds}"
    return f"- against '{name}' {e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}], {show_p(gap.p_holm)}{told}"


def _plot_means(found: BakeoffVerdict, path: Path) -> Path:
    """Every cell's mean and interval, a colour a regime."""
    plt = load_plotting()
    cells = [cell for cell in found.cells if cell.regime != UNTRAINED][::-1]
    regimes = sorted({cell.regime for cell in cells})
    figure, axes = plt.subplots(figsize=(8, 1 + 0.32 * len(cells)), layout="constrained")
    for place, cell in enumerate(cells):
        colour = f"C{regimes.index(cell.regime)}"
        axes.plot([cell.mean.low, cell.mean.high], [place, place], color=colour)
        axes.plot(cell.mean.mean, place, "o", color=colour, label=cell.regime)
    for cell in found.cells:
        if cell.regime == UNTRAINED:
            axes.axvline(cell.mean.mean, color="grey", linestyle=":", label=UNTRAINED)
    axes.set_yticks(range(len(cells)), [cell.objective for cell in cells])
    axes.set_xlabel(f"{found.measure}, 95% interval over queries and seeds")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_ylim(-0.6, len(cells) - 0.4)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _plot_dev(results: Sequence[RunResult], path: Path) -> Path:
    """The dev curve of every run; stages one after the other."""
    plt = load_plotting()
    regimes = sorted({result.regime for result in results if result.dev})
    figure, panels = plt.subplots(
        1, len(regimes), figsize=(4 * len(regimes), 3), sharey=True, squeeze=False, layout="constrained"
    )
    objectives = sorted({result.objective for result in results if result.dev})
    for result in results:
        if not result.dev:
            continue
        steps: list[float] = []
        for points in result.dev:
            start = steps[-1] if steps else 0.0
            steps += [start + point["step"] for point in points]
        values = [point["value"] for points in result.dev for point in points]
        colour = f"C{objectives.index(result.objective)}"
        panel = panels[0][regimes.index(result.regime)]
        panel.plot(steps, values, ".-", color=colour, alpha=0.7, label=result.objective if not result.seed else None)
        panel.set_title(result.regime, fontsize="small")
        panel.set_xlabel("step")
    panels[0][0].set_ylabel("nDCG@10 on dev")
    panels[0][0].legend(frameon=False, fontsize="x-small")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _markdown(title: str, words: Sequence[str], rows: list[list[str]], images: dict[str, Path], command: str) -> str:
    table = "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])
    shown = "\n".join(f"![{name}]({name})" for name in images)
    return "\n\n".join([f"# {title}", "\n".join(words), table, shown, f"Made by:\n\n    {command}", ""])


def _page(title: str, words: Sequence[str], rows: list[list[str]], images: dict[str, Path], command: str) -> str:
    """One page that needs no other file."""
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = [f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body]
    pictures = "\n".join(
        f'<p><img alt="{name}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"></p>'
        for name, path in images.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><body><h1>{html.escape(title)}</h1>\n"
        + "\n".join(f"<p>{html.escape(line)}</p>" for line in words)
        + "\n<table>\n"
        + "\n".join(lines)
        + f"\n</table>\n{pictures}\n<pre>{html.escape(command)}</pre></body></html>\n"
    )
