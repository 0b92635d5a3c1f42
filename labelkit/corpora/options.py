"""Options that every command with a collection shares: names of columns, and unknown ids."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from labelkit.corpora.fields import Fields
from labelkit.corpora.places import local_collection
from labelkit.options import Options

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
