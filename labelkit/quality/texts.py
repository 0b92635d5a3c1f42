"""Properties of passages, computed while their texts are streamed: no more than some thousand texts are in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.corpora.beir import unknown_id
from labelkit.corpora.staged import stage_texts
from labelkit.corpora.words import words
from labelkit.errors import DataError
from labelkit.quality.agreement_metrics import Floats
from labelkit.quality.raters import Numbers, Pairs
from labelkit.records import full_text
from labelkit.storage import tables

ROWS_AT_ONCE = 8_192


def open_texts(db: DuckDBPyConnection, data: Path) -> None:
    """Make the tables `corpus` and `queries` of a collection, or open the tables of a dataset; if they exist
    already, they are kept. Raises `DataError`.
    """
    if tables.row(db, "SELECT 1 FROM information_schema.tables WHERE table_name = 'corpus'"):
        return
    if not (data / "corpus.parquet").is_file():
        stage_texts(db, data)
        return
    for name in ("corpus", "queries"):
        db.execute(f"CREATE VIEW {name} AS FROM {tables.parquet(data / f'{name}.parquet')}")


def check_texts(
    db: DuckDBPyConnection, pairs: Pairs, pair: Numbers, where: str, texts: tuple[str, str] = ("queries", "corpus")
) -> None:
    """Raise `DataError` if some pairs, given by their numbers, have a query or passage without a text.

    `texts`: names of the tables of queries and of passages.
    """
    unknown = []
    for what, rated, table in zip(("query", "passage"), ("rated_queries", "rated_passages"), texts, strict=True):
        found = db.sql(f"SELECT {what} FROM {rated} WHERE {what}_id NOT IN (SELECT {what}_id FROM {table})")
        unknown.append(np.isin(getattr(pairs, what)[pair], found.fetchnumpy()[what]))
    query, passage = unknown
    if not (query | passage).any():
        return
    first = int(np.argmax(query | passage))
    ((query_id, passage_id),) = pairs.ids(pair[first : first + 1])
    raise DataError(f"{where}: {unknown_id(query_id, passage_id, [] if query[first] else [query_id])}")


def passage_texts(db: DuckDBPyConnection) -> Iterator[tuple[int, str]]:
    """Yield number and full text of every passage that has both, in no particular order."""
    found = db.sql("SELECT passage, title, text FROM rated_passages JOIN corpus USING (passage_id)")
    for batch in found.to_arrow_reader(ROWS_AT_ONCE):
        for number, title, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield number, full_text(title, text)


def texts_of(db: DuckDBPyConnection, query_id: str, passage_id: str) -> tuple[str, str]:
    """Return the text of a query, and the full text of a passage."""
    (query,) = db.execute("SELECT text FROM queries WHERE query_id = ?", [query_id]).fetchall()
    (passage,) = db.execute("SELECT title, text FROM corpus WHERE passage_id = ?", [passage_id]).fetchall()
    return query[0], full_text(*passage)


def of_passages(db: DuckDBPyConnection, pairs: Pairs, value: Callable[[str], int]) -> NDArray[np.int64]:
    """Compute a property of the full text of every passage, `[passages]`."""
    found = np.zeros(len(pairs.passage_ids), dtype=np.int64)
    for number, text in passage_texts(db):
        found[number] = value(text)
    return found


def lengths(db: DuckDBPyConnection, pairs: Pairs) -> NDArray[np.int64]:
    """Count the words of every passage, `[passages]`."""
    return of_passages(db, pairs, lambda text: len(text.split()))


def overlaps(db: DuckDBPyConnection, pairs: Pairs) -> Floats:
    """Compute the share of the query's words in the passage of every pair, `[P]`."""
    rows = db.sql("SELECT query, text FROM rated_queries JOIN queries USING (query_id)").fetchall()
    asked = {number: words(text) for number, text in rows}
    order = np.argsort(pairs.passage, kind="stable")
    first = np.searchsorted(pairs.passage[order], np.arange(len(pairs.passage_ids) + 1))
    found = np.zeros(len(order))
    for number, text in passage_texts(db):
        shown = words(text)
        for pair in order[first[number] : first[number + 1]].tolist():
            wanted = asked[int(pairs.query[pair])]
            found[pair] = len(wanted & shown) / max(1, len(wanted))
    return found
