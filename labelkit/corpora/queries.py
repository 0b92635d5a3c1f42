"""Read queries: id and text from JSONL, JSON, CSV, TSV, Parquet or TREC topics."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labelkit.corpora.fields import QUERY_IDS, QUERY_TEXTS, USUAL, Fields, QueryColumns, query_columns
from labelkit.corpora.files import column_names, file_rows, names_without_header
from labelkit.corpora.rows import id_of, text_of
from labelkit.errors import DataError
from labelkit.records import Query

QueryRow = tuple[str, str, str]
"""Place (`file:line`), id and text of a query."""


def read_queries(*paths: Path, fields: Fields = USUAL) -> dict[str, Query]:
    """Read queries by id, in file order. Raises `DataError`."""
    texts = query_texts(*paths, fields=fields)
    return {query_id: Query(query_id=query_id, text=text) for query_id, text in texts.items()}


def query_texts(*paths: Path, fields: Fields = USUAL) -> dict[str, str]:
    """Read the texts of queries by id, in file order. Raises `DataError`."""
    queries: dict[str, str] = {}
    for where, query_id, text in query_rows(*paths, fields=fields):
        if query_id in queries:
            raise DataError(f"{where}: query id {query_id!r} is duplicated")
        queries[query_id] = text
    if not queries:
        raise DataError(f"{', '.join(map(str, paths))}: there are no queries")
    return queries


def query_rows(*paths: Path, fields: Fields = USUAL) -> Iterator[QueryRow]:
    """Yield `file:line`, id and text of each query, in file order.

    A query that an earlier file contains with the same text is left out: files of several splits share queries.
    """
    seen: dict[str, str] = {}
    for number, path in enumerate(paths):
        earlier = dict(seen) if number else {}
        given = names_without_header(path, fields, QUERY_IDS + QUERY_TEXTS)
        if names := column_names(path, given):
            columns = query_columns(names, fields, str(path))
            for where, row in file_rows(path, given, columns):
                query_id, text = query_in(row, columns, where)
                if earlier.get(query_id) != text:
                    yield where, query_id, text
                if len(paths) > 1:
                    seen[query_id] = text


def query_in(row: Mapping[str, Any], columns: QueryColumns, where: str) -> tuple[str, str]:
    """Return id and text of a row. Raises `DataError`."""
    return id_of(row, columns.id, where), text_of(row, columns.text, where)
