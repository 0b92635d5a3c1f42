"""Writes files of another tool again with changed rows.

JSONL and JSON keep the bytes of all other rows, Parquet keeps their values; fields, types and compression stay. A few
thousand rows are read at a time, and the changes of their queries are looked up on disk.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection

from labelkit.corpora.files import ROWS_AT_ONCE, array_texts, form_of, is_array, parquet_file
from labelkit.corpora.rows import COMPRESSED, LINE_BYTES, object_in, opened, parsed
from labelkit.relabelling.rows import CHANGED, Changes, Editor, Row, Rows, Told
from labelkit.relabelling.rules import IGNORE, KEEP, PROMOTE
from labelkit.storage import tables
from labelkit.storage.folders import PARQUET

Placed = tuple[str, Row]
"""Place of a row and its values."""
T = TypeVar("T")
BOM = b"\xef\xbb\xbf"


class Fixer:
    """Looks up the changes of rows and makes the rows that replace them."""

    def __init__(self, db: DuckDBPyConnection, pool: Path, editor: Editor, told: Told) -> None:
        """`db`: session with the table `decided`."""
        self._db, self._editor, self.told = db, editor, told
        db.execute(f"CREATE TABLE changes AS SELECT query_id, passage_id, action, grade FROM decided "
                   f"WHERE action <> '{KEEP}'")  # fmt: skip
        if editor.tuples:
            db.execute(
                f"""
                CREATE TABLE remaining AS
                SELECT query_id, place, text
                FROM (SELECT * FROM decided SEMI JOIN changes USING (query_id)
                      WHERE role = 'negative' AND action = '{KEEP}')
                JOIN {tables.parquet(pool / "passages.parquet")} USING (passage_id)
                """
            )

    def replaced(self, rows: Sequence[Placed | None]) -> list[Rows | None]:
        """Return the rows that replace each row; None for a row that does not change."""
        asked = [row and self._editor.query_id(row[1], row[0]) for row in rows]
        changes = self._changes({query_id for query_id in asked if query_id})
        found: list[Rows | None] = []
        for row, query_id in zip(rows, asked, strict=True):
            mine = changes.get(query_id or "")
            new = self._editor.edit(dict(row[1]), row[0], mine, self.told) if row and mine else None
            self.told.counts[CHANGED] += bool(new)
            found.append(new)
        return found

    def _changes(self, queries: set[str]) -> dict[str, Changes]:
        """Return the changes of queries by id, without queries that have none."""
        among = "query_id IN (SELECT unnest($ids))"
        ids = {"ids": sorted(queries)}
        promoted: dict[str, dict[str, int]] = {}
        ignored: dict[str, set[str]] = {}
        rows = self._db.execute(f"SELECT * FROM changes WHERE {among}", ids).fetchall()
        for query_id, passage_id, action, grade in rows:
            promoted.setdefault(query_id, {})
            ignored.setdefault(query_id, set())
            if action == PROMOTE:
                promoted[query_id][passage_id] = grade
            elif action == IGNORE:
                ignored[query_id].add(passage_id)
        left: dict[str, list[str]] = {}
        if self._editor.tuples and promoted:
            texts = f"SELECT query_id, text FROM remaining WHERE {among} ORDER BY query_id, place"
            for query_id, text in self._db.execute(texts, ids).fetchall():
                left.setdefault(query_id, []).append(text)
        return {
            query_id: Changes(promoted[query_id], frozenset(ignored[query_id]), left.get(query_id, []))
            for query_id in promoted
        }


def rewrite(source: Path, target: Path, fixer: Fixer) -> int:
    """Write a file again with changed rows, in the same form and compression. Returns the number of rows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return WRITERS[form_of(source)](source, target, fixer)


