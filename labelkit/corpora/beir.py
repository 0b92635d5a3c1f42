"""Read BEIR folders: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`, the layout of all input data.

A malformed line raises an error with its file and line number; `labelkit tidy` sets such lines aside.
"""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.corpus import read_corpus
from labelkit.corpora.qrels import Qrels, qrels_path, read_qrels
from labelkit.corpora.queries import read_queries
from labelkit.errors import DataError
from labelkit.records import Passage, Query


class Data(NamedTuple):
    """A retrieval collection. `qrels` is empty if no split was requested."""

    corpus: dict[str, Passage]
    queries: dict[str, Query]
    qrels: Qrels


def read_data(folder: Path, split: str | None = None, scale: str | None = None) -> Data:
    """Read a BEIR folder; with `split`, also read its qrels and keep only the queries in them.

    `scale` is the text of the scale of the qrels' grades if they are not 0 to 3.

    Raises `DataError` if a file is missing, a line is malformed, an id is duplicated, the corpus is empty, or the qrels
    name an unknown query or passage.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give a BEIR folder with corpus.jsonl and queries.jsonl")
    corpus = read_corpus(folder / "corpus.jsonl")
    queries = read_queries(folder / "queries.jsonl")
    if split is None:
        return Data(corpus, queries, {})
    path = qrels_path(folder, split)
    qrels = read_qrels(path, scale)
    check_ids(qrels, queries, corpus, where=str(path))
    return Data(corpus, {query_id: queries[query_id] for query_id in qrels}, qrels)


def check_ids(
    pairs: Mapping[str, Iterable[str]],
    queries: Container[str],
    corpus: Container[str],
    where: str,
) -> None:
    """Raise `DataError` if `pairs` (qrels or a run) name a query or passage that is not in the collection."""
    for query_id, passage_ids in pairs.items():
        if query_id not in queries:
            raise DataError(f"{where}: query id {query_id!r} is not in queries.jsonl")
        for passage_id in passage_ids:
            if passage_id not in corpus:
                raise DataError(f"{where}: passage id {passage_id!r} (query {query_id!r}) is not in corpus.jsonl")
