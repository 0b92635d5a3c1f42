"""Tables and bars, on a terminal that shows texts from outside and obeys nothing in them."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from labelkit.storage.credentials import blot, secret_forms
from labelkit.storage.foreign_text import without_controls


class Terminal(Console):
    """A console for strings from outside: it reads no markup and no emoji names in them, and leaves out control
    characters and secrets.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)
        self._secret_forms = secret_forms()

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as rich text: secrets go before lines are broken."""
        return super().render_str(blot(text, self._secret_forms), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is printed. Only rich's own segments may control the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=without_controls(segment.text))
