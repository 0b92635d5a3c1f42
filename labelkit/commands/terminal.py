"""A console for tables and progress bars that obeys no control sequence in texts from outside, and that breaks no
number of a table.
"""

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from labelkit.storage.credentials import blot, secret_forms
from labelkit.storage.foreign_text import without_controls

FIGURE = re.compile(r"[+-]?[0-9]")
"""Matches the beginning of a number."""
ESTIMATE = re.compile(r"[0-9] \[[+-]?[0-9]")
"""Matches a figure with an interval."""
WORD = re.compile(r"\S*[0-9] \[[^\]\n]*\]\S*|\S+")
"""Matches a word, or a figure with its interval."""
WIDEST = 100_000
"""Width at which no table is too wide."""
LONGEST_FIGURE = 48
"""Most characters of a cell with figures, which is not broken into lines; a longer cell is a text."""


def in_lines(text: str, width: int) -> str:
    """Break a text into lines of at most `width` characters between words, and nowhere inside an interval."""
    lines = [""]
    for word in WORD.findall(text):
        joined = f"{lines[-1]} {word}".strip()
        if len(joined) > width:
            lines.append(word)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def stacked(table: Table) -> RenderableType:
    """Return the content of a table as one list per row: the first cell, and below it each other cell with the name of
    its column. Empty cells are left out.
    """
    names, *columns = (list(column.cells) for column in table.columns)
    parts: list[RenderableType] = [table.title] if table.title else []
    for number, name in enumerate(names):
        lines = Table.grid(padding=(0, 2))
        cells = (column[number] for column in columns)
        for column, cell in zip(table.columns[1:], cells, strict=True):
            if str(cell):
                lines.add_row("", column.header, cell)
        head = str(table.columns[0].header)
        parts += [f"{head}: {name}" if head else name, lines]
    if table.caption:
        parts.append(table.caption)
    return Group(*parts)


class Terminal(Console):
    """A console for texts from outside: it interprets no markup or emoji names in them, and removes control characters
    and secrets.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)
        self._secret_forms = secret_forms()

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects; a table that is too wide for the terminal is printed as one list per row."""
        super().print(*map(self._fitted, objects), **options)

    def _fitted(self, one: Any) -> Any:
        if isinstance(one, str) and len(one) > self.width and ESTIMATE.search(one):
            return in_lines(one, self.width)
        return self._fitted_table(one) if isinstance(one, Table) else one

    def _fitted_table(self, table: Table) -> RenderableType:
        unlimited = self.options.update(width=WIDEST)
        if Measurement.get(self, unlimited, table).maximum <= self.width:
            return table
        for column in table.columns:
            cells = [str(cell) for cell in column.cells]
            longest = max(map(len, cells), default=0)
            if longest <= LONGEST_FIGURE and any(FIGURE.match(cell) for cell in cells):
                column.width = max(longest, *map(len, str(column.header).split(" ")))
        return table if Measurement.get(self, unlimited, table).minimum <= self.width else stacked(table)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to rich text; secrets are removed before lines are broken."""
        return super().render_str(blot(text, self._secret_forms), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments to print, without control characters except in rich's own control segments."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))
