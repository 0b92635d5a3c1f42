"""What an audit finds: the records of `labelkit.datasets.audit_checks` and `labelkit.datasets.audit`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.evaluation_sets import Evaluation
from labelkit.datasets.options import MixRules

ITEMS = pa.schema([("query_id", pa.string()), ("passage_id", pa.string()), ("note", pa.string())])
"""A finding in detail: a label, a whole query (without passage_id), or something about the dataset (without both)."""


class AuditScope(NamedTuple):
    """What a dataset is checked against, and how it was made."""

    rules: MixRules
    scratch: Path
    """A folder for large arrays."""
    licence: str | None = None
    evaluations: Sequence[Evaluation] = ()
    models: Sequence[str] = ()
    """Retrievers that are to be trained on it or measured with it."""


class AuditCheck(NamedTuple):
    """One check."""

    find: Callable[[DuckDBPyConnection, AuditScope], str]
    """Gives a statement whose rows are its `ITEMS`."""
    severity: str
    """error: figures measured with it are wrong. warning: it costs quality. note: a reader should know."""
    what: str
    cure: str
    needs: str | None = None
    """Field of `AuditScope` without which there is nothing to check."""


class Finding(NamedTuple):
    """What a check found."""

    name: str
    severity: str
    what: str
    found: int | None
    """How many items; None where the check was not made."""
    cure: str
    examples: list[dict[str, str | None]]
    """The first items, by query and passage."""
