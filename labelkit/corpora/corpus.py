"""Read the passages of a corpus: id, title and text from JSONL, JSON, CSV, TSV, Parquet or TREC documents."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labelkit.corpora.fields import PASSAGE_IDS, TEXTS, USUAL, Fields, PassageColumns, passage_columns
from labelkit.corpora.files import column_names, file_rows, names_without_header
from labelkit.corpora.rows import id_of, text_of
from labelkit.errors import DataError
from labelkit.records import Passage

PassageRow = tuple[str, str, str, str]
"""Place (`file:line`), id, title and text of a passage."""


def read_corpus(*paths: Path, fields: Fields = USUAL) -> dict[str, Passage]:
    """Read passages by id, in file order. Raises `DataError`."""
    corpus: dict[str, Passage] = {}
    for where, passage_id, title, text in corpus_rows(*paths, fields=fields):
        if passage_id in corpus:
            raise DataError(f"{where}: passage id {passage_id!r} is duplicated")
        corpus[passage_id] = Passage(passage_id=passage_id, title=title, text=text)
    if not corpus:
        raise DataError(f"{', '.join(map(str, paths))}: the corpus is empty")
    return corpus


def corpus_rows(*paths: Path, fields: Fields = USUAL) -> Iterator[PassageRow]:
    """Yield `file:line`, id, title and text of each passage in file order; duplicated ids are not detected."""
    for path in paths:
        given = names_without_header(path, fields, PASSAGE_IDS + TEXTS)
        if names := column_names(path, given):
            columns = passage_columns(names, fields, str(path))
            for where, row in file_rows(path, given, columns):
                yield where, *passage_in(row, columns, where)


def passage_in(row: Mapping[str, Any], columns: PassageColumns, where: str) -> tuple[str, str, str]:
    """Return id, title and text of a row. Raises `DataError`."""
    title = text_of(row, columns.title, where) if row.get(columns.title) is not None else ""
    return id_of(row, columns.id, where), title, text_of(row, columns.text, where)
