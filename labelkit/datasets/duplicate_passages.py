"""Finds twins: a positive and a negative of one query whose texts are copies of each other.

The signatures of every positive and every negative of its query are compared, so no twin is missed in large groups. The
signatures of a corpus are stored on disk, 64 bytes per passage.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.corpora.near_duplicates import LIKELY, NEAR, SLOTS, jaccard, normalised, signatures
from labelkit.storage import tables

FULL_TEXT = "trim(title || ' ' || text)"
"""SQL expression with the value of `Passage.full_text`."""
CANDIDATES = pa.schema([("query_id", pa.string()), ("positive", pa.int64()), ("negative", pa.int64())])


def find_twins(db: DuckDBPyConnection, scratch: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield (query id, positive, negative, similarity) for all twins in the session's `labels` and `corpus`."""
    db.execute(
        """
        CREATE OR REPLACE TABLE places AS SELECT passage_id, row_number() OVER () - 1 AS place
        FROM (SELECT DISTINCT passage_id FROM labels WHERE role <> 'ignored')
        """
    )
    likely = list(candidates(db, sketch(db, scratch / "signatures")))
    tables.stage(db, "candidates", CANDIDATES, rows=likely)
    texts = f"SELECT place, passage_id, {FULL_TEXT} AS text FROM places JOIN corpus USING (passage_id)"
    found = db.sql(
        f"""
        SELECT query_id, p.passage_id, n.passage_id, p.text, n.text
        FROM candidates JOIN ({texts}) p ON p.place = positive JOIN ({texts}) n ON n.place = negative
        ORDER BY query_id, p.passage_id, n.passage_id
        """
    )
    for batch in found.to_arrow_reader(tables.ROWS_AT_ONCE):
        ids = zip(*(batch.column(place).to_pylist() for place in range(3)), strict=True)
        plain = zip(*(normalised(batch.column(place)).to_pylist() for place in (3, 4)), strict=True)
        for (query_id, positive, negative), (one, other) in zip(ids, plain, strict=True):
            similarity = jaccard(one, other)
            if one and similarity >= NEAR:
                yield query_id, positive, negative, similarity


def sketch(db: DuckDBPyConnection, path: Path) -> NDArray[np.uint8]:
    """Write the lowest byte of each signature slot of all passages in `places`, `[places, SLOTS]`, to a file
    on disk.
    """
    count = tables.value(db, "SELECT count(*) FROM places")
    sketches = np.memmap(path, np.uint8, "w+", shape=(max(1, count), SLOTS))
    texts = db.sql(f"SELECT place, {FULL_TEXT} FROM corpus JOIN places USING (passage_id)")
    for batch in texts.to_arrow_reader(tables.ROWS_AT_ONCE):
        sketches[batch.column(0).to_numpy()] = signatures(normalised(batch.column(1))).astype(np.uint8)
    return sketches


def candidates(db: DuckDBPyConnection, sketches: NDArray[np.uint8]) -> Iterator[tuple[str, int, int]]:
    """Yield (query id, place of the positive, place of the negative) for all likely twins."""
    placed = "SELECT query_id, place FROM labels JOIN places USING (passage_id) WHERE role"
    pairs = db.sql(
        f"""
        SELECT query_id, p.place, n.place
        FROM ({placed} = 'positive') p JOIN ({placed} = 'negative') n USING (query_id)
        """
    )
    for batch in pairs.to_arrow_reader(tables.ROWS_AT_ONCE):
        positives, negatives = (batch.column(place).to_numpy() for place in (1, 2))
        likely = (sketches[positives] == sketches[negatives]).mean(axis=1) >= LIKELY
        for row in np.flatnonzero(likely).tolist():
            yield batch.column(0)[row].as_py(), int(positives[row]), int(negatives[row])
