"""Options of `trainer eval`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from labelkit.options import Options


class EvaluateOptions(Options):
    """What models are measured by, and what they are compared with."""

    split: str = "test"
    """Split of the qrels."""
    compare: tuple[str, ...] = ()
    """Another model; may be repeated."""
    relevant_grade: int = Field(default=1, ge=1)
    """Lowest grade that RR, AP and R call relevant."""
    recall: tuple[Annotated[int, Field(ge=1)], ...] = (100,)
    """Cutoff of Recall; may be repeated."""
    index: str = "exact"
    """exact, or approximate: faiss, usearch."""
    max_query_length: int | None = Field(default=None, ge=3)
    """Tokens of a query; default: the model's limit."""
    max_passage_length: int | None = Field(default=None, ge=3)
    """Tokens of a passage; default: the model's limit."""
    dimensions: int | None = Field(default=None, ge=1)
    """Keep only this many of the first dimensions of an embedding."""
    runs: Path | None = None
    """Folder for a TREC run per model and collection."""
    trust_remote_code: bool = False
    """Run code that comes with a model."""
