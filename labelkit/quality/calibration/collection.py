"""Reads the collection of judged pairs for the scores of retrievers, as a stream: texts stay on disk."""

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.layout import layout_of
from labelkit.corpora.queries import query_rows
from labelkit.corpora.staged import stage_once
from labelkit.errors import DataError
from labelkit.pooling.bm25_index import Corpus, update
from labelkit.quality.agreement_metrics import Ints, dense
from labelkit.quality.raters import Numbers, Pairs
from labelkit.quality.texts import check_texts
from labelkit.records import QUERY_SCHEMA, full_text
from labelkit.storage import tables

PASSAGE_SCHEMA = pa.schema([("passage_id", pa.string()), ("row", pa.int64()), ("text", pa.string())])


class Collection(NamedTuple):
    """A collection whose judged queries and passages are staged in a session."""

    db: DuckDBPyConnection
    pairs: Pairs
    pair: Numbers
    """`[n]` numbers of the judged pairs."""
    corpus: Corpus
    rows: Ints
    """`[passages]` place of each passage in the corpus."""

    def queries(self) -> tuple[list[str], Ints]:
        """Return the texts of the judged queries in the order of their ids, and each pair's place among them, `[n]`."""
        place, _ = dense(self.pairs.query[self.pair])
        texts = dict(self.db.sql("SELECT query, text FROM rated_queries JOIN asked USING (query_id)").fetchall())
        return [texts[number] for number in np.unique(self.pairs.query[self.pair]).tolist()], place

    def passages(self, count: int) -> Iterator[tuple[Numbers, list[str]]]:
        """Yield the numbers and full texts of the judged passages, `count` at a time, in the order of their ids."""
        self.db.execute(
            """
            CREATE OR REPLACE TABLE shown AS
            SELECT passage, text FROM rated_passages JOIN collection USING (passage_id) ORDER BY passage
            """
        )
        used = np.unique(self.pairs.passage[self.pair])
        for start in range(0, len(used), count):
            part = used[start : start + count]
            between = f"passage BETWEEN {part[0]} AND {part[-1]}"
            texts = dict(self.db.sql(f"SELECT passage, text FROM shown WHERE {between}").fetchall())
            yield part, [texts[number] for number in part.tolist()]


def open_collection(db: DuckDBPyConnection, pairs: Pairs, pair: Numbers, folder: Path, *, texts: bool) -> Collection:
    """Stage a collection in which pairs were judged; full texts of passages only with `texts`.

    Raises `DataError` for a judged query or passage that is missing, or a judged passage that is duplicated.
    """
    layout, digest, count = layout_of(folder), hashlib.sha256(), 0

    def rows() -> Iterator[tuple[str, int, str | None]]:
        nonlocal count
        for _, passage_id, title, text in corpus_rows(*layout.corpus):
            update(digest, full_text(title, text))
            yield passage_id, count, full_text(title, text) if texts else None
            count += 1

    tables.stage(db, "collection", PASSAGE_SCHEMA, rows=rows())
    judged = "SELECT passage_id, row, passage FROM rated_passages JOIN collection USING (passage_id)"
    again = tables.row(db, f"SELECT passage_id FROM ({judged}) GROUP BY passage_id HAVING count(*) > 1 ORDER BY ALL")
    if again:
        _, where = islice((where for where, passage_id, *_ in corpus_rows(*layout.corpus) if passage_id == again[0]), 2)
        raise DataError(f"{where}: passage id {again[0]!r} is duplicated")
    stage_once(db, "asked", QUERY_SCHEMA, rows=lambda: query_rows(*layout.queries), key=("query_id",))
    check_texts(db, pairs, pair, where="the judged pairs", texts=("asked", "collection"))
    place = np.zeros(len(pairs.passage_ids), dtype=np.int64)
    found = db.sql(judged).fetchnumpy()
    place[found["passage"]] = found["row"]
    corpus = Corpus(
        lambda: (full_text(title, text) for _, _, title, text in corpus_rows(*layout.corpus)), digest.hexdigest(), count
    )
    return Collection(db, pairs, pair, corpus=corpus, rows=place)
