"""Compare BM25 of `labelkit pool` with bm25s: queries per second of one core, equal ids and scores.

The peer is bm25s with its numba backend, on the index that labelkit keeps. CPU time is counted, so that other work on
the machine disturbs little.

    python benchmarks/made_corpus.py scifact cacm cisi cranfield -o DATA --passages 1000000
    python benchmarks/bm25_speed.py DATA
"""

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bm25s

from labelkit.corpora.corpus import corpus_rows
from labelkit.corpora.queries import query_rows
from labelkit.pooling.bm25 import Bm25
from labelkit.pooling.bm25_index import Corpus, digest_of, open_index
from labelkit.pooling.languages import terms_of
from labelkit.pooling.stages import LoggedStages
from labelkit.records import full_text


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of some work and its CPU seconds over all threads."""
    start = time.process_time()
    return work(), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--depth", type=int, default=30)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    path = options.data / "corpus.jsonl"
    queries = [text for _, _, text in query_rows(options.data / "queries.jsonl")][: options.queries]
    rows = (full_text(title, text) for _, _, title, text in corpus_rows(path))
    digest, count = digest_of(rows), sum(1 for _ in corpus_rows(path))
    corpus = Corpus(lambda: (full_text(title, text) for _, _, title, text in corpus_rows(path)), digest, count)
    engine, seconds = timed(lambda: Bm25(corpus))
    print(f"{count:,} passages, index in {seconds:.0f} CPU seconds")

    index = open_index(corpus, terms_of(None), LoggedStages())
    peer = bm25s.BM25(backend="numba")
    peer.vocab_dict, peer.unique_token_ids_set, peer.nonoccurrence_array = index.vocabulary, set(), None
    peer.scores = {"data": index.scores, "indices": index.rows, "indptr": index.starts, "num_docs": count}
    asked = bm25s.tokenize(queries, stopwords="en", return_ids=False, show_progress=False)

    def ours() -> Any:
        return list(engine.search(queries, options.depth))

    def theirs() -> Any:
        return peer.retrieve(asked, k=options.depth, show_progress=False, n_threads=1)

    ours(), theirs()  # compiles the loops
    (mine, own), (found, other) = timed(ours), timed(theirs)
    print(f"{len(queries) / own:,.0f} queries per second and core, bm25s {len(queries) / other:,.0f}")
    pairs = zip(mine, found.documents, found.scores, strict=True)
    same = all(
        rows.tolist() == theirs[scores > 0].tolist() and marks.tolist() == scores[scores > 0].tolist()
        for (rows, marks), theirs, scores in pairs
    )
    print("equal ids and scores" if same else "the ids or scores differ")


if __name__ == "__main__":
    main()
