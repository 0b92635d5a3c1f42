"""Records of an audit: its scope, a check and a finding."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.evaluation_sets import Evaluation
from labelkit.datasets.options import MixRules

ITEMS = pa.schema([("query_id", pa.string()), ("passage_id", pa.string()), ("note", pa.string())])
"""Columns of the items of a finding: a label, a whole query (no passage_id), or a note on the dataset (neither)."""


GIVEN_BY = {"evaluations": "give --eval DATA", "models": "give --model MODEL"}
"""Field of `AuditScope` -> the option of `labelkit audit` that sets it."""


class AuditScope(NamedTuple):
    """The rules by which a dataset was made, and the evaluation sets and models that it is compared with."""

    rules: MixRules
    scratch: Path
    """Folder for large temporary arrays."""
    licence: str | None = None
    evaluations: Sequence[Evaluation] = ()
    models: Sequence[str] = ()
    """Retrievers that will be trained or evaluated with the dataset."""


class AuditCheck(NamedTuple):
    """A check: how it finds items, how severe they are, and how to remove them."""

    find: Callable[[DuckDBPyConnection, AuditScope], str]
    """Returns an SQL statement whose rows are the items found, in the columns of `ITEMS`."""
    severity: str
    """error: figures measured with the dataset are wrong. warning: labels are worse. note: for information."""
    what: str
    cure: str
    needs: str | None = None
    """Field of `AuditScope` that the check needs, a key of `GIVEN_BY`; it is skipped if the field is empty."""


class Finding(NamedTuple):
    """The result of a check, with examples."""

    name: str
    severity: str
    what: str
    found: int | None
    """Number of items; None if the check was skipped."""
    cure: str
    examples: list[dict[str, str | None]]
    """The first items, in the order of query and passage."""
    skipped: str | None = None
    """Reason why the check was skipped, with the remedy."""
