"""Stages the rankings from which negatives are mined, from a pool, a TREC run or a dense model.

The session has the view `corpus` of the dataset, and the tables `asked` (queries with a positive: number, query_id,
query) and `positives` (query_id, passage_id). Rankings are streamed to tables on disk.
"""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.runs import run_rows
from labelkit.corpora.staged import refuse_duplicates
from labelkit.datasets.duplicate_passages import FULL_TEXT
from labelkit.datasets.options import MineOptions
from labelkit.errors import DataError, UsageError
from labelkit.pooling.stages import Report
from labelkit.storage import folders, tables
from labelkit.storage.manifest import POOL

QUERIES_AT_ONCE = 65_536
"""Queries whose embeddings are in memory together; the corpus is searched once for each such part."""
PASSAGES_AT_ONCE = 50_000
"""Passages that are encoded and searched together."""
RANKINGS_AT_ONCE = 1_024
"""Rankings of a dense model that are written together."""
PAIRS_AT_ONCE = 8_192
"""Pairs of a query and a positive whose similarities are computed together."""
RUN_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("passage_id", pa.string()), ("score", pa.float64()), ("place", pa.int64())]
)
FOUND_SCHEMA = pa.schema(
    [("query", pa.int64()), ("passage", pa.int64()), ("rank", pa.int64()), ("score", pa.float64())]
)
SCORE_SCHEMA = pa.schema([("query_id", pa.string()), ("passage_id", pa.string()), ("score", pa.float64())])
NO_RETRIEVER = "(name = 'human' OR name LIKE 'select:%')"
"""SQL condition on the sources of a pool that are no retrievers."""


class Retriever(NamedTuple):
    """The retriever from whose rankings negatives are mined."""

    name: str
    """Name as in a pool: `bm25`, `dense:MODEL` or `run:FILE`."""
    revision: str | None
    """sha256 of the pool's manifest, of the run or of the model's files, or the commit of a model of the Hub."""
    inputs: dict[str, str]
    """Path of an input for the manifest -> sha256."""


def stage_ranking(db: DuckDBPyConnection, scratch: Path, options: MineOptions, *, report: Report) -> Retriever:
    """Make the tables `ranking` (query_id, passage_id, rank, score) and `positive_scores` (query_id, passage_id,
    score).

    Raises `DataError` if a passage of a pool or run is not in the corpus of the dataset, or no query is in the dataset.
    """
    if options.model is not None:
        return rank_by_model(db, scratch, options, report=report)
    assert options.pool is not None or options.run is not None
    retriever = rank_by_pool(db, options, options.pool) if options.pool else rank_by_run(db, str(options.run))
    place = options.pool or options.run
    if unknown := tables.row(db, "FROM ranking ANTI JOIN corpus USING (passage_id) ORDER BY query_id, passage_id"):
        raise DataError(
            f"{place}: passage {unknown[1]!r} of query {unknown[0]!r} is not in the corpus of the dataset; give a "
            "ranking of the collection from which the dataset was mixed"
        )
    if not tables.row(db, "FROM ranking"):
        raise DataError(f"{place} ranks passages for no query of the dataset that has a positive")
    stage_positive_scores(db)
    return retriever


def stage_positive_scores(db: DuckDBPyConnection) -> None:
    """Make the table `positive_scores` of the positives in the table `ranking`."""
    db.execute("CREATE TABLE positive_scores AS SELECT query_id, passage_id, score FROM positives JOIN ranking USING "
               "(query_id, passage_id)")  # fmt: skip


def rank_by_pool(db: DuckDBPyConnection, options: MineOptions, folder: Path) -> Retriever:
    """Make the table `ranking` of one retriever of a pool. Raises `UsageError` if it is not clear which one."""
    folders.read_manifest(folder, POOL, verify=options.verify)
    found = f"""(SELECT query_id, passage_id, one.name AS name, one.rank AS rank, one.score AS score FROM
        (SELECT query_id, passage_id, unnest(sources) AS one FROM {tables.parquet(folder / "candidates.parquet")}))"""
    names = [name for (name,) in db.execute(f"SELECT DISTINCT name FROM {found} WHERE NOT {NO_RETRIEVER}").fetchall()]
    name = options.retriever or (names[0] if len(names) == 1 else None)
    if not names:
        raise UsageError(f"{folder} has no ranking of a retriever; give a pool with BM25, a dense model or a run")
    if name not in names:
        raise UsageError(f"{folder} has several retrievers; give --retriever with one of: {', '.join(sorted(names))}"
                         if name is None else
                         f"{folder} has no retriever {name!r}; choose one of: {', '.join(sorted(names))}")  # fmt: skip
    db.execute(
        f"""
        CREATE TABLE ranking AS
        SELECT query_id, passage_id, min(rank) AS rank, arg_min(score, rank) AS score
        FROM {found} SEMI JOIN asked USING (query_id) WHERE name = $name GROUP BY query_id, passage_id
        """,
        {"name": name},
    )
    digest = folders.file_sha256(folder / folders.MANIFEST)
    return Retriever(str(name), f"sha256:{digest}", {str(folder): digest})


