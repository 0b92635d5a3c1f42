"""Compiled loops of BM25: counting terms, sorting postings by term, and searching them.

A posting is a passage that contains a term, with the score of the term in this passage (Lù, "BM25S", 2024): a search
only adds such scores. bm25s's own search clears and scans one number per passage for each query, 4 MB at a million
passages, so that it runs at the speed of the memory. Here the passages are scored in tiles that fit the processor's
cache, and a tile without a better score than those found is not scanned. The ids equal bm25s's: scores are added
in the same order, and the best ones are kept in the same heap.

All functions release the lock of the interpreter, so that threads run them on all cores.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from bm25s.numba.selection import heap_push, sift_up
from numba import njit
from numpy.typing import NDArray

TILE = 1 << 15
"""Passages that are scored together: 128 KB of scores."""
LANE = 64
"""Neighbouring scores that are compared together with the lowest of the best scores."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call, and keep the machine code on disk where numba finds a folder for it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # the package's folder and the home folder cannot be written
        return njit(nogil=True)(function)


@compiled
def count_terms(
    terms: NDArray[np.int32], ends: NDArray[np.int64], frequencies: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Count the terms of passages. `ends` [P]: end of each passage in `terms`. `frequencies` [V]: number of passages
    with each term, to which these passages are added.

    Returns each distinct term of each passage and its count, passage by passage, and the end of each passage in them.
    """
    distinct = np.empty(len(terms), np.int32)
    counts = np.empty(len(terms), np.int32)
    places = np.empty(len(ends), np.int64)
    place, start = 0, 0
    for passage in range(len(ends)):
        ordered = np.sort(terms[start : ends[passage]])
        start = ends[passage]
        first = place
        for term in ordered:
            if place > first and distinct[place - 1] == term:
                counts[place - 1] += 1
            else:
                distinct[place], counts[place] = term, 1
                frequencies[term] += 1
                place += 1
        places[passage] = place
    return distinct[:place], counts[:place], places


@compiled
def idf_of(frequencies: NDArray[np.int64], passages: int) -> NDArray[np.float32]:
    """Compute the inverse document frequency of each term as Lucene does, log(1 + (N - n + 0.5) / (n + 0.5)): [V]."""
    idf = np.empty(len(frequencies), np.float32)
    for term in range(len(frequencies)):
        known = frequencies[term]
        idf[term] = math.log(1 + (passages - known + 0.5) / (known + 0.5))
    return idf


@compiled
def place_postings(
    distinct: NDArray[np.int32],
    counts: NDArray[np.int32],
    places: NDArray[np.int64],
    lengths: NDArray[np.int32],
    first_passage: int,
    first_term: int,
    heads: NDArray[np.int64],
    idf: NDArray[np.float32],
    mean_length: float,
    k1: float,
    b: float,
    scores: NDArray[np.float32],
    rows: NDArray[np.int32],
) -> None:
    """Write the postings of some terms, from counts of passages as `count_terms` returns them.

    `heads` [T] is the next place in `scores` and `rows` for each of the T terms from `first_term` on; it is moved.
    """
    start = 0
    for passage in range(len(places)):
        length = lengths[passage]
        for place in range(start, places[passage]):
            term = distinct[place] - first_term
            if 0 <= term < len(heads):
                count = float(counts[place])
                scores[heads[term]] = idf[distinct[place]] * (
                    count / (k1 * ((1 - b) + b * length / mean_length) + count)
                )
                rows[heads[term]] = first_passage + passage
                heads[term] += 1
        start = places[passage]


@compiled
def best_passages(
    scores: NDArray[np.float32],
    rows: NDArray[np.int32],
    starts: NDArray[np.int64],
    passages: int,
    terms: NDArray[np.int32],
    ends: NDArray[np.int64],
    depth: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the `depth` best passages of each query: rows and scores, each [Q, `depth`], best first.

    `scores`, `rows` and `starts` are the postings by term, `ends` [Q] is the end of each query in `terms`.
    """
    found = np.zeros((len(ends), depth), np.int32)
    marks = np.zeros((len(ends), depth), np.float32)
    tile = np.zeros(TILE, np.float32)
    first = 0
    for query in range(len(ends)):
        own = terms[first : ends[query]]
        first = ends[query]
        heads, stops = starts[own], starts[own + 1]
        values, places = np.zeros(depth, np.float32), np.zeros(depth, np.int32)
        kept = 0
        for begin in range(0, passages, TILE):
            size = min(TILE, passages - begin)
            top = add_scores(scores, rows, heads, stops=stops, tile=tile, begin=begin, size=size)
            if top > values[0] or kept < depth:
                kept = keep_best(tile[:size], begin, values, places=places, kept=kept)
            if top > 0:
                tile[:size] = 0
        order = np.flip(np.argsort(values))
        found[query], marks[query] = places[order], values[order]
    return found, marks


@compiled
def add_scores(
    scores: NDArray[np.float32],
    rows: NDArray[np.int32],
    heads: NDArray[np.int64],
    stops: NDArray[np.int64],
    tile: NDArray[np.float32],
    begin: int,
    size: int,
) -> np.float32:
    """Add to `tile` the scores of a query's terms in the passages of the tile, and return the highest sum.

    `heads` and `stops` [T] are the next and the last posting of each term; `heads` moves past the tile.
    """
    top = np.float32(0.0)
    for term in range(len(heads)):
        head = heads[term]
        while head < stops[term] and rows[head] < begin + size:
            place = rows[head] - begin
            tile[place] += scores[head]
            top = max(top, tile[place])
            head += 1
        heads[term] = head
    return top


@compiled
def keep_best(
    tile: NDArray[np.float32], begin: int, values: NDArray[np.float32], places: NDArray[np.int32], kept: int
) -> int:
    """Move the best passages of a tile to a query's heap of best ones, and return the number of passages in the heap.

    `values` and `places` are the heap, lowest score first. Most lanes have no better score, which is seen in one sweep.
    """
    for lane in range(0, len(tile), LANE):
        stop = min(lane + LANE, len(tile))
        better = kept < len(values)
        for place in range(lane, stop):
            better |= tile[place] > values[0]
        if better:
            for place in range(lane, stop):
                if kept < len(values):
                    heap_push(values, places, tile[place], begin + place, kept)
                    kept += 1
                elif tile[place] > values[0]:
                    values[0], places[0] = tile[place], begin + place
                    sift_up(values, places, 0, kept)
    return kept


@compiled
def scores_of(
    scores: NDArray[np.float32],
    rows: NDArray[np.int32],
    starts: NDArray[np.int64],
    terms: NDArray[np.int32],
    ends: NDArray[np.int64],
    queries: NDArray[np.int64],
    passages: NDArray[np.int32],
) -> NDArray[np.float32]:
    """Compute the score of each pair of a query and a passage: [pairs]. The pair is `queries[i]`, `passages[i]`."""
    made = np.zeros(len(queries), np.float32)
    for pair in range(len(queries)):
        query = queries[pair]
        for term in terms[ends[query - 1] if query else 0 : ends[query]]:
            postings = rows[starts[term] : starts[term + 1]]
            place = np.searchsorted(postings, passages[pair])
            if place < len(postings) and postings[place] == passages[pair]:
                made[pair] += scores[starts[term] + place]
    return made
