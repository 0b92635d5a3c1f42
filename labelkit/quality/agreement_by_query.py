"""Counts the pairs of each query alone, for the range of a figure over queries."""

from collections.abc import Iterator, Sequence

import numpy as np

from labelkit.quality.agreement_metrics import FIGURES, FIGURES_OF_SCORES, GRADES, RELEVANT, Counts, Floats, Rated

BLOCK = 65_536
"""Number of queries in memory at a time."""
NONE = np.zeros(0)


def counts_by_query(pairs: Rated) -> Iterator[tuple[Counts, Sequence[str]]]:
    """Yield counts of single queries, in blocks, with the names of the figures that they give."""
    by_grade = [name for name in FIGURES if name not in FIGURES_OF_SCORES]
    for start in range(0, pairs.queries, BLOCK):
        confusion = pairs.by_query[start : start + BLOCK].reshape(-1, GRADES, GRADES)
        yield Counts(confusion, NONE, NONE, queries=np.ones(len(confusion))), by_grade
    for relevant, others in levels_by_query(pairs):
        yield Counts(NONE, relevant, others, queries=np.ones(len(relevant))), FIGURES_OF_SCORES


def levels_by_query(pairs: Rated) -> Iterator[tuple[Floats, Floats]]:
    """Yield the numbers of relevant and of other pairs by level of the score, `[queries, L]`, of the queries with the
    same number L of levels.
    """
    place = pairs.query.astype(np.int64) * max(1, pairs.levels) + pairs.level
    found, level = np.unique(place, return_inverse=True)
    relevant = pairs.cell >= RELEVANT * GRADES
    counts = [np.bincount(level[side], minlength=len(found)).astype(float) for side in (relevant, ~relevant)]
    sizes = np.bincount(found // max(1, pairs.levels), minlength=pairs.queries)
    first = np.cumsum(sizes) - sizes
    for size in np.unique(sizes).tolist():
        queries = np.flatnonzero(sizes == size)
        for start in range(0, len(queries), BLOCK):
            rows = first[queries[start : start + BLOCK], None] + np.arange(size)
            yield counts[0][rows], counts[1][rows]
