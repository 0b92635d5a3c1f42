"""Stage a collection for pooling: its passages in a memory-mapped file, its queries in memory.

Per passage, only its id and a few numbers are in memory.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.corpora.beir import SKIP, unknown_id
from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.fields import Fields
from labelkit.corpora.layout import layout_of
from labelkit.corpora.qrels import qrels_rows
from labelkit.corpora.queries import query_texts
from labelkit.corpora.staged import refuse_duplicates
from labelkit.errors import DataError
from labelkit.pooling.bm25_index import Corpus, update
from labelkit.pooling.options import PoolOptions
from labelkit.pooling.stages import Report, Stage
from labelkit.records import PASSAGE_SCHEMA, full_text
from labelkit.storage import tables

log = logging.getLogger(__name__)

ROW = pa.field("row", pa.int64())
ASKED_SCHEMA = pa.schema([("query_id", pa.string()), ("number", pa.int64())])
GRADE_SCHEMA = pa.schema(
    [("query_id", pa.string()), ("passage_id", pa.string()), ("grade", pa.int8()), ("place", pa.int64())]
)
READ = 100_000
"""Passages after which the progress of reading is reported."""


class Collection(NamedTuple):
    """A staged collection. The session has its tables `corpus` (with `row`) and `asked` (`query_id`, `number`)."""

    queries: dict[str, str]
    """Id -> text of the pooled queries."""
    ids: pa.Array
    """Ids of the passages, by row."""
    passages: pa.Table
    """The passages, memory-mapped."""
    digest: str
    """sha256 over the full texts of all passages."""

    def texts(self) -> Iterator[str]:
        """Yield the full text of each passage, by row."""
        for batch in self.passages.to_batches():
            for title, text in zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True):
                yield full_text(title, text)

    @property
    def corpus(self) -> Corpus:
        """The passages for BM25."""
        return Corpus(self.texts, self.digest, len(self.ids))

    def order(self) -> NDArray[np.int64]:
        """Return the rows of the passages in the order of their ids."""
        order: NDArray[np.int64] = pc.sort_indices(self.ids).to_numpy().astype(np.int64)
        return order


def stage_collection(
    db: DuckDBPyConnection, folder: Path, scratch: Path, *, options: PoolOptions, report: Report
) -> Collection:
    """Read a collection, and with a split only the queries of the split.

    Raises `DataError` as `read_data` does.
    """
    layout, fields = layout_of(folder), options.fields
    staged = stage_corpus(db, layout.corpus, scratch, fields=fields, report=report)
    queries = query_texts(*layout.queries, fields=fields)
    stage_asked(db, list(queries))
    if options.split is not None:
        stage_grades(db, "judged", layout.files_of(options.split), scale=options.scale)
        chosen = judged_queries(db, layout.files_of(options.split), options, queries=queries)
        queries = {query_id: queries[query_id] for query_id in chosen}
        stage_asked(db, chosen)
    return staged._replace(queries=queries)


def stage_corpus(
    db: DuckDBPyConnection, paths: Sequence[Path], scratch: Path, *, fields: Fields, report: Report
) -> Collection:
    """Read the passages of a collection, without its queries.

    Raises `DataError` for a malformed file, a duplicated id or an empty corpus.
    """
    digest = hashlib.sha256()

    def rows() -> Iterator[tuple[str, str, str, int]]:
        for row, (_, passage_id, title, text) in enumerate(corpus_rows(*paths, fields=fields)):
            update(digest, full_text(title, text))
            if row % READ == 0:
                report(Stage("read", row, None, items="passages"))
            yield passage_id, title, text, row

    schema = PASSAGE_SCHEMA.append(ROW)
    passages = tables.mapped(scratch / "corpus.arrow", schema, tables.batches_of(schema, rows()))
    if not passages.num_rows:
        raise DataError(f"{', '.join(map(str, paths))}: the corpus is empty")
    db.register("corpus", passages)
    refuse_duplicates(db, "corpus", rows=lambda: corpus_rows(*paths, fields=fields), key=("passage_id",))
    return Collection({}, passages["passage_id"].combine_chunks(), passages, digest=digest.hexdigest())


def stage_asked(db: DuckDBPyConnection, query_ids: Sequence[str]) -> None:
    """Make the table `asked` of query ids and their numbers."""
    tables.stage(db, "asked", ASKED_SCHEMA, rows=((query_id, number) for number, query_id in enumerate(query_ids)))


def stage_grades(db: DuckDBPyConnection, table: str, paths: Sequence[Path], *, scale: str | None) -> None:
    """Make a table of the graded pairs of qrels files. Raises `DataError` as `read_qrels` does."""
    rows = (
        (row.query_id, row.passage_id, row.grade, place) for place, row in enumerate(qrels_rows(*paths, scale=scale))
    )
    tables.stage(db, table, GRADE_SCHEMA, rows=rows)
    refuse_duplicates(db, table, rows=lambda: qrels_rows(*paths, scale=scale), key=("query_id", "passage_id"))
    if not tables.row(db, f"FROM {table}"):
        raise DataError(f"{', '.join(map(str, paths))}: there are no qrels")


def judged_queries(
    db: DuckDBPyConnection, paths: Sequence[Path], options: PoolOptions, *, queries: dict[str, str]
) -> list[str]:
    """Return the queries of the table `judged` in file order.

    Raises `DataError` with file and line of an unknown id; with `skip_unknown`, such pairs are left out and counted.
    """
    unknown = """FROM judged WHERE query_id NOT IN (SELECT query_id FROM asked)
        OR passage_id NOT IN (SELECT passage_id FROM corpus)"""
    count = tables.value(db, f"SELECT count(*) {unknown}")
    if count and not options.skip_unknown:
        first = tables.value(db, f"SELECT min(place) {unknown}")
        row = next(islice(qrels_rows(*paths, scale=options.scale), first, None))
        raise DataError(f"{row.where}: {unknown_id(row.query_id, row.passage_id, queries)}; {SKIP}")
    if count:
        log.warning(f"{paths[0]}: {count:,} pairs with an unknown query or passage are left out")
        db.execute(f"DELETE {unknown}")
    found = db.execute("SELECT query_id FROM judged GROUP BY query_id ORDER BY min(place)").fetchall()
    return [query_id for (query_id,) in found]