def write_lines(source: Path, target: Path, fixer: Fixer) -> int:
    """Write JSONL again. A changed line has the line end of the old one, and ASCII only if the old one had."""
    count = 0
    with written(target) as file:
        for part in parts(raw_lines(source)):
            rows = [(where, object_in(line, where)) if line.strip() else None for where, _, line in part]
            for (_, raw, line), row, new in zip(part, rows, fixer.replaced(rows), strict=True):
                count += row is not None if new is None else len(new)
                if new is None:
                    file.write(raw)
                    continue
                end = raw[len(raw.rstrip(b"\r\n")) :]
                file.write(raw.removesuffix(line + end))  # the mark at the start of a file
                file.write((end or b"\n").join(as_json(one, line) for one in new) + (end if new else b""))
    return count


def raw_lines(path: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield place, bytes and content of every line, also of blank ones."""
    with opened(path) as file:
        number = 0
        while raw := file.readline(LINE_BYTES + 2):
            number += 1
            yield f"{path}:{number}", raw, raw.removeprefix(BOM if number == 1 else b"").rstrip(b"\r\n")


def as_json(row: Row, like: bytes) -> bytes:
    """Return a row as JSON, with characters outside ASCII escaped if another row has none."""
    return json.dumps(row, ensure_ascii=like.isascii()).encode()


def write_json(source: Path, target: Path, fixer: Fixer) -> int:
    """Write a JSON file again: one object per line, or an array, with the text of unchanged values and one per line."""
    if not is_array(source):
        return write_lines(source, target, fixer)
    count = 0
    with written(target) as file:
        file.write(b"[")
        for part in parts(array_texts(source)):
            rows = [(where, parsed(text, where)) for where, text in part]
            for (_, text), new in zip(part, fixer.replaced(rows), strict=True):
                raw = text.encode()
                for one in [raw] if new is None else [as_json(row, raw) for row in new]:
                    file.write((b",\n" if count else b"\n") + one)
                    count += 1
        file.write(b"\n]\n")
    return count


def write_parquet(source: Path, target: Path, fixer: Fixer) -> int:
    """Write a Parquet file again with the same schema."""
    count = start = 0
    with parquet_file(source) as file, pq.ParquetWriter(target.absolute(), file.schema_arrow, **PARQUET) as writer:
        for batch in file.iter_batches(ROWS_AT_ONCE):
            placed = [(f"{source}, row {number}", row) for number, row in enumerate(batch.to_pylist(), start + 1)]
            start += len(placed)
            new = with_rows(batch, fixer.replaced(placed), file.schema_arrow)
            writer.write_table(new)
            count += new.num_rows
    return count


def with_rows(batch: pa.RecordBatch, replaced: Sequence[Rows | None], schema: pa.Schema) -> pa.Table:
    """Return a batch in which some rows are replaced by others; the other rows are not converted."""
    table = pa.Table.from_batches([batch], schema)
    changed = [row for new in replaced if new for row in new]
    order: list[int] = []
    place = batch.num_rows
    for number, new in enumerate(replaced):
        order += [number] if new is None else range(place, place + len(new))
        place += len(new or ())
    if order == list(range(batch.num_rows)):
        return table
    return pa.concat_tables([table, pa.Table.from_pylist(changed, schema)]).combine_chunks().take(order)


Writer = Callable[[Path, Path, Fixer], int]
WRITERS: dict[str, Writer] = {
    ".jsonl": write_lines,
    ".ndjson": write_lines,
    ".json": write_json,
    ".parquet": write_parquet,
}
"""Ending of a file -> its writer."""


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; a file with an ending of `COMPRESSED` is compressed."""
    if path.suffix not in COMPRESSED:
        with path.open("wb") as file:
            yield file
        return
    with pa.output_stream(str(path.absolute()), compression=COMPRESSED[path.suffix]) as stream:
        yield stream


def parts(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield items in lists of at most `ROWS_AT_ONCE`."""
    left = iter(items)
    while part := list(islice(left, ROWS_AT_ONCE)):
        yield part
