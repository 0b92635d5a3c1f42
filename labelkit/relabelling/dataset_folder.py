"""Writes a dataset folder again with changed labels, the judgments behind them, and the old labels.

Labels are written for one slice of the queries at a time, so that memory use does not grow.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.datasets.labels_in_sql import QUERIES_AT_ONCE, STAGES
from labelkit.datasets.provenance import save_provenance
from labelkit.datasets.stored_examples import copy_tables, stored_examples
from labelkit.records import (
    EXAMPLE_SCHEMA,
    JUDGE_SCHEMA,
    JUDGEMENT_SCHEMA,
    LABEL_COLUMNS,
    PROMPT_SCHEMA,
    RELABELLED,
    RELABELLED_SCHEMA,
    REPLY_SCHEMA,
    ROLES,
    Judge,
)
from labelkit.relabelling.rules import IGNORE, KEEP, PROMOTE
from labelkit.storage import folders, tables
from labelkit.storage.dataset import records_to_table
from labelkit.storage.labels import judgements_sql, judges_in
from labelkit.storage.manifest import DatasetFacts, Manifest

LABELS = ("train", *STAGES)
"""Tables with labels."""
MERGED = {
    "prompts": (PROMPT_SCHEMA, ("prompt_sha256",), ("prompt_sha256",)),
    "replies": (REPLY_SCHEMA, ("key",), ("key",)),
    "ballots": (
        JUDGEMENT_SCHEMA,
        ("query_id", "passage_id", "judge_id"),
        ("query_id", "passage_id", "judge_id", "permutation_seed", "reply_ref"),
    ),
}
"""Table of provenance -> its schema, the columns by which a new row replaces an old one, and its order."""


def save_dataset(
    db: DuckDBPyConnection,
    draft: folders.Draft,
    dataset: Path,
    manifest: Manifest[DatasetFacts],
    parts: Sequence[Path],
) -> list[Judge]:
    """Write all tables of a dataset, with the labels that the table `decided` changes. Returns the judges.

    `parts`: the labels folders of the judges, each with a journal.
    """
    stage_changes(db, dataset, manifest)
    copy_tables(draft, dataset, manifest, without={*LABELS, RELABELLED, "judgements", "judges", *MERGED})
    kept_scores = manifest.facts.scored_by is not None
    for name in LABELS:
        if name in manifest.rows:
            draft.write_batches(name, EXAMPLE_SCHEMA, examples(db, dataset / f"{name}.parquet", kept_scores))
    save_changes(db, draft, dataset)
    save_provenance_of_both(db, draft, dataset, parts=parts)
    return save_judgments(db, draft, dataset, parts=parts)


def stage_changes(db: DuckDBPyConnection, dataset: Path, manifest: Manifest[DatasetFacts]) -> None:
    """Make the table `changes`: the changed labels with their judgments, and the old labels from `train`."""
    train = stored_examples(db, dataset / "train.parquet")
    labels = " UNION ALL BY NAME ".join(labels_of(train, role) for role in ("positive", "negative"))
    old = {"source": "source", "judge_id": "judge_id", "grade": "grade", "probability": "probability",
           "score": "score", "weight": "weight"}  # fmt: skip
    told = ", ".join(f"l.{name} AS old_{name}" for name in old)
    db.execute(
        f"""
        CREATE TABLE changes AS
        SELECT d.query_id, d.passage_id, {len(manifest.facts.relabelled) + 1} AS run, d.action, d.rule, d.judge_id,
               d.kind, d.grade, d.probability, d.score, d.role AS old_role, {told}
        FROM (FROM decided WHERE action <> '{KEEP}') d
        JOIN ({labels}) l ON l.query_id = d.query_id AND l.passage_id = d.passage_id AND l.role = d.role
        """
    )


def labels_of(examples: str, role: str, condition: str = "true") -> str:
    """Return the SQL of the labels of one role, a row per label: query_id, role, place and the fields of `Label`.

    `examples`: SQL of the table of examples.
    """
    unnested = ", ".join(f"unnest({role}_{suffix}) AS {name}" for suffix, (name, _) in LABEL_COLUMNS.items())
    return f"""
        (SELECT query_id, '{role}' AS role, unnest(range(len({role}_ids))) AS place, {unnested}
         FROM {examples} WHERE {condition})"""


def examples(db: DuckDBPyConnection, table: Path, kept_scores: bool) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table of examples in their order; changed labels are last on their new side.

    With `kept_scores`, one judge gave all scores, and a changed label keeps its score.
    """
    count = tables.value(db, f"SELECT count(*) FROM {tables.parquet(table)}")
    stored, whole = stored_examples(db, table), ", ".join(EXAMPLE_SCHEMA.names)
    lists = ", ".join(
        f"coalesce(list({name} ORDER BY moved, old_place) FILTER (role = '{role}'), []) AS {role}_{suffix}"
        for role in ROLES
        for suffix, (name, _) in LABEL_COLUMNS.items()
    )
    for start in range(0, count, QUERIES_AT_ONCE):
        part = f"file_row_number >= {start} AND file_row_number < {start + QUERIES_AT_ONCE}"
        yield from tables.rows_of(
            db,
            f"""
            WITH part AS (FROM {stored} WHERE {part}),
                 new AS (SELECT query_id, {lists} FROM ({changed(stored, part, kept_scores)}) GROUP BY query_id)
            SELECT {whole} FROM (
                FROM part ANTI JOIN changes USING (query_id) UNION ALL BY NAME
                SELECT file_row_number, query, new.* FROM part JOIN new USING (query_id))
            ORDER BY file_row_number
            """,
            EXAMPLE_SCHEMA,
        )


