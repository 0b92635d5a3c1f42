"""Options of `trainer eval`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from labelkit.corpora.options import CollectionOptions
from labelkit.corpora.scales import ScaleText

BM25 = "bm25"
RERANKED = f"{BM25}:100"
"""First stage of a cross-encoder by default."""


class EvaluateOptions(CollectionOptions):
    """The settings of an evaluation."""

    split: str | None = None
    """Split of the qrels. Default: test; train for the collections of NanoBEIR."""
    scale: ScaleText | None = None
    """Scale of the grades in the qrels, if it is not 0 to 3: 0-1, 0-4 or 1-5, or the grade of each label, such as
    no=0,partly=1,yes=3.
    """
    compare: tuple[str, ...] = ()
    """Model to compare with, a folder or a name on the Hub; may be repeated."""
    relevant_grade: int = Field(default=1, ge=1)
    """Lowest grade that counts as relevant in RR, AP and R."""
    recall: tuple[Annotated[int, Field(ge=1)], ...] = (100,)
    """Cutoff of Recall; may be repeated."""
    rerank: str | None = None
    """First stage that a cross-encoder reranks, and with which it is compared: bm25:N, or a TREC run as FILE:N.
    Default: bm25:100.
    """
    index: str = "exact"
    """Index for the search: exact, or one of the approximate indexes faiss and usearch."""
    max_query_length: int | None = Field(default=None, ge=3)
    """Maximum tokens of a query. Default: the limit of the model."""
    max_passage_length: int | None = Field(default=None, ge=3)
    """Maximum tokens of a passage; with a cross-encoder, of query and passage together. Default: the limit of the
    model.
    """
    dimensions: int | None = Field(default=None, ge=1)
    """Number of first dimensions of an embedding to use. Default: all."""
    runs: Path | None = None
    """Folder to which a TREC run per model and collection is written."""
    trust_remote_code: bool = False
    """Run the code that comes with a model. Read that code first: it has all your permissions."""
