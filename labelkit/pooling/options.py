"""Options of `labelkit pool`."""

from pathlib import Path

from pydantic import Field, field_validator

from labelkit.errors import UsageError
from labelkit.options import Options


class PoolOptions(Options):
    """Sources and number of the candidates of a pool."""

    split: str | None = None
    """Pool only the queries with human grades in this split, qrels/SPLIT.tsv."""
    bm25: int = Field(default=30, ge=0)
    """Number of passages per query from BM25; 0 for none."""
    dense: tuple[str, ...] = ()
    """MODEL:N adds N passages per query from a dense model (a folder or Hub id); may be repeated."""
    run: tuple[str, ...] = ()
    """FILE:N adds the first N passages per query of a TREC run; may be repeated."""
    human: Path | None = None
    """Qrels file whose positives are always in the pool."""
    positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest human grade of a positive; 1 for binary qrels."""
    depth: int | None = Field(default=None, ge=1)
    """Keep at most this many candidates per query, those with the best fused rank."""
    trust_remote_code: bool = False
    """Run Python code and load pickles that come with a model."""

    @field_validator("dense")
    @classmethod
    def _models_have_a_depth(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        for text in named:
            with_depth(text, "--dense")
        return named

    @field_validator("run")
    @classmethod
    def _runs_have_a_depth(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        for text in named:
            with_depth(text, "--run")
        return named

    @property
    def models(self) -> tuple[tuple[str, int], ...]:
        """Dense models with their depths in passages per query."""
        return tuple(with_depth(text, "--dense") for text in self.dense)

    @property
    def runs(self) -> tuple[tuple[Path, int], ...]:
        """TREC runs with their depths in passages per query."""
        return tuple((Path(name), depth) for name, depth in (with_depth(text, "--run") for text in self.run))


def with_depth(text: str, option: str) -> tuple[str, int]:
    """Return the two parts of `NAME:N`. Raises `UsageError`."""
    name, _, count = text.rpartition(":")
    if not name or not count.isdigit() or int(count) < 1:
        raise UsageError(f"{option} {text}: expected NAME:N, such as {option} all-MiniLM-L6-v2:30")
    return name, int(count)