def rank_by_run(db: DuckDBPyConnection, place: str) -> Retriever:
    """Make the table `ranking` of a TREC run: highest score first, ties in file order."""
    path = Path(place)
    rows = ((query_id, pid, score, line) for line, (_, query_id, pid, score) in enumerate(run_rows(path)))
    tables.stage(db, "run", RUN_SCHEMA, rows=rows)
    refuse_duplicates(db, "run", rows=lambda: run_rows(path), key=("query_id", "passage_id"))
    db.execute(
        """
        CREATE TABLE ranking AS
        SELECT query_id, passage_id, row_number() OVER (PARTITION BY query_id ORDER BY score DESC, place) AS rank, score
        FROM run SEMI JOIN asked USING (query_id)
        """
    )
    digest = folders.file_sha256(path)
    return Retriever(f"run:{path.name}", f"sha256:{digest}", {place: digest})


def rank_by_model(db: DuckDBPyConnection, scratch: Path, options: MineOptions, *, report: Report) -> Retriever:
    """Make the table `ranking` by exact search with a sentence-transformers model and its own similarity; the scores of
    all positives are computed for `max_share`.
    """
    from labelkit.pooling.dense import key_of
    from labelkit.pooling.model_loading import hub_commit, load_encoder

    model = str(options.model)
    encoder = load_encoder(model, trust_remote_code=options.trust_remote_code)
    db.execute("CREATE TABLE numbered AS SELECT row_number() OVER (ORDER BY passage_id) - 1 AS number, passage_id "
               "FROM corpus")  # fmt: skip
    rankings = search(db, encoder, model, depth=options.window.last, report=report)
    db.register("found", tables.mapped(scratch / "found.arrow", FOUND_SCHEMA, found_batches(rankings)))
    db.execute(
        """
        CREATE TABLE ranking AS SELECT query_id, passage_id, rank, score
        FROM found JOIN asked ON asked.number = found.query JOIN numbered ON numbered.number = found.passage
        """
    )
    stage_positive_scores(db)
    if options.max_share is not None:
        scored = tables.mapped(scratch / "scores.arrow", SCORE_SCHEMA, similarities(db, encoder, model))
        db.register("scored", scored)
        db.execute("INSERT INTO positive_scores FROM scored")
    revision = key_of(model, encoder, "document") if Path(model).is_dir() else hub_commit(model)
    return Retriever(f"dense:{Path(model).name}", revision, {})


Ranking = tuple[int, Any, Any]
"""Number of a query, numbers of its best passages `[depth]`, and their similarities `[depth]`."""


def search(db: DuckDBPyConnection, encoder: Any, model: str, *, depth: int, report: Report) -> Iterator[Ranking]:
    """Yield the best passages of every query in `asked`, searching the corpus once per `QUERIES_AT_ONCE` queries."""
    from labelkit.pooling.dense_search import nearest

    passages = tables.value(db, "SELECT count(*) FROM corpus")
    for start in range(0, tables.value(db, "SELECT count(*) FROM asked"), QUERIES_AT_ONCE):
        part = f"number >= {start} AND number < {start + QUERIES_AT_ONCE}"
        queries = [text for (text,) in db.execute(f"SELECT query FROM asked WHERE {part} ORDER BY number").fetchall()]
        found = nearest(encoder, model, queries, chunks=chunks(db), passages=passages, depth=depth, report=report)
        for number, (rows, scores) in enumerate(found, start):
            yield number, rows, scores


def chunks(db: DuckDBPyConnection) -> Iterator[Any]:
    """Yield the passages of the corpus in the order of their numbers, as chunks of a dense search."""
    from labelkit.pooling.dense_search import Chunk

    ordered = db.sql(f"SELECT {FULL_TEXT} AS text FROM corpus ORDER BY passage_id")
    first = 0
    for batch in ordered.to_arrow_reader(PASSAGES_AT_ONCE):
        yield Chunk(np.arange(first, first + len(batch)), batch.column(0).to_pylist())
        first += len(batch)


def found_batches(rankings: Iterator[Ranking]) -> Iterator[pa.RecordBatch]:
    """Yield rankings as batches with a row per passage."""
    while some := list(islice(rankings, RANKINGS_AT_ONCE)):
        sizes = [len(rows) for _, rows, _ in some]
        columns = (
            np.repeat([number for number, _, _ in some], sizes),
            np.concatenate([rows for _, rows, _ in some]),
            np.fromiter(chain.from_iterable(range(1, size + 1) for size in sizes), np.int64),
            np.concatenate([scores for _, _, scores in some]).astype(np.float64),
        )
        yield pa.record_batch([pa.array(column) for column in columns], schema=FOUND_SCHEMA)


def similarities(db: DuckDBPyConnection, encoder: Any, model: str) -> Iterator[pa.RecordBatch]:
    """Yield the similarity of every query and each of its positives that its ranking does not reach."""
    import torch

    from labelkit.pooling.dense import CachedEncoder

    near, far = CachedEncoder(encoder, model, task="query"), CachedEncoder(encoder, model)
    encoded: tuple[Callable[[list[str]], Any], ...] = (near.encode, far.encode)
    pairs = db.sql(
        f"""
        SELECT query_id, passage_id, query, {FULL_TEXT} AS text
        FROM positives ANTI JOIN ranking USING (query_id, passage_id) JOIN asked USING (query_id)
        JOIN corpus USING (passage_id) ORDER BY passage_id, query_id
        """
    )
    for batch in pairs.to_arrow_reader(PAIRS_AT_ONCE):
        texts = (batch.column(2).to_pylist(), batch.column(3).to_pylist())
        vectors = [torch.from_numpy(encode(each)) for encode, each in zip(encoded, texts, strict=True)]
        scores = encoder.similarity_pairwise(*vectors).double().cpu().numpy()
        yield pa.record_batch([batch.column(0), batch.column(1), pa.array(scores)], schema=SCORE_SCHEMA)
