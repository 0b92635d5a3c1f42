"""Write the report of a bake-off: `README.md`, a self-contained `report.html`, `table.json`, and charts as SVG."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from labelkit.statistics import charts
from labelkit.statistics.charts import Interval, curve, intervals
from labelkit.statistics.paired import show_p
from labelkit.storage.atomic import write_text
from labelkit.storage.foreign_text import markdown, markdown_indented
from trainer.bakeoffs.comparison import (
    BakeoffVerdict,
    Cell,
    Gap,
    cells_of,
    compare_objectives,
    recommendation,
    show_gap,
    verdict,
)
from trainer.bakeoffs.runner import UNTRAINED, RunResult

MEASURES = ("nDCG@10", "RR@10", "AP@100", "R@100")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
"""Content security policy of the page, which allows neither scripts nor external resources."""
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
    """Write all files of the report into `output`, and return the lines of the recommendation."""
    first = verdict(results, MEASURES[0])
    words = recommendation(first) + regime_words(first) + objective_words(first)
    rows = table_rows(first, {measure: cells_of(results, measure) for measure in MEASURES})
    means, dev = means_chart(first), dev_charts(results)
    images = {"means.svg": means} | {f"dev-{number}.svg": chart for number, chart in enumerate(dev.values(), 1)}
    for name, chart in images.items():
        write_text(output / name, charts.standalone(chart))
    facts = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    write_text(output / "table.json", json.dumps({"table": facts, "recommendation": words}, indent=2) + "\n")
    write_text(output / "README.md", _markdown(title, words, rows, images=images, command=command))
    write_text(output / "report.html", _page(title, words, rows, means=means, dev=dev, command=command))
    return words


def table_rows(found: BakeoffVerdict, measured: Mapping[str, Sequence[Cell]]) -> list[list[str]]:
    """Build the header and a row per cell: means with intervals, and the difference of the best cell minus this one."""
    means = {measure: {cell.name: cell.mean for cell in cells} for measure, cells in measured.items()}
    rows = [["labels", "objective", *means, "best minus this", "p, all pairs", "spread over seeds", "s per run"]]
    for cell in found.cells:
        gap = None if cell is found.best else found.gap(found.best, cell)
        rows.append(
            [
                cell.regime,
                cell.objective,
                *(str(of[cell.name]) for of in means.values()),
                gap.difference.shown("+.3f") if gap else "best",
                show_p(gap.p) if gap else "",
                "" if cell.spread is None else f"{cell.spread:.3f}",
                f"{cell.seconds:.0f}",
            ]
        )
    return rows


def regime_words(found: BakeoffVerdict) -> list[str]:
    """Describe the comparison of regimes of labels, averaged over objectives, as lines of text."""
    if not found.regime_gaps:
        return []
    best, mean = next(iter(found.regimes.items()))
    words = [f"Averaged over all objectives, the labels '{best}' have the highest mean, {mean:.3f}:"]
    return words + [_gap_words(gap, gap.against) for gap in found.regime_gaps]


def objective_words(found: BakeoffVerdict) -> list[str]:
    """Describe the comparison of objectives on each regime of labels, as lines of text."""
    words = []
    for regime, best, gaps in compare_objectives(found):
        words.append(f"On the labels '{regime}' {best.objective} has the highest mean, {best.mean.value:.3f}:")
        words += [_gap_words(gap, other.objective) for other, gap in gaps]
    return words


def _gap_words(gap: Gap, name: str) -> str:
    return f"- against '{name}' {show_gap(gap)}{'' if gap.sure else ', no significant difference'}"


def means_chart(found: BakeoffVerdict) -> Markup:
    """Draw the mean of every cell with its interval."""
    rows = [Interval(cell.name, *cell.mean) for cell in found.cells]
    ends = [end for cell in found.cells for end in cell.mean if end is not None]
    low, high = min(ends), max(ends)
    title = f"{found.measure}, 95% interval over queries and seeds"
    start = math.floor(low * 20) / 20
    return intervals(rows, start, max(math.ceil(high * 20) / 20, start + 0.05), title=title)


def dev_charts(results: Sequence[RunResult]) -> dict[str, Markup]:
    """Draw the dev measure by training step, a chart per regime, with a curve per objective averaged over seeds."""
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
        charts[regime] = curve(
            means, "step", "nDCG@10 on dev", title=f"Dev curve on the labels {regime}", diagonal=False
        )
    return charts


def dev_points(result: RunResult) -> Iterator[tuple[float, float]]:
    """Yield (step, value) of every dev measurement of a run; steps are counted across stages."""
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
    """Render the report as a page that needs no other file."""
    from jinja2 import Environment

    objectives = sorted({row[rows[0].index("objective")] for row in rows[1:]} - {UNTRAINED})
    return Environment(autoescape=True, trim_blocks=True).from_string(PAGE).render(
        title=title, words=words, head=rows[0], rows=rows[1:], means=means, dev=dev, command=command,
        objectives=objectives, policy=POLICY, style=STYLE, charts=charts.STYLE, colours=charts.COLOURS,
    )  # fmt: skip
