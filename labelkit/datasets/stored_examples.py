"""Reads the tables of examples of a stored dataset in SQL, counts labels, and copies tables that do not change."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from labelkit.records import EXAMPLE_SCHEMA, ROLES
from labelkit.storage import folders, tables
from labelkit.storage.manifest import DatasetFacts, Manifest


def stored_examples(db: DuckDBPyConnection, table: Path) -> str:
    """Return the SQL of a stored table of examples with all columns of `EXAMPLE_SCHEMA` and `file_row_number`.

    A table that an earlier version wrote has no columns of scores; its labels have none.
    """
    db.register("no_examples", EXAMPLE_SCHEMA.empty_table())
    scores = ", ".join(
        f"coalesce({role}_scores, list_transform({role}_ids, lambda x: NULL::DOUBLE)) AS {role}_scores"
        for role in ROLES
    )
    rows = tables.parquet(table, numbered=True)
    return f"""(SELECT * REPLACE ({scores}) FROM
        (SELECT *, 0::BIGINT AS file_row_number FROM no_examples UNION ALL BY NAME FROM {rows}))"""


def label_counts(db: DuckDBPyConnection, train: Path) -> dict[str, Any]:
    """Count the queries and labels of a table of examples, for the manifest."""
    rows = tables.parquet(train)
    sums = ", ".join(f"coalesce(sum(len({role}_ids)), 0)::BIGINT AS {field}" for role, field in ROLES.items())
    empty = "count(*) FILTER (len(positive_ids) = 0) AS queries_without_positives"
    (found,) = db.sql(f"SELECT count(*) AS queries, {empty}, {sums} FROM {rows}").to_arrow_table().to_pylist()
    sources = f"SELECT unnest(positive_sources) AS source FROM {rows}"
    by_source = db.execute(f"SELECT source, count(*) FROM ({sources}) GROUP BY source ORDER BY source").fetchall()
    return {**found, "positives_per_query": {source: round(count / found["queries"], 3) for source, count in by_source}}


def copy_tables(
    draft: folders.Draft, dataset: Path, manifest: Manifest[DatasetFacts], *, without: Collection[str]
) -> None:
    """Copy the tables of a dataset, but for those that are written again."""
    for name, rows in manifest.rows.items():
        if name not in without:
            shutil.copyfile(dataset / f"{name}.parquet", draft.path / f"{name}.parquet")
            draft.rows[name] = rows
