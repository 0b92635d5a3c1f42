"""Read TREC runs: ranked passages of each query."""

import math
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
        ranked = run.setdefault(fields[0], {})
        if fields[2] in ranked:
            raise DataError(f"{where}: the pair {fields[0]!r}, {fields[2]!r} is duplicated")
        ranked[fields[2]] = score
    return {qid: dict(sorted(ranked.items(), key=lambda item: -item[1])) for qid, ranked in run.items()}
