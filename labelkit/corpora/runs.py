"""Read TREC runs: ranked passages of each query."""

import math
from collections.abc import Iterator
from pathlib import Path

from labelkit.corpora.rows import text_lines
from labelkit.errors import DataError

RankedRun = dict[str, dict[str, float]]
"""Query id -> passage id -> score, in rank order."""


def read_run(path: Path) -> RankedRun:
    """Read a TREC run (`qid Q0 docid rank score tag`): scores by query, highest first, ties in file order.

    Raises `DataError`.
    """
    run: RankedRun = {}
    for where, query_id, passage_id, score in run_rows(path):
        ranked = run.setdefault(query_id, {})
        if passage_id in ranked:
            raise DataError(f"{where}: the pair {query_id!r}, {passage_id!r} is duplicated")
        ranked[passage_id] = score
    return {qid: dict(sorted(ranked.items(), key=lambda item: -item[1])) for qid, ranked in run.items()}


def run_rows(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield `file:line`, query id, passage id and score of each line of a TREC run. Raises `DataError`."""
    for where, line in text_lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise DataError(f"{where}: expected 6 columns (qid Q0 docid rank score tag), found {len(fields)}")
        try:
            score = float(fields[4])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(f"{where}: the score {fields[4]!r} is not a finite number")
        yield where, fields[0], fields[2], score
