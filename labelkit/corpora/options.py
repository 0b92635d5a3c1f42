"""Options that every command with a collection shares, and options of `labelkit corpus` and `split`."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from labelkit.corpora.fields import Fields
from labelkit.corpora.places import local_collection
from labelkit.corpora.scales import ScaleText
from labelkit.errors import UnknownNameError, UsageError
from labelkit.options import Address, Options

CollectionPlace = Annotated[Path, BeforeValidator(lambda place: local_collection(str(place)))]
"""The folder of a collection, or its address (s3://, gs://, hf://, irds:), which becomes the path of its local copy."""


class ColumnOptions(Options):
    """The columns of a collection, for files that name them in an unusual way."""

    id_field: str | None = None
    """Column of the passage ids. Default: _id, id, docid, doc_id, pid or another usual name."""
    text_field: str | None = None
    """Column of the texts. Default: text, contents, content, passage or another usual name."""
    title_field: str | None = None
    """Column of the titles. Default: title."""

    @property
    def fields(self) -> Fields:
        """The names of the columns."""
        return Fields(self.id_field, self.text_field, self.title_field)


class CollectionOptions(ColumnOptions):
    """The columns of a collection, and the handling of graded pairs that it does not contain."""

    skip_unknown: bool = False
    """Leave out graded pairs whose query or passage is not in the collection, and count them."""


class CorpusOptions(Options):
    """Options of `labelkit corpus`."""

    tokenizer: str | None = None
    """Tokenizer that measures passages: model folder, tokenizer.json, or model on the Hugging Face Hub. Default: parts
    of words of up to 6 letters, and punctuation marks, which needs no model.
    """
    max_tokens: int | None = Field(default=None, ge=32, le=32_768)
    """Most tokens of a passage with its title. Default: the input length of the tokenizer's model, at most 512; 256
    without --tokenizer.
    """
    queries: Address | None = None
    """File of queries to add to the folder: TSV, CSV, JSONL, JSON or Parquet with ids and texts."""


class SplitOptions(CollectionOptions):
    """Options of `labelkit split`."""

    train: float = Field(default=0.8, ge=0, le=1)
    """Share of the queries in the split train."""
    dev: float = Field(default=0.1, ge=0, le=1)
    """Share of the queries in the split dev."""
    test: float = Field(default=0.1, ge=0, le=1)
    """Share of the queries in the split test. The three shares must add up to 1."""
    by: str = "query"
    """Unit that is in one split: query, or document, which keeps all queries with relevant passages of one document
    together. Near-duplicate queries are always in one split.
    """
    scale: ScaleText | None = None
    """Scale of the qrels' grades, if it is not 0 to 3: 0-1, 0-4, 1-5, or a mapping."""

    @model_validator(mode="after")
    def _shares_of_a_whole(self) -> Self:
        if self.by not in ("query", "document"):
            raise UnknownNameError("unit", self.by, ("query", "document"))
        if abs(sum(self.shares.values()) - 1) > 1e-6:
            total = f"{sum(self.shares.values()):g}"
            raise UsageError(f"--train, --dev and --test add up to {total}; choose shares that add up to 1")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Split -> its share of the queries."""
        return {"train": self.train, "dev": self.dev, "test": self.test}
