"""Read collections: passages, queries and the qrels of a split, in any layout that `layout_of` finds.

A malformed line raises an error with its file and line number; `labelkit tidy` sets such lines aside.
"""

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from labelkit.corpora.corpus import read_corpus
from labelkit.corpora.fields import USUAL, Fields
from labelkit.corpora.layout import layout_of
from labelkit.corpora.qrels import Qrels, by_model, qrels_rows, read_qrels
from labelkit.corpora.queries import read_queries
from labelkit.errors import DataError
from labelkit.records import Passage, Query

log = logging.getLogger(__name__)


class Data(NamedTuple):
    """A retrieval collection. `qrels` is empty if no split was requested."""

    corpus: dict[str, Passage]
    queries: dict[str, Query]
    qrels: Qrels


def read_data(
    folder: Path,
    split: str | None = None,
    *,
    scale: str | None = None,
    fields: Fields = USUAL,
    skip_unknown: bool = False,
) -> Data:
    """Read a collection; with `split`, also read its qrels and keep only the queries in them.

    Args:
        folder: folder of the collection.
        split: split of the qrels.
        scale: text of the scale of the qrels' grades if they are not 0 to 3.
        fields: names of columns that replace the usual names.
        skip_unknown: leave out, and count, pairs of the qrels whose query or passage is unknown.

    Raises:
        DataError: a file is missing, a line is malformed, an id is duplicated, the corpus is empty, or the qrels name
            an unknown query or passage.
    """
    layout = layout_of(folder)
    corpus = read_corpus(*layout.corpus, fields=fields)
    queries = read_queries(*layout.queries, fields=fields)
    if split is None:
        return Data(corpus, queries, {})
    qrels = known_qrels(layout.files_of(split), queries, corpus, scale=scale, skip_unknown=skip_unknown)
    return Data(corpus, {query_id: queries[query_id] for query_id in qrels}, qrels)


def known_qrels(
    paths: Sequence[Path],
    queries: Container[str],
    corpus: Container[str] | None,
    *,
    scale: str | None = None,
    skip_unknown: bool = False,
) -> Qrels:
    """Read qrels of known queries and passages; without `corpus`, any passage is known.

    Raises `DataError` with file and line of the first unknown id. With `skip_unknown`, such pairs are left out and
    counted instead.
    """
    for path in filter(by_model, paths):
        log.warning(f"{path}: a language model gave these grades: measures on them do not show what people would say")
    qrels = read_qrels(*paths, scale=scale)
    unknown = {
        (query_id, passage_id)
        for query_id, graded in qrels.items()
        for passage_id in graded
        if query_id not in queries or (corpus is not None and passage_id not in corpus)
    }
    if not unknown:
        return qrels
    if not skip_unknown:
        row = next(row for row in qrels_rows(*paths, scale=scale) if (row.query_id, row.passage_id) in unknown)
        raise DataError(f"{row.where}: {unknown_id(row.query_id, row.passage_id, queries)}; {SKIP}")
    if len(unknown) == sum(map(len, qrels.values())):
        raise DataError(f"{paths[0]}: the query or the passage of every pair is unknown: these are qrels of other data")
    log.warning(f"{paths[0]}: {len(unknown):,} pairs with an unknown query or passage are left out")
    known = {
        query_id: {pid: grade for pid, grade in graded.items() if (query_id, pid) not in unknown}
        for query_id, graded in qrels.items()
    }
    return {query_id: graded for query_id, graded in known.items() if graded}


SKIP = "--skip-unknown leaves such pairs out"


def unknown_id(query_id: str, passage_id: str, queries: Container[str]) -> str:
    """Explain which id of a pair is unknown."""
    if query_id not in queries:
        return f"query id {query_id!r} is not in the queries"
    return f"passage id {passage_id!r} (query {query_id!r}) is not in the corpus"


def check_ids(
    pairs: Mapping[str, Iterable[str]],
    queries: Container[str],
    corpus: Container[str],
    where: str,
) -> None:
    """Raise `DataError` if `pairs` (judgments or a run) name a query or passage that is not in the collection."""
    for query_id, passage_ids in pairs.items():
        for passage_id in passage_ids if query_id in queries else [""]:
            if query_id not in queries or passage_id not in corpus:
                raise DataError(f"{where}: {unknown_id(query_id, passage_id, queries)}")
