"""The report of a bake-off: `README.md`, `report.html` with everything in it, `table.json`, and charts as SVG."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from labelkit.statistics import charts
from labelkit.statistics.charts import Interval, curve, intervals
from labelkit.storage.atomic import write_text
from labelkit.storage.foreign_text import markdown, markdown_indented
from trainer.bakeoffs.comparison import (
    BakeoffVerdict,
    Gap,
    compare_objectives,
    compare_regimes,
    recommendation,
    verdict,
)
from trainer.bakeoffs.runner import UNTRAINED, RunResult
from trainer.retrieval.significance import LEVEL, show_p

MEASURES = ("nDCG@10", "RR@10", "AP@100", "R@100")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Content security policy of the page: it runs no script and loads nothing."""
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } td, th { padding: .3rem .6rem; text-align: left }
tr + tr { border-top: 1px solid #8884 } pre { overflow-x: auto }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 50% }
"""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}"><title>{{ title }}</title>
<style>{{ charts }}{{ style }}</style><body><h1>{{ title }}</h1>
{% for line in words %}<p>{{ line }}</p>
{% endfor %}
<table><tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{{ means }}
{% for regime, chart in dev.items() %}<h2>{{ regime }}</h2>{{ chart }}
{% endfor %}
{% if dev %}<p>{% for name in objectives %}<span class="key s{{ loop.index0 % colours }}"></span> {{ name }}
{% endfor %}</p>{% endif %}
<pre>{{ command }}</pre></body></html>
"""


def write_report(output: Path, results: Sequence[RunResult], title: str, *, command: str) -> list[str]:
    """Write all files of the report into `output`; the words of the recommendation."""
    found = {measure: verdict(results, measure) for measure in MEASURES}
    first = found[MEASURES[0]]
    words = recommendation(first) + regime_words(first) + objective_words(first)
    rows = table_rows(found)
    means, dev = means_chart(first), dev_charts(results)
    images = {"means.svg": means} | {f"dev-{number}.svg": chart for number, chart in enumerate(dev.values(), 1)}
    for name, chart in images.items():
        write_text(output / name, charts.standalone(chart))
    facts = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    write_text(output / "table.json", json.dumps({"table": facts, "recommendation": words}, indent=2) + "\n")
    write_text(output / "README.md", _markdown(title, words, rows, images, command))
    write_text(output / "report.html", _page(title, words, rows, means, dev, command))
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


def means_chart(found: BakeoffVerdict) -> Markup:
    """The mean of every cell with its interval."""
    rows = [Interval(cell.name, cell.mean.mean, cell.mean.low, cell.mean.high) for cell in found.cells]
    low, high = min(cell.mean.low for cell in found.cells), max(cell.mean.high for cell in found.cells)
    title = f"{found.measure}, 95% interval over queries and seeds"
    start = math.floor(low * 20) / 20
    return intervals(rows, start, max(math.ceil(high * 20) / 20, start + 0.05), title)


def dev_charts(results: Sequence[RunResult]) -> dict[str, Markup]:
    """Regime -> the dev measure by training step, a line for each objective: the mean over its seeds."""
    charts = {}
    for regime in sorted({result.regime for result in results if result.dev}):
        lines: dict[str, dict[float, list[float]]] = {}
        for result in results:
            if result.regime == regime:
                for step, value in dev_points(result):
                    lines.setdefault(result.objective, {}).setdefault(step, []).append(value)
        means = {
            objective: [(step, sum(values) / len(values)) for step, values in sorted(points.items())]
            for objective, points in sorted(lines.items())
        }
        charts[regime] = curve(means, "step", "nDCG@10 on dev", f"Dev curve on the labels {regime}", diagonal=False)
    return charts


def dev_points(result: RunResult) -> Iterator[tuple[float, float]]:
    """(step, value) of every dev measurement of a run; the steps of a later stage follow those of the one before."""
    start = 0.0
    for points in result.dev:
        for point in points:
            yield start + point["step"], point["value"]
        start += points[-1]["step"] if points else 0.0


def _markdown(title: str, words: Sequence[str], rows: list[list[str]], images: Iterable[str], command: str) -> str:
    cells = [[str(markdown(cell)) for cell in row] for row in rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [cells[0], ["---"] * len(cells[0]), *cells[1:]])
    items = (f"- {markdown(line[2:])}" if line.startswith("- ") else markdown(line) for line in words)
    shown = "\n".join(f"![{name}]({name})" for name in images)
    made_by = f"Made by:\n\n{markdown_indented(command)}"
    return "\n\n".join([f"# {markdown(title)}", "\n".join(items), table, shown, made_by, ""])


def _page(
    title: str, words: Sequence[str], rows: list[list[str]], means: Markup, dev: Mapping[str, Markup], command: str
) -> str:
    """One page that needs no other file."""
    from jinja2 import Environment

    objectives = sorted({row[rows[0].index("objective")] for row in rows[1:]} - {UNTRAINED})
    return Environment(autoescape=True, trim_blocks=True).from_string(PAGE).render(
        title=title, words=words, head=rows[0], rows=rows[1:], means=means, dev=dev, command=command,
        objectives=objectives, policy=POLICY, style=STYLE, charts=charts.STYLE, colours=charts.COLOURS,
    )  # fmt: skip
