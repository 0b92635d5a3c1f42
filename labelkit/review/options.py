"""Options of `labelkit review`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from labelkit.errors import UsageError
from labelkit.options import SEEDS, Options

OVERLAP = 0.2
"""Share of the pairs that every annotator of a team grades, if none is given."""
QUEUE = ("by", "pairs", "team", "overlap")
"""Options that choose pairs; with `settle`, the disagreements of the annotators are the pairs."""


class ReviewOptions(Options):
    """The annotator, the pairs to grade, the help beside them, and the port of the page."""

    name: str
    """Name of the annotator."""
    texts: Path | None = None
    """Pool folder or BEIR folder with the texts. From a pool, only its pairs are shown. Default: the pool that was
    judged.
    """
    by: str = "random"
    """Choice of pairs: random, to measure agreement without bias, or disagreement, to correct the most doubtful labels
    first.
    """
    unit: Literal["pair", "query"] = "pair"
    """Pairs shown together: pair, for one pair at a time, or query, for all judged passages of a query in random
    order.
    """
    pairs: int = Field(default=100, ge=1)
    """Number of pairs to grade, of the whole team. With --unit query, the passages of the last query are all shown, so
    that there may be more.
    """
    team: tuple[str, ...] = ()
    """Names of all annotators who share the pairs, the own name included. Each of them runs this command with the same
    labels, pairs and seed.
    """
    overlap: float | None = Field(default=None, ge=0, le=1)
    """Share of the pairs, or of the queries with --unit query, that every annotator of the team grades; the rest is
    divided among them. Default: 0.2.
    """
    settle: tuple[Path, ...] = ()
    """Folders of annotators whose disagreements are settled, largest first. The result also has all other grades of
    these folders.
    """
    guidelines: Path | None = None
    """File with guidelines, text or Markdown, shown beside the grades."""
    language: str | None = None
    """Language of the texts, a name or an ISO 639-1 code: other forms of the query's words are marked in the passages,
    too.
    """
    seed: int = Field(default=0, ge=0, le=SEEDS)
    """Seed of the random order of pairs."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port on 127.0.0.1. 0 chooses a free port."""

    @property
    def shared(self) -> float:
        """Share of the pairs that every annotator of the team grades."""
        return OVERLAP if self.overlap is None else self.overlap

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.team and (self.name not in self.team or len({*self.team}) < max(2, len(self.team))):
            raise UsageError(
                f"team = {', '.join(self.team)}: give at least two different names, among them {self.name!r}"
            )
        if self.overlap is not None and not self.team:
            raise UsageError("overlap needs the names of the annotators: give each of them with --team")
        for name in QUEUE if self.settle else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise UsageError(f"{name} does not apply to --settle, which shows all disagreements: leave it out")
        return self
