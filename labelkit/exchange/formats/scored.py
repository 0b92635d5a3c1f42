"""Read the scores of a reranker for lists of documents: queries by id, each with ids of documents and their scores.

Data sets for distillation have this form, such as `lightonai/ms-marco-en-bge`. They do not say which documents are
relevant, so they become judgements with a score and without a grade, from which `labelkit calibrate` makes grades.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.layout import configurations, files_in
from labelkit.corpora.rows import id_of
from labelkit.errors import DataError
from labelkit.exchange.formats.sources import data_files, list_of, rows_in
from labelkit.records import JUDGEMENT_SCHEMA
from labelkit.storage import folders, tables

IDS, SCORES = "document_ids", "scores"
SCHEMA = pa.schema([("query_id", pa.string()), ("passage_id", pa.string()), ("score", pa.float64())])


def scored_files(path: Path, split: str | None) -> list[Path]:
    """List the files with scores: of the configuration `train` of a README.md, else as `data_files` lists them."""
    configs = configurations(path / "README.md") if path.is_dir() else {}
    found = dict(files_in(path, configs["train"])) if "train" in configs else {}
    if found and (split or "train") in found:
        return found[split or "train"]
    return data_files(path, split)


def scored_rows(files: list[Path]) -> Iterator[tuple[str, str, float]]:
    """Yield query id, document id and score of each pair. Raises `DataError`."""
    for where, row in rows_in(files):
        query_id = id_of(row, "query_id", where)
        ids, scores = list_of(row, IDS, "an id", where=where), list_of(row, SCORES, "a finite number", where=where)
        if len(ids) != len(scores):
            raise DataError(f"{where}: {len(ids)} {IDS} and {len(scores)} {SCORES}")
        for passage_id, score in zip(ids, scores, strict=True):
            yield query_id, str(passage_id), float(score)


def write_scores(db: DuckDBPyConnection, draft: folders.Draft, files: list[Path], judge_id: str) -> int:
    """Write the table `judgements` by pair, as a stream. Returns the number of pairs.

    Raises `DataError` if a pair has two scores.
    """
    tables.stage(db, "scored", SCHEMA, rows=scored_rows(files))
    twice: Any = tables.row(
        db,
        "SELECT query_id, passage_id, min(score), max(score) FROM scored GROUP BY ALL "
        "HAVING min(score) <> max(score) ORDER BY ALL",
    )
    if twice:
        raise DataError(f"{files[0]}: the pair {twice[0]!r}, {twice[1]!r} has the scores {twice[2]} and {twice[3]}")
    db.register("nothing", JUDGEMENT_SCHEMA.empty_table())
    scored = f"SELECT DISTINCT query_id, passage_id, score, {tables.text(judge_id)} AS judge_id FROM scored"
    columns = ", ".join(JUDGEMENT_SCHEMA.names)
    every = f"SELECT {columns} FROM (FROM nothing UNION ALL BY NAME {scored}) ORDER BY query_id, passage_id"
    tables.save(db, draft, "judgements", statement=every, schema=JUDGEMENT_SCHEMA)
    return draft.rows["judgements"]
