"""A console for tables and progress bars that obeys no control sequence in texts from outside."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from labelkit.storage.credentials import blot, secret_forms
from labelkit.storage.foreign_text import without_controls


class Terminal(Console):
    """A console for texts from outside: it interprets no markup or emoji names in them, and removes control characters
    and secrets.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)
        self._secret_forms = secret_forms()

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a string to rich text; secrets are removed before lines are broken."""
        return super().render_str(blot(text, self._secret_forms), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments to print, without control characters except in rich's own control segments."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))