def changed(examples: str, part: str, kept_scores: bool) -> str:
    """Return the SQL of the labels of the queries with a change, each on its new side with its new fields."""
    among = f"{part} AND query_id IN (SELECT query_id FROM changes)"
    labels = " UNION ALL BY NAME ".join(labels_of(examples, role, among) for role in ROLES)
    new: dict[str, Any] = {
        "grade": "c.grade",
        "source": "c.kind",
        "judge_id": "c.judge_id",
        "weight": "1.0::FLOAT",
        "probability": "c.probability",
        "score": "l.score" if kept_scores else "c.score",
    }
    fields = ", ".join(f"if(c.run IS NULL, l.{name}, {value}) AS {name}" for name, value in new.items())
    side = f"CASE c.action WHEN '{PROMOTE}' THEN 'positive' WHEN '{IGNORE}' THEN 'ignored' ELSE l.role END"
    return f"""
        SELECT l.query_id, l.passage_id, {side} AS role, c.run IS NOT NULL AS moved, (l.role, l.place) AS old_place,
               {fields}
        FROM ({labels}) l LEFT JOIN changes c ON c.query_id = l.query_id AND c.passage_id = l.passage_id
            AND c.old_role = l.role AND c.old_judge_id = l.judge_id
        """


def save_changes(db: DuckDBPyConnection, draft: folders.Draft, dataset: Path) -> None:
    """Write the table `relabelled`, with the rows of earlier runs."""
    earlier = dataset / f"{RELABELLED}.parquet"
    before = f"FROM {tables.parquet(earlier)} UNION ALL BY NAME" if earlier.is_file() else ""
    columns = ", ".join(RELABELLED_SCHEMA.names)
    statement = f"SELECT {columns} FROM ({before} FROM changes) ORDER BY run, query_id, passage_id"
    tables.save(db, draft, RELABELLED, statement=statement, schema=RELABELLED_SCHEMA)


def save_judgments(db: DuckDBPyConnection, draft: folders.Draft, dataset: Path, parts: Sequence[Path]) -> list[Judge]:
    """Write the tables `judgements` and `judges`, the new judgments in place of older ones of the same judge.

    Returns the judges.
    """
    judges = {judge.judge_id: judge for folder in (dataset, *parts) for judge in judges_in(folder)}
    sources = [judgements_sql(db, folder) for folder in parts]
    new = " UNION ALL ".join(
        f"SELECT {number} AS part, * FROM {source} SEMI JOIN decided USING (query_id, passage_id)"
        for number, source in enumerate(sources, 1)
    )
    old = f"SELECT 0 AS part, * FROM {judgements_sql(db, dataset)}"
    columns = ", ".join(JUDGEMENT_SCHEMA.names)
    newest = "row_number() OVER (PARTITION BY query_id, passage_id, judge_id ORDER BY part DESC) = 1"
    statement = f"SELECT {columns} FROM ({old} UNION ALL BY NAME {new}) QUALIFY {newest}"
    ordered = f"{statement} ORDER BY query_id, passage_id, judge_id"
    tables.save(db, draft, "judgements", statement=ordered, schema=JUDGEMENT_SCHEMA)
    used = db.execute(f"SELECT DISTINCT judge_id FROM {tables.parquet(draft.path / 'judgements.parquet')}").fetchall()
    named = {name for (name,) in used} | {judge.judge_id for judge in judges_in(dataset)}
    listed = [judges[name] for name in sorted(named)]
    draft.write_table("judges", records_to_table(listed, JUDGE_SCHEMA))
    return listed


def save_provenance_of_both(db: DuckDBPyConnection, draft: folders.Draft, dataset: Path, parts: Sequence[Path]) -> None:
    """Write prompts, replies and ballots of the dataset and of the labels folders."""
    aside = folders.Draft(draft.path / ".provenance", draft.kind, draft.command)
    aside.path.mkdir()
    save_provenance(db, aside, parts)
    for name, (schema, key, order) in MERGED.items():
        new = f"FROM {tables.parquet(aside.path / f'{name}.parquet')}"
        old = dataset / f"{name}.parquet"
        if old.is_file():
            new += f" UNION ALL BY NAME FROM {tables.parquet(old)} ANTI JOIN ({new}) USING ({', '.join(key)})"
        columns = ", ".join(schema.names)
        tables.save(
            db, draft, name, statement=f"SELECT {columns} FROM ({new}) ORDER BY {', '.join(order)}", schema=schema
        )
    shutil.rmtree(aside.path)
