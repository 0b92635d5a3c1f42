"""Small charts as SVG. Colours are defined in `STYLE` and adapt to the reader's light or dark scheme.

A chart has the type `Markup`: a template inserts it unescaped, and escapes every plain string.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from markupsafe import Markup

COLOURS = 6
"""Number of line colours; the seventh line has the colour of the first."""
NAMES = ("blue", "orange", "green", "violet", "ochre", "teal")
LIGHT = ["#2166ac", "#c2571a", "#3a8f4d", "#8e4fa8", "#8a6d00", "#007f86"]
DARK = ["#6fb1e8", "#f0965a", "#7ccf8f", "#c79ade", "#d8bd4e", "#5fd0d6"]


def _colours(values: Sequence[str]) -> str:
    return " ".join(f"--s{number}: {value};" for number, value in enumerate(values))


STYLE = Markup(
    f""":root {{ --ink: #1c2430; --soft: #5b6675; --line: #d5dbe3; {_colours(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e3e8ef; --soft: #9aa6b5; --line: #37414e; {_colours(DARK)} }} }}
@media print {{ :root {{ --ink: #000; --soft: #444; --line: #bbb; {_colours(LIGHT)} }} }}
svg {{ max-width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--ink); }}
@media screen {{ .wide svg {{ max-width: none; }} }}
svg .small {{ font-size: 11px; fill: var(--soft); }} svg .middle {{ text-anchor: middle; }}
svg .end {{ text-anchor: end; }} svg .bar, svg .cell {{ fill: var(--s0); }} svg .cell + .small {{ fill: var(--ink); }}
svg .axis {{ fill: none; stroke: var(--line); }} svg .faint {{ stroke: var(--line); stroke-dasharray: 4 3; }}
svg .whisker {{ stroke: var(--s0); stroke-width: 2; }} svg .line {{ fill: none; stroke-width: 2; }}
"""
    + "\n".join(
        f"svg .line.s{n} {{ stroke: var(--s{n}); }} svg .dot.s{n} {{ fill: var(--s{n}); }} "
        f".key.s{n} {{ background: var(--s{n}); }}"
        for n in range(COLOURS)
    )
)
"""Style sheet for pages that show charts."""
WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 40
ROW = 24
"""Height of a cell of `grid`."""
STACKED = 36
"""Height of a row of `intervals`: a line of text above the interval."""


class Interval(NamedTuple):
    """A figure with its confidence interval, if it has one."""

    label: str
    value: float | None
    low: float | None
    high: float | None


def bars(labels: Sequence[str], values: Sequence[float], x_label: str, title: str) -> Markup:
    """Draw vertical bars with their counts above."""
    top = max([*values, 1])
    step = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    parts = []
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        height = (HEIGHT - TOP - BOTTOM - 12) * value / top
        x, y = LEFT + place * step, HEIGHT - BOTTOM - height
        middle = x + step / 2
        parts.append(f'<rect class="bar" x="{x + 2:.1f}" y="{y:.1f}" width="{step - 4:.1f}" height="{height:.1f}"/>')
        parts.append(text(middle, y - 4, f"{value:,.0f}", style="small middle"))
        parts.append(text(middle, HEIGHT - BOTTOM + 14, label, style="small middle"))
    return figure(
        axis() + "".join(parts) + text(x_middle(), HEIGHT - 6, x_label, style="middle"), title, WIDTH, height=HEIGHT
    )


Series = Mapping[str, Sequence[tuple[float, float]]]
"""Name of a line -> its points."""


def curve(series: Series, x_label: str, y_label: str, title: str, *, diagonal: bool) -> Markup:
    """Draw lines through points; with `diagonal`, both axes run from 0 to 1 and the diagonal is drawn."""
    points = [point for line in series.values() for point in line]
    xs, ys = [x for x, _ in points] or [0.0], [y for _, y in points] or [0.0]
    (x_low, x_high), (y_low, y_high) = ((0.0, 1.0), (0.0, 1.0)) if diagonal else (span(xs), span([*ys, 0.0]))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / (x_high - x_low),
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / (y_high - y_low),
        )

    parts = [axis()]
    if diagonal:
        (x1, y1), (x2, y2) = place(0, 0), place(1, 1)
        parts.append(f'<line class="faint" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    for number, (name, line) in enumerate(series.items()):
        spots = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(
            f'<polyline class="line s{number % COLOURS}" points="{path}"><title>{escape(name)}</title></polyline>'
        )
        parts += [f'<circle class="dot s{number % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in spots]
    for value in (x_low, x_high):
        parts.append(text(place(value, y_low)[0], HEIGHT - BOTTOM + 14, f"{value:.2g}", style="small middle"))
    for value in (y_low, y_high):
        parts.append(text(LEFT - 4, place(x_low, value)[1] + 4, f"{value:.2g}", style="small end"))
    parts.append(text(x_middle(), HEIGHT - 6, x_label, style="middle"))
    middle = (HEIGHT - BOTTOM + TOP) / 2
    parts.append(f'<text class="middle" transform="translate(12 {middle:.0f}) rotate(-90)">{escape(y_label)}</text>')
    return figure("".join(parts), title, WIDTH, height=HEIGHT)


def intervals(rows: Sequence[Interval], low: float, high: float, title: str) -> Markup:
    """Draw one dot with its interval per row, on a common scale from `low` to `high`; values outside are clipped.

    Name and figures stand above the interval, so that the chart is narrow and its text can be read on a phone.
    """
    said = ["undefined" if row.value is None else in_brackets(row) for row in rows]
    longest = max((len(row.label) + len(words) for row, words in zip(rows, said, strict=True)), default=0)
    width, height = max(WIDTH, 20 + 6.6 * longest), STACKED * len(rows) + 22

    def x_of(value: float) -> float:
        return 12 + (width - 24) * (min(max(value, low), high) - low) / (high - low)

    parts = []
    for number, (row, words) in enumerate(zip(rows, said, strict=True)):
        top = STACKED * number
        parts += [text(4, top + 14, row.label, style=""), text(width - 4, top + 14, words, style="small end")]
        if row.value is None:
            continue
        y = top + 26
        if low < 0 < high:
            parts.append(f'<line class="faint" x1="{x_of(0):.1f}" y1="{y - 8}" x2="{x_of(0):.1f}" y2="{y + 8}"/>')
        if row.low is not None and row.high is not None:
            parts.append(
                f'<line class="whisker" x1="{x_of(row.low):.1f}" y1="{y}" x2="{x_of(row.high):.1f}" y2="{y}"/>'
            )
        parts.append(f'<circle class="dot s0" cx="{x_of(row.value):.1f}" cy="{y}" r="4"/>')
    parts += [text(x_of(value), height - 6, f"{value:g}", style="small middle") for value in (low, high)]
    return figure("".join(parts), title, width, height=height)


def in_brackets(row: Interval) -> str:
    """Format a figure with its interval."""
    return f"{row.value:.2f}" if row.low is None else f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]"


Cells = Sequence[Sequence[float | None]]
"""Values by row and column; None is an empty cell."""


def grid(rows: Sequence[str], columns: Sequence[str], cells: Cells, title: str, form: str) -> Markup:
    """Draw a table of shaded cells. The shade is the value for the form `share`, and the share of the row for `count`.

    Names of columns may have several lines.
    """
    label_width = 12 + 6.6 * max(map(len, rows), default=1)
    parts = []
    heads = [name.split("\n") for name in columns]
    cell_width = max(58.0, 14 + 6.2 * max((len(one) for head in heads for one in head), default=1))
    top = 14 * max(map(len, heads), default=1)
    width, height = label_width + cell_width * len(columns) + 8, top + ROW * len(rows) + 12
    for place, head in enumerate(heads):
        x = label_width + cell_width * (place + 0.5)
        parts += [text(x, 12 + 14 * number, one, style="small middle") for number, one in enumerate(head)]
    for line, (name, values) in enumerate(zip(rows, cells, strict=True)):
        y = top + 4 + ROW * line
        parts.append(text(label_width - 8, y + 16, name, style="small end"))
        known = [value for value in values if value is not None]
        whole = max(1.0, sum(known)) if form == "count" else 1.0
        for place, value in enumerate(values):
            x = label_width + cell_width * place
            if value is not None:
                parts.append(
                    f'<rect class="cell" x="{x + 1:.1f}" y="{y + 1}" width="{cell_width - 2:.1f}" height="{ROW - 2}" '
                    f'fill-opacity="{min(1.0, value / whole) * 0.5:.2f}"/>'
                )
            said = "–" if value is None else f"{value:,.0f}" if form == "count" else f"{value:.0%}"
            parts.append(text(x + cell_width / 2, y + 16, said, style="small middle"))
    return figure("".join(parts), title, width, height=height)


def span(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis for some values."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def axis() -> str:
    """Draw the two axes of a chart."""
    base = HEIGHT - BOTTOM
    return f'<path class="axis" d="M{LEFT} {TOP}V{base}H{WIDTH - RIGHT}"/>'


def x_middle() -> float:
    return (LEFT + WIDTH - RIGHT) / 2


def text(x: float, y: float, said: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(said)}</text>'


def figure(body: str, title: str, width: float, height: float) -> Markup:
    """Wrap a body as a chart that scales with the page and whose title screen readers read out."""
    return Markup(
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def standalone(chart: Markup) -> str:
    """Convert a chart to the content of a separate SVG file."""
    head, _, rest = str(chart).partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>{rest}\n'
