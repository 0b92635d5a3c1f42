"""Options of `labelkit pool`."""

from pathlib import Path

from pydantic import Field, field_validator

from labelkit.corpora.options import CollectionOptions
from labelkit.corpora.scales import ScaleText
from labelkit.errors import UsageError
from labelkit.options import Address
from labelkit.pooling.languages import code_of


class PoolOptions(CollectionOptions):
    """The sources of a pool's candidates, and their number."""

    split: str | None = None
    """Pool only the queries in this split of the qrels, such as test for qrels/test.tsv."""
    bm25: int = Field(default=30, ge=0)
    """Passages per query from BM25. 0 switches BM25 off."""
    language: str | None = None
    """Language of the texts, such as german or de, whose stop words and stemmer BM25 uses. Default: English stop words
    and no stemmer.
    """
    dense: tuple[str, ...] = ()
    """Dense retriever as MODEL:N: add N passages per query. May be repeated."""
    run: tuple[str, ...] = ()
    """TREC run as FILE:N: add its first N passages per query. May be repeated."""
    human: Address | None = None
    """Human grades whose positives are always in the pool: a labels folder, a qrels file, or an export of Argilla or
    Label Studio.
    """
    positive_grade: int = Field(default=2, ge=1, le=3)
    """Lowest human grade of a positive; use 1 for binary qrels."""
    scale: ScaleText | None = None
    """Scale of the grades of --human and --split, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label,
    such as no=0,partly=1,yes=3.
    """
    depth: int | None = Field(default=None, ge=1)
    """Keep at most this many candidates per query, with the best ranks over all sources. Human positives are always
    kept.
    """
    trust_remote_code: bool = False
    """Allow a model to run its own Python code and to load pickle files. Only for models that you trust."""

    @field_validator("language")
    @classmethod
    def _known_language(cls, name: str | None) -> str | None:
        return None if name is None else code_of(name)

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
        """Dense models, each with its depth."""
        return tuple(with_depth(text, "--dense") for text in self.dense)

    @property
    def runs(self) -> tuple[tuple[Path, int], ...]:
        """TREC runs, each with its depth."""
        return tuple((Path(name), depth) for name, depth in (with_depth(text, "--run") for text in self.run))


def with_depth(text: str, option: str) -> tuple[str, int]:
    """Split `NAME:N` into the name and the depth. Raises `UsageError` for any other text."""
    name, _, count = text.rpartition(":")
    if not name or not count.isdigit() or int(count) < 1:
        raise UsageError(f"{option} {text}: expected NAME:N, such as {option} all-MiniLM-L6-v2:30")
    return name, int(count)
