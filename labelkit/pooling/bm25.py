"""Search a corpus by BM25 (Lucene's formula), and score single pairs.

The scores, the format of the index and the ids equal bm25s's; the loops that search it are ours. Measured with
`benchmarks/made_corpus.py` (1 million passages, queries of 6 words, best 30 passages) in queries per second of one core
on a busy machine: 1,490 here, 790 by bm25s with numba, 24 by bm25s without it, and 860 by tantivy, whose scores are
rounded and whose ids differ.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from labelkit.corpora.runs import RankedRun
from labelkit.pooling.bm25_index import K1, METHOD, B, Corpus, cores, digest_of, open_index
from labelkit.pooling.languages import described, terms_of
from labelkit.pooling.sharing import map_shared
from labelkit.pooling.stages import LoggedStages, Report, Stage
from labelkit.records import Passage, Query

QUERIES_AT_ONCE = 4_096
PART = 32
"""Queries that a thread searches together."""
Found = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Rows of passages in the corpus and their scores, best first."""


class Bm25:
    """A corpus that can be searched by BM25."""

    def __init__(self, corpus: Corpus, language: str | None = None, report: Report | None = None) -> None:
        """Open the corpus's index from the cache, or build it. Raises `UnknownNameError` for an unknown language."""
        self._terms = terms_of(language)
        self._report = report or LoggedStages()
        self._index = open_index(corpus, self._terms, self._report)

    @property
    def settings(self) -> dict[str, str]:
        """The formula, parameters and terms in words, for a manifest."""
        return {"formula": f"{METHOD}, k1 = {K1}, b = {B}", **described(self._terms)}

    def search(self, queries: Sequence[str], depth: int) -> Iterator[Found]:
        """Yield the `depth` best passages of each query that share a term with it.

        Passages with equal scores are in the order in which bm25s returns them. The processes of `sharing` share the
        queries.
        """
        depth, left = min(depth, self._index.passages), iter(queries)
        done = 0
        with ThreadPoolExecutor(cores()) as threads:

            def work(parts: Sequence[Sequence[str]]) -> Iterator[Found]:
                return threads.map(lambda part: self._best(part, depth), parts)

            while texts := list(islice(left, QUERIES_AT_ONCE)):
                parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
                for found, scores in map_shared(work, parts):
                    for rows, marks in zip(found, scores, strict=True):
                        shared = marks > 0
                        yield rows[shared], marks[shared]
                done += len(texts)
                self._report(Stage("BM25: search", done, len(queries), items="queries"))

    def run(self, ids: Sequence[str], queries: Mapping[str, str], depth: int) -> RankedRun:
        """Rank the `depth` best passages of each query (id -> text) with their scores; `ids` has the id of each row."""
        found = self.search(list(queries.values()), depth)
        return {
            query_id: {ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)}
            for query_id, (rows, scores) in zip(queries, found, strict=True)
        }

    def scores(self, queries: Sequence[str], pairs: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """Compute the score of each pair, a number of a query and a row of a passage: [pairs]; 0 without a shared term.

        Only the postings of the pairs' passages are read.
        """
        from labelkit.pooling.bm25_kernels import scores_of

        index = self._index
        asked, rows = np.array(pairs, np.int64).reshape(-1, 2).T
        terms, ends = self._numbers(queries)
        made: NDArray[np.float32] = scores_of(
            index.scores,
            index.rows,
            index.starts,
            terms=terms,
            ends=ends,
            queries=asked.copy(),
            passages=rows.astype(np.int32),
        )
        return made

    def _best(self, queries: Sequence[str], depth: int) -> Found:
        from labelkit.pooling.bm25_kernels import best_passages

        index = self._index
        terms, ends = self._numbers(queries)
        found: Found = best_passages(
            index.scores, index.rows, index.starts, passages=index.passages, terms=terms, ends=ends, depth=depth
        )
        return found

    def _numbers(self, queries: Iterable[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the numbers of the queries' known terms in one array, and the end of each query in it."""
        known = self._index.vocabulary
        numbers = [[known[term] for term in self._terms.of(text) if term in known] for text in queries]
        ends = np.cumsum([len(one) for one in numbers], dtype=np.int64)
        return np.array([number for one in numbers for number in one], np.int32), ends


def bm25_run(
    corpus: Mapping[str, Passage], queries: Mapping[str, Query], depth: int, *, language: str | None = None
) -> RankedRun:
    """Rank passages by BM25, with title and text as one field.

    Passages that share no word with a query are omitted.
    """
    texts = [passage.full_text for passage in corpus.values()]
    engine = Bm25(Corpus(lambda: texts, digest_of(texts), len(texts)), language)
    return engine.run(list(corpus), {name: query.text for name, query in queries.items()}, depth)
