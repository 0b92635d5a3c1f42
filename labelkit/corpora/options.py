"""Options that every command with a collection shares, and options of `labelkit corpus`."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from labelkit.corpora.fields import Fields
from labelkit.corpora.places import local_collection
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
