"""Detect whether a server changes the model during a run.

A server may replace the model behind a name; labels from before and after are then of two judges with one id. The model
is read from each reply. The first reply of another model ends the feed of requests; requests in progress are still
answered.
"""

from collections.abc import Iterable, Iterator

from labelkit.engines import Reply, Request
from labelkit.errors import EngineError

FIELDS = ("model", "fingerprint")


class ModelChange:
    """Compares the model name and fingerprint of each reply with the first ones of the judge."""

    def __init__(self, earlier: Iterable[Reply], *, watched: bool) -> None:
        self._watched = watched
        self._first: dict[str, str] = {}
        self._found: str | None = None
        for reply in earlier:
            self.see(reply)

    def see(self, reply: Reply) -> None:
        """Compare a reply with the first ones; a reply that names no model is not a change."""
        if not self._watched:
            return
        for field in FIELDS:
            value: str | None = getattr(reply, field)
            if value and value != self._first.setdefault(field, value):
                self._found = self._found or f"{field} {self._first[field]!r} became {value!r}"

    def until(self, requests: Iterable[Request]) -> Iterator[Request]:
        """Yield the requests until a change is detected."""
        for request in requests:
            if self._found is not None:
                return
            yield request

    def check(self) -> None:
        """Raise `EngineError` if a change was detected."""
        if self._found is not None:
            raise EngineError(
                f"the model behind the judge changed: {self._found}; stopped, every reply is kept; continue with both "
                "models by --allow-drift, or choose a new output folder"
            )
