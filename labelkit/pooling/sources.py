"""Rank passages for every query by each source of a pool: BM25, dense models, run files and human positives.

Every source yields one ranking per query, in the order of the queries, so that only the rankings of one query are in
memory at a time. Runs and qrels are sorted on disk.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.answers import tool_of
from labelkit.corpora.beir import SKIP, unknown_id
from labelkit.corpora.human import human_qrels, line_of
from labelkit.corpora.qrels import refuse_model_grades
from labelkit.corpora.runs import run_rows
from labelkit.corpora.staged import refuse_duplicates
from labelkit.errors import DataError, UsageError
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.collection import GRADE_SCHEMA, Collection, stage_grades
from labelkit.pooling.model_loading import hub_commit, load_encoder
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.stages import Report
from labelkit.records import full_text
from labelkit.storage import tables

log = logging.getLogger(__name__)

UNKNOWN = "passage_id NOT IN (SELECT passage_id FROM corpus)"
"""SQL condition that a passage is not in the collection."""
CHUNK = 50_000
"""Passages that are encoded and searched together."""
RUN_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("passage_id", pa.string()), ("score", pa.float64()), ("place", pa.int64())]
)
RANKED_SCHEMA = pa.schema([("number", pa.int64()), ("passage_id", pa.string()), ("score", pa.float64())])
Rankings = Iterator[Mapping[str, float]]
"""For each query, passage id -> score in rank order."""


class Source(NamedTuple):
    """A source of candidates and its rankings."""

    name: str
    rankings: Rankings


class Workplace(NamedTuple):
    """The place where a pool is made: the session with the staged collection, and a folder for sorted files."""

    db: DuckDBPyConnection
    folder: Path
    collection: Collection
    report: Report

    def sorted_rankings(self, name: str, statement: str) -> Rankings:
        """Yield the rankings in the rows (number of the query, passage id, score) of an ordered statement."""
        table = tables.mapped(
            self.folder / f"{name}.arrow", RANKED_SCHEMA, tables.rows_of(self.db, statement, RANKED_SCHEMA)
        )
        return rankings_in(table, len(self.collection.queries))

    def refuse_unknown(self, table: str, line: Callable[[str, str], str], cure: str = "") -> None:
        """Raise `DataError` for a pair in a table of pooled queries whose passage is not in the corpus.

        `line` returns the place of a query id and passage id in their file.
        """
        statement = f"SELECT query_id, passage_id FROM {table} WHERE {UNKNOWN} ORDER BY number, place"
        if found := tables.row(self.db, statement):
            query_id, passage_id = found
            said = unknown_id(query_id, passage_id, self.collection.queries)
            raise DataError(f"{line(query_id, passage_id)}: {said}{cure}")


def bm25_source(place: Workplace, engine: Bm25, depth: int) -> Source:
    """Rank passages by BM25, with title and text as one field."""
    queries, ids = list(place.collection.queries.values()), place.collection.ids

    def rankings() -> Rankings:
        for rows, scores in engine.search(queries, depth):
            yield dict(zip(ids.take(pa.array(rows)).to_pylist(), scores.tolist(), strict=True))

    return Source("bm25", rankings())


def dense_source(place: Workplace, model: str, depth: int, *, trusted: bool) -> Source:
    """Rank passages by exact search with a sentence-transformers model and its own similarity."""
    encoder = load_encoder(model, trust_remote_code=trusted)
    from labelkit.pooling.dense_search import Chunk, nearest

    collection = place.collection
    by_id = collection.order()
    numbers = np.empty_like(by_id)
    numbers[by_id] = np.arange(len(by_id))

    def chunks() -> Iterator[Chunk]:
        for start in range(0, len(by_id), CHUNK):
            part = collection.passages.slice(start, CHUNK)
            texts = zip(part["title"].to_pylist(), part["text"].to_pylist(), strict=True)
            yield Chunk(numbers[start : start + CHUNK], [full_text(*each) for each in texts])

    def rankings() -> Rankings:
        queries, count = list(collection.queries.values()), len(by_id)
        ranked = nearest(encoder, model, queries, chunks=chunks(), passages=count, depth=depth, report=place.report)
        for found, scores in ranked:
            ids = collection.ids.take(pa.array(by_id[found])).to_pylist()
            yield dict(zip(ids, scores.tolist(), strict=True))

    return Source(f"dense:{Path(model).name}", rankings())


def run_source(place: Workplace, number: int, path: Path, *, depth: int) -> Source:
    """Rank passages by a TREC run, the pool's run of this number: highest score first, ties in file order.

    Raises `DataError` for a malformed line, a duplicated pair or an unknown passage.
    """
    db = place.db
    rows = ((query_id, pid, score, line) for line, (_, query_id, pid, score) in enumerate(run_rows(path)))
    tables.stage(db, "run", RUN_SCHEMA, rows=rows)
    refuse_duplicates(db, "run", rows=lambda: run_rows(path), key=("query_id", "passage_id"))
    db.execute(
        """CREATE OR REPLACE TABLE first_of_run AS
        SELECT number, query_id, passage_id, score, place FROM run JOIN asked USING (query_id)
        QUALIFY row_number() OVER (PARTITION BY number ORDER BY score DESC, place) <= $depth""",
        {"depth": depth},
    )
    place.refuse_unknown(
        "first_of_run", lambda *pair: next(where for where, *ids, _ in run_rows(path) if tuple(ids) == pair)
    )
    statement = "SELECT number, passage_id, score FROM first_of_run ORDER BY number, score DESC, place"
    return Source(f"run:{path.name}", place.sorted_rankings(f"run-{number}", statement))


def human_positives(place: Workplace, path: Path, options: PoolOptions) -> Iterator[dict[str, int]]:
    """Yield id -> grade of the human positives of each query. Raises `UsageError` if no grade is a positive."""
    db = place.db
    stage_human(db, path, options.scale)
    db.execute(
        "CREATE OR REPLACE TABLE human_asked AS SELECT number, query_id, passage_id, grade, place FROM human "
        "JOIN asked USING (query_id)"
    )
    if options.skip_unknown and (count := tables.value(db, f"SELECT count(*) FROM human_asked WHERE {UNKNOWN}")):
        log.warning(f"{path}: {count:,} pairs with an unknown passage are left out")
        db.execute(f"DELETE FROM human_asked WHERE {UNKNOWN}")
    place.refuse_unknown(
        "human_asked",
        lambda query_id, passage_id: line_of(path, options.scale, query_id=query_id, passage_id=passage_id),
        f"; {SKIP}",
    )
    positive = f"FROM human_asked WHERE grade >= {options.positive_grade}"
    if not tables.row(db, positive):
        raise UsageError(
            f"{path}: no grade reaches {options.positive_grade} for these queries; "
            "binary qrels need --positive-grade 1 or --scale 0-1"
        )
    statement = f"SELECT number, passage_id, grade AS score {positive} ORDER BY number, place"
    rankings = place.sorted_rankings("human", statement)
    return ({pid: int(grade) for pid, grade in ranked.items()} for ranked in rankings)


def stage_human(db: DuckDBPyConnection, path: Path, scale: str | None) -> None:
    """Make the table `human` of human grades: a qrels file is streamed, other forms are read by `human_qrels`."""
    if path.is_file() and tool_of(path) is None:
        refuse_model_grades(path)
        stage_grades(db, "human", [path], scale=scale)
        return
    pairs = ((query_id, *pair) for query_id, graded in human_qrels(path, scale).items() for pair in graded.items())
    tables.stage(db, "human", GRADE_SCHEMA, rows=((*pair, place) for place, pair in enumerate(pairs)))


def rankings_in(table: pa.Table, queries: int) -> Rankings:
    """Yield the ranking of each query, by its number, from rows (number, passage id, score) in rank order."""
    rows = (row for batch in table.to_batches() for row in zip(*(one.to_pylist() for one in batch), strict=True))
    groups = groupby(rows, key=itemgetter(0))
    waiting = next(groups, None)
    for number in range(queries):
        if waiting is not None and waiting[0] == number:
            yield {passage_id: score for _, passage_id, score in waiting[1]}
            waiting = next(groups, None)
        else:
            yield {}


def commits_of(models: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """Return the commits of the dense models of the Hub, by model."""
    found = {model: hub_commit(model) for model, _ in models if not Path(model).is_dir()}
    return {model: commit for model, commit in found.items() if commit}
