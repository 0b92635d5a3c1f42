"""Read the queries of a `queries.jsonl` (`_id`, `text`)."""

from collections.abc import Iterator
from pathlib import Path

from labelkit.corpora.rows import _json, lines, text_of
from labelkit.errors import DataError
from labelkit.records import Query


def read_queries(path: Path) -> dict[str, Query]:
    """Read queries by id, in file order. Raises `DataError`."""
    queries: dict[str, Query] = {}
    for where, query_id, text in query_rows(path):
        if query_id in queries:
            raise DataError(f"{where}: query id {query_id!r} is duplicated")
        queries[query_id] = Query(query_id=query_id, text=text)
    if not queries:
        raise DataError(f"{path}: there are no queries")
    return queries


def query_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield `file:line`, id and text of each query, in file order."""
    for where, raw in lines(path):
        yield where, *query_row(raw, where)


def query_row(raw: bytes, where: str) -> tuple[str, str]:
    """Return id and text of a line. Raises `DataError`."""
    row = _json(raw, where)
    return text_of(row, "_id", where), text_of(row, "text", where)
