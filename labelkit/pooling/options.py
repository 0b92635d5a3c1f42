"""Options of `labelkit pool`."""

from pathlib import Path

from pydantic import Field, field_validator

from labelkit.errors import UsageError
from labelkit.options import Options


class PoolOptions(Options):
    """Where the candidates of a pool come from, and how many there are."""

    split: str | None = None
    """Pool only the queries that these qrels judge."""
    bm25: int = Field(default=30, ge=0)
    """Passages per query from BM25; 0 for none."""
    dense: tuple[str, ...] = ()
    """MODEL:N, N passages per query from a dense model."""
    run: tuple[str, ...] = ()
    """FILE:N, the first N of a TREC run."""
    human: Path | None = None
    """Qrels whose positives always belong to the pool."""
    positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest human grade that makes a positive; 1 for binary qrels."""
    depth: int | None = Field(default=None, ge=1)
    """Keep at most this many candidates per query, best fused rank first."""
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
        """Each dense model with its depth."""
        return tuple(with_depth(text, "--dense") for text in self.dense)

    @property
    def runs(self) -> tuple[tuple[Path, int], ...]:
        """Each TREC run with its depth."""
        return tuple((Path(name), depth) for name, depth in (with_depth(text, "--run") for text in self.run))


def with_depth(text: str, option: str) -> tuple[str, int]:
    """The two parts of `NAME:N`."""
    name, _, count = text.rpartition(":")
    if not name or not count.isdigit() or int(count) < 1:
        raise UsageError(f"{option} {text}: expected NAME:N, such as {option} all-MiniLM-L6-v2:30")
    return name, int(count)
