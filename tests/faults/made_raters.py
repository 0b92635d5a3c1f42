"""Raters made from judgements in memory, read by the same code as those of folders."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.quality.rater_reading import Who, read_raters, register_judges, said_by
from labelkit.quality.raters import FAILED, MISSING, Pairs, Rater
from labelkit.records import JUDGEMENT_SCHEMA, Judge, Judgement
from labelkit.storage import tables


class Made(NamedTuple):
    """A rater and its judgements by (query id, passage id)."""

    rater_id: str
    name: str
    kind: str
    judgements: Mapping[tuple[str, str], Judgement]
    imported: bool = False
    source: int = 0


def in_session(db: DuckDBPyConnection, *given: Made) -> list[Rater]:
    """Read raters in a session, in the given order."""
    parts = []
    for number, one in enumerate(given):
        rows = [
            row.model_dump() | {"query_id": query_id, "passage_id": passage_id, "judge_id": "j"}
            for (query_id, passage_id), row in one.judgements.items()
        ]
        db.register(f"made_{number}", pa.Table.from_pylist(rows, schema=JUDGEMENT_SCHEMA))
        judge = Judge(judge_id="j", kind="llm", name="j", label_grades=(0, 1, 2, 3))
        register_judges(db, f"judges_{number}", [judge], first=number)
        parts.append(said_by(f"(SELECT *, 0::BIGINT AS row FROM made_{number})", f"judges_{number}"))
    who = [Who(one.rater_id, one.name, one.kind, imported=one.imported, source=one.source) for one in given]
    return read_raters(db, who, parts)


def make_raters(*given: Made) -> list[Rater]:
    """Read raters in a session of their own."""
    with tables.temporary() as db:
        return in_session(db, *given)


def raters_of_one_query(rows: Sequence[Sequence[int | None]]) -> list[Rater]:
    """Raters with these grades of the same passages of one query, made without a session."""
    size = len(rows[0])
    ids = [pa.array(["q"], pa.large_string()), pa.array([f"p{n:03}" for n in range(size)], pa.large_string())]
    pairs = Pairs(np.zeros(size, np.int32), np.arange(size, dtype=np.int32), *ids)
    nothing = {name: np.broadcast_to(value, size) for name, value in MISSING.items()}
    grades = [np.array([FAILED if grade is None else grade for grade in row], np.int8) for row in rows]
    return [
        Rater(str(number), str(number), "llm", None, False, 0, pairs, pairs.passage, **nothing | {"grade": grade})
        for number, grade in enumerate(grades)
    ]


def judgements_in_memory(batches: Iterator[pa.RecordBatch]) -> list[Judgement]:
    """Judgements of batches."""
    return [Judgement(**row) for batch in batches for row in batch.to_pylist()]
