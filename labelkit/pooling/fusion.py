"""Fuse the rankings of one query to its candidates, and write candidates as batches of a table.

Rankings are fused by reciprocal rank (Cormack, Clarke and Büttcher, SIGIR 2009, k = 60).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from labelkit.records import CANDIDATE_SCHEMA, Candidate, Origin
from labelkit.storage.tables import ROWS_AT_ONCE

RRF_K = 60


class Found(NamedTuple):
    """A passage worth judging for a query, with all sources that found it."""

    passage_id: str
    sources: tuple[Origin, ...]


def fuse(
    ranked: Sequence[tuple[str, Mapping[str, float]]], human: Mapping[str, int], *, depth: int | None
) -> list[Found]:
    """Return the candidates of a query by reciprocal rank, ties by passage id; `depth` keeps all human positives.

    Args:
        ranked: name of each source -> passage id -> score, in rank order.
        human: id -> grade of each human positive.
        depth: most candidates; None keeps all.
    """
    origins: dict[str, list[Origin]] = {}
    fused: dict[str, float] = {}
    for name, scores in ranked:
        for rank, (passage_id, score) in enumerate(scores.items(), 1):
            origins.setdefault(passage_id, []).append(Origin(name, rank, score))
            fused[passage_id] = fused.get(passage_id, 0.0) + 1 / (RRF_K + rank)
    for rank, (passage_id, grade) in enumerate(sorted(human.items(), key=lambda item: (-item[1], item[0])), 1):
        origins.setdefault(passage_id, []).append(Origin("human", rank, float(grade)))
    order = sorted(origins, key=lambda pid: (-fused.get(pid, 0.0), pid))
    if depth is not None:
        others = {*[pid for pid in order if pid not in human][: max(0, depth - len(human))]}
        # Positives keep their rank among the others, so that the first pairs of a pool include both.
        order = [pid for pid in order if pid in human or pid in others]
    return [Found(pid, tuple(origins[pid])) for pid in order]


def found_in(candidates: Iterable[Candidate]) -> Iterator[tuple[str, Sequence[Found]]]:
    """Yield candidates as query id and what was found for it, in the order of the candidates."""
    for one in candidates:
        yield one.query_id, [Found(one.passage_id, one.sources)]


def candidate_batches(pooled: Iterable[tuple[str, Sequence[Found]]]) -> Iterator[pa.RecordBatch]:
    """Yield candidates, given query by query, as batches of the table of candidates."""
    query_ids: list[str] = []
    waiting: list[Found] = []
    for query_id, found in pooled:
        query_ids += [query_id] * len(found)
        waiting += found
        if len(waiting) >= ROWS_AT_ONCE:
            yield candidate_batch(query_ids, waiting)
            query_ids, waiting = [], []
    yield candidate_batch(query_ids, waiting)


def candidate_batch(query_ids: Sequence[str], found: Sequence[Found]) -> pa.RecordBatch:
    """Return candidates as one batch; their sources become a list of structs."""
    ends = [0]
    for one in found:
        ends.append(ends[-1] + len(one.sources))
    columns = zip(*(origin for one in found for origin in one.sources), strict=True) if ends[-1] else ((), (), ())
    kind = CANDIDATE_SCHEMA.field("sources").type
    parts = [pa.array(column, field.type) for column, field in zip(columns, kind.value_type, strict=True)]
    sources = pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.StructArray.from_arrays(parts, fields=list(kind.value_type))
    )
    passage_ids = pa.array([one.passage_id for one in found], pa.string())
    arrays = [pa.array(query_ids, pa.string()), passage_ids, sources.cast(kind)]
    return pa.record_batch(arrays, schema=CANDIDATE_SCHEMA)
