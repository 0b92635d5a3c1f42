"""Adds hard negatives to a dataset: `labelkit mine`.

The new dataset has the tables of the old one, with mined negatives appended to `train` and their origin in the table
`mined`. Labels are written for one slice of the queries at a time, so that memory use does not grow.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.datasets.card import dataset_card, judges_of
from labelkit.datasets.labels_in_sql import QUERIES_AT_ONCE
from labelkit.datasets.mining.rankings import Retriever, stage_ranking
from labelkit.datasets.mining.rules import REASONS, Filter, decide, stage_judgments, stage_known
from labelkit.datasets.options import MineOptions
from labelkit.datasets.stored_examples import copy_tables, stored_examples
from labelkit.pooling.stages import LoggedStages, Report
from labelkit.records import EXAMPLE_SCHEMA, LABEL_COLUMNS, MINED, MINED_SCHEMA
from labelkit.storage import folders, tables
from labelkit.storage.manifest import DATASET, DatasetFacts
from labelkit.storage.outputs import name_of, refuse_own_input
from labelkit.storage.remote import local

log = logging.getLogger(__name__)

SCRATCH = ".scratch"
"""Folder in a draft for the session and for large arrays."""


class Mined(NamedTuple):
    """The numbers of a run of `labelkit mine`. Every candidate is mined or left out for one reason."""

    retriever: str
    candidates: int
    """Passages in the rank window of the queries with a positive."""
    negatives: int
    """Candidates that became negatives."""
    queries: int
    """Queries that have a mined negative."""
    queries_without_positives: int
    """Queries that were left out because they have no positive."""
    queries_without_ranking: int
    """Queries with a positive for which the retriever ranks no passage."""
    left_out: Mapping[str, int]
    """Reason -> number of candidates, in the order of `labelkit.datasets.mining.rules.REASONS`."""


def mine(
    dataset: Path | str,
    output: Path | str,
    options: MineOptions,
    *,
    command: str = "labelkit.mine",
    report: Report | None = None,
) -> Mined:
    """Add hard negatives to a dataset: passages in a window of a retriever's ranks that no rule leaves out.

    Known positives, near-duplicates of a positive and pairs that are labelled already are always left out. Needs the
    package rensa.

    Args:
        dataset: dataset folder; may be at s3://, gs:// or hf://.
        output: dataset folder to write: all tables of `dataset`, with the mined negatives and the table `mined`.
        options: the ranking, the window of ranks, and the rules that leave candidates out.
        command: the command that the manifest and the card record as the origin of the folder.
        report: called with the progress of encoding; None writes it to the log.

    Returns:
        The numbers of candidates, of mined negatives, and of candidates left out by each reason.

    Raises:
        UsageError: the dataset has no positive, the ranking is unclear, or its scores do not allow a share.
        DataError: a run is malformed, or ranks passages or queries of another collection.
    """
    folder, target = local(str(dataset)), Path(output)
    refuse_own_input(target, [folder, *filter(None, (options.pool, options.judge))])
    manifest = folders.read_manifest(folder, DATASET, verify=options.verify)
    with folders.writing(target, DATASET, command) as draft:
        scratch = draft.path / SCRATCH
        with tables.session(scratch) as db:
            stage_known(db, folder)
            checked = stage_judgments(db, options.judge)
            retriever = stage_ranking(db, scratch, options, report=report or LoggedStages())
            decide(db, scratch, options, name=retriever.name)
            made = counts(db, retriever)
            copy_tables(draft, folder, manifest, without=("train", MINED))
            save_origins(db, draft, folder, origin=Origin(retriever, checked))
            draft.write_batches(
                "train", EXAMPLE_SCHEMA, examples(db, folder, scores=scores_of(manifest.facts, checked))
            )
            train = tables.parquet(draft.path / "train.parquet")
            negatives = tables.value(db, f"SELECT sum(len(negative_ids)) FROM {train}")
        own = {str(folder): folders.file_sha256(folder / folders.MANIFEST)}
        draft.inputs = {**manifest.inputs, **own, **retriever.inputs, **(checked.inputs if checked else {})}
        run = {"revision": retriever.revision, "rules": options.rules, **made._asdict()}
        facts = manifest.facts.model_copy(update={"negatives": int(negatives), "mined": (*manifest.facts.mined, run)})
        draft.facts = facts
        card = dataset_card(name_of(target), draft.rows, facts, judges=judges_of(folder), command=command)
        (draft.path / "README.md").write_text(card, encoding="utf-8")
    if not made.negatives:
        told = ", ".join(f"{count:,} {REASONS[reason]}" for reason, count in made.left_out.items() if count)
        log.warning(f"{target}: no negative was mined; left out: {told}")
    return made


class Origin(NamedTuple):
    """The retriever that found the mined negatives, and the judge that filtered them if there was one."""

    retriever: Retriever
    checked: Filter | None

    @property
    def judge_id(self) -> str:
        """Id in the place of a judge in the labels of mined negatives."""
        return f"{MINED}-{self.retriever.name}"


def counts(db: DuckDBPyConnection, retriever: Retriever) -> Mined:
    """Count candidates, mined negatives and queries."""
    found = dict(db.execute("SELECT coalesce(reason, ''), count(*) FROM decided GROUP BY reason").fetchall())
    mined = found.pop("", 0)
    queries = tables.value(db, "SELECT count(DISTINCT query_id) FROM decided WHERE reason IS NULL")
    return Mined(
        retriever.name,
        mined + sum(found.values()),
        negatives=mined,
        queries=queries,
        queries_without_positives=tables.value(db, "SELECT count(*) FROM train WHERE len(positive_ids) = 0"),
        queries_without_ranking=tables.value(db, "SELECT count(*) FROM asked ANTI JOIN ranking USING (query_id)"),
        left_out={reason: found.get(reason, 0) for reason in REASONS},
    )


def save_origins(db: DuckDBPyConnection, draft: folders.Draft, folder: Path, *, origin: Origin) -> None:
    """Write the table `mined`: the origins of the mined negatives, including the rows of earlier runs."""
    db.register("no_origins", MINED_SCHEMA.empty_table())
    earlier = f"UNION ALL BY NAME FROM {tables.parquet(folder / f'{MINED}.parquet')}"
    fixed = {
        "judge_id": origin.judge_id,
        "retriever": origin.retriever.name,
        "revision": origin.retriever.revision,
        "filter_judge_id": origin.checked and origin.checked.judge_id,
    }
    told = ", ".join(f"{'NULL' if text is None else tables.text(text)} AS {name}" for name, text in fixed.items())
    statement = f"""
        SELECT {", ".join(MINED_SCHEMA.names)} FROM (
            FROM no_origins {earlier if (folder / f"{MINED}.parquet").is_file() else ""}
            UNION ALL BY NAME
            SELECT query_id, passage_id, rank, score, positive_score, judge_value AS filter_value,
                   positive_value AS filter_positive_value, {told}
            FROM decided WHERE reason IS NULL
        ) ORDER BY query_id, passage_id
    """
    tables.save(db, draft, MINED, statement=statement, schema=MINED_SCHEMA)
    db.execute(f"CREATE TABLE new AS SELECT query_id, passage_id, rank, judge_score, "
               f"{tables.text(origin.judge_id)} AS judge_id FROM decided WHERE reason IS NULL")  # fmt: skip


def scores_of(facts: DatasetFacts, checked: Filter | None) -> bool:
    """Return whether the scores of the filter's judge are on the scale of the dataset's scores: it gave them all."""
    return checked is not None and facts.scored_by == checked.judge_id


def examples(db: DuckDBPyConnection, folder: Path, *, scores: bool) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `train` in their order, with the mined negatives after the others, the best rank first.

    With `scores`, the labels have the scores of the filter's judge.
    """
    old = stored_examples(db, folder / "train.parquet")
    mined = {
        "ids": "list(passage_id ORDER BY rank)",
        "grades": "list(NULL::TINYINT)",
        "sources": f"list('{MINED}')",
        "judges": "list(judge_id ORDER BY rank)",
        "weights": "list(1.0::FLOAT)",
        "probabilities": "list(NULL::FLOAT)",
        "scores": f"list({'judge_score' if scores else 'NULL::DOUBLE'} ORDER BY rank)",
    }
    lists = ", ".join(f"{mined[suffix]} AS new_{suffix}" for suffix in LABEL_COLUMNS)
    columns = {name: name for name in EXAMPLE_SCHEMA.names}
    columns |= {f"negative_{name}": f"list_concat(negative_{name}, coalesce(new_{name}, []))" for name in mined}
    selected = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    for start in range(0, tables.value(db, "SELECT count(*) FROM train"), QUERIES_AT_ONCE):
        part = f"file_row_number >= {start} AND file_row_number < {start + QUERIES_AT_ONCE}"
        yield from tables.rows_of(
            db,
            f"""
            WITH part AS (FROM {old} WHERE {part}),
                 added AS (SELECT query_id, {lists} FROM new SEMI JOIN part USING (query_id) GROUP BY query_id)
            SELECT {selected} FROM part LEFT JOIN added USING (query_id) ORDER BY file_row_number
            """,
            EXAMPLE_SCHEMA,
        )
