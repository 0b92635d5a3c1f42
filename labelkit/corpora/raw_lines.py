"""Read the lines of a collection with their bytes, without stopping at a line that cannot be read."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.corpora.corpus import passage_in
from labelkit.corpora.fields import PASSAGE_IDS, QUERY_IDS, QUERY_TEXTS, TEXTS, Fields, passage_columns, query_columns
from labelkit.corpora.files import form_of, lazy_rows, names_without_header
from labelkit.corpora.qrels import columns_of, is_table, lazy_grades, qrels_row
from labelkit.corpora.queries import query_in
from labelkit.corpora.rows import lines, object_in
from labelkit.errors import DataError

Values = tuple[str, ...]
HEADER = b"query-id\tcorpus-id\tscore"


class Line(NamedTuple):
    """A line of a collection, in the form in which a BEIR folder has it."""

    where: str
    raw: bytes
    key: Values = ()
    """Id, or pair of ids; empty for a header and for a line that cannot be read."""
    value: str = ""
    """Text with title, or grade."""
    error: str = ""
    """Why the line cannot be read."""


def passage_lines(paths: Sequence[Path], fields: Fields) -> Iterator[Line]:
    """Yield the lines of a corpus."""
    for path in paths:
        given = names_without_header(path, fields, PASSAGE_IDS + TEXTS)
        columns: Any = None
        for where, raw, row in raw_rows(path, given):
            try:
                found = row()
                columns = columns or passage_columns(found, fields, where)
                passage_id, title, text = passage_in(found, columns, where)
            except DataError as error:
                yield Line(where, raw, error=reason_of(error, where))
                continue
            kept = raw if columns == ("_id", "text", "title") and isinstance(found["_id"], str) else b""
            row_of = {"_id": passage_id, "title": title, "text": text}
            yield Line(where, kept or as_json(row_of), (passage_id,), value=f"{title}\0{text}")


def query_lines(paths: Sequence[Path], fields: Fields) -> Iterator[Line]:
    """Yield the lines of queries. A query that an earlier file contains with the same text is left out."""
    seen: dict[str, str] = {}
    for path in paths:
        earlier = dict(seen)
        given = names_without_header(path, fields, QUERY_IDS + QUERY_TEXTS)
        columns: Any = None
        for where, raw, row in raw_rows(path, given):
            try:
                found = row()
                columns = columns or query_columns(found, fields, where)
                query_id, text = query_in(found, columns, where)
            except DataError as error:
                yield Line(where, raw, error=reason_of(error, where))
                continue
            seen[query_id] = text
            if earlier.get(query_id) == text:
                continue
            kept = raw if columns == ("_id", "text") and isinstance(found["_id"], str) else b""
            yield Line(where, kept or as_json({"_id": query_id, "text": text}), (query_id,), value=text)


def raw_rows(path: Path, given: Sequence[str]) -> Iterator[tuple[str, bytes, Callable[[], Mapping[str, Any]]]]:
    """Yield place, bytes and a function that returns the row. Only lines of JSONL have bytes."""
    if form_of(path) == ".jsonl":
        for where, raw in lines(path):
            yield where, raw, lambda raw=raw, where=where: object_in(raw, where)  # type: ignore[misc]
    else:
        for where, made in lazy_rows(path, given):
            yield where, b"", made


def grade_lines(paths: Sequence[Path], scale: str | None = None) -> Iterator[Line]:
    """Yield the lines of qrels. One text file keeps its lines; other files are written with a header and tabs."""
    if len(paths) == 1 and not is_table(paths[0]):
        form = None
        for where, raw in lines(paths[0]):
            if form is None and (form := columns_of(raw, scale)).header:
                yield Line(where, raw)
                continue
            try:
                row = qrels_row(raw, where, form, scale=scale)
            except DataError as error:
                yield Line(where, raw, error=reason_of(error, where))
            else:
                yield Line(where, raw, row[:2], value=row.raw_grade or str(row.grade))
        return
    yield Line(f"{paths[0]}:0", HEADER)
    for path in paths:
        for where, graded in lazy_grades(path, scale):
            try:
                row = graded()
            except DataError as error:
                yield Line(where, b"", error=reason_of(error, where))
                continue
            grade = row.raw_grade or str(row.grade)
            yield Line(where, "\t".join((*row[:2], grade)).encode(), row[:2], value=grade)


def as_json(row: Mapping[str, str]) -> bytes:
    """Return a row as a line of JSONL."""
    return json.dumps(row, ensure_ascii=False).encode()


def reason_of(error: DataError, where: str) -> str:
    """Return the message of an error without its place."""
    return str(error).removeprefix(f"{where}: ")
