"""Whether the same model answers from the first reply of a judge to the last.

A server may change what runs behind a name: labels made before and after are then of two judges under one id. Who
answered is read from each reply; the first that differs ends the feed of requests, and what is under way still comes.
"""

from collections.abc import Iterable, Iterator

from labelkit.engines import Reply, Request
from labelkit.errors import EngineError

FIELDS = ("model", "fingerprint")


class ModelChange:
    """The model name and fingerprint that a judge answered with first, and the first that differed."""

    def __init__(self, earlier: Iterable[Reply], *, watched: bool) -> None:
        self._watched = watched
        self._first: dict[str, str] = {}
        self._found: str | None = None
        for reply in earlier:
            self.see(reply)

    def see(self, reply: Reply) -> None:
        """Compare a reply; one that does not say who made it is no change."""
        for field in FIELDS:
            value: str | None = getattr(reply, field)
            if self._watched and value and value != self._first.setdefault(field, value):
                self._found = self._found or f"{field} {self._first[field]!r} became {value!r}"

    def until(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The requests, up to the moment when a change was seen."""
        for request in requests:
            if self._found is not None:
                return
            yield request

    def check(self) -> None:
        """Raise `EngineError` where a change was seen."""
        if self._found is not None:
            raise EngineError(
                f"the model behind the judge changed: {self._found}; stopped, every reply is kept; go on with both by "
                "--allow-drift, or choose a new output folder"
            )
