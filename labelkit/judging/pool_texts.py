"""Read the pairs of a pool with their texts as a judge reads them, query by query.

Places in files are in memory, 20 to 40 bytes per pair and passage; texts are in a temporary file.
"""

from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from labelkit.engines.tokenizers import Tokens
from labelkit.errors import ArtifactError
from labelkit.judging.reading import Reading, Texts, read_passage, second_looks
from labelkit.pooling.pool import KIND, Pool
from labelkit.records import PASSAGE_SCHEMA, QUERY_SCHEMA, full_text
from labelkit.storage import folders
from labelkit.storage.dataset import records_to_table
from labelkit.storage.text_file import TextFile

IDS = ("query_id", "passage_id")
Array = Any
"""A numpy array, whose docstring gives its shape and type."""


class PoolTables(NamedTuple):
    """The tables of a pool, from its folder or from memory."""

    name: str
    """Name of the pool in messages."""
    pairs: Callable[[], pa.Table]
    """Returns query id and passage id of the candidates, in judging order."""
    queries: pa.Table
    passage_ids: pa.ChunkedArray
    passages: Callable[[], Iterator[pa.RecordBatch]]
    """Returns the passages with their texts, in the order of `passage_ids`."""
    inputs: dict[str, str]
    """Inputs for the manifest of labels from this pool: path -> sha256."""

    def first(self, limit: int | None) -> "PoolTables":
        """Return the tables with only the first `limit` pairs; None keeps all."""
        return self._replace(pairs=lambda: self.pairs().slice(0, limit))


def tables_of(source: Pool | Path, *, verify: bool = True) -> PoolTables:
    """Open the tables of a pool. Raises `ArtifactError` if a folder is not a finished pool."""
    return tables_in_memory(source) if isinstance(source, Pool) else tables_in(source, verify=verify)


def tables_in(folder: Path, *, verify: bool) -> PoolTables:
    """Open the tables of a pool folder; passages are read from it later."""
    inputs = inputs_of(folder, verify)
    return PoolTables(
        name=str(folder),
        pairs=lambda: folders.read_table(folder, "candidates", IDS),
        queries=folders.read_table(folder, "queries"),
        passage_ids=folders.read_table(folder, "passages", ["passage_id"])["passage_id"],
        passages=lambda: folders.read_batches(folder, "passages"),
        inputs=inputs,
    )


def inputs_of(folder: Path, verify: bool) -> dict[str, str]:
    """Check a pool folder and return the inputs for the manifest of labels from it: path -> sha256."""
    folders.read_manifest(folder, KIND, verify=verify)
    return {str(folder): folders.file_sha256(folder / folders.MANIFEST)}


def tables_in_memory(pool: Pool) -> PoolTables:
    """Return the tables of a pool in memory, with the passages of its candidates only."""
    rows = [(one.query_id, one.passage_id) for one in pool.candidates]
    columns = zip(*rows, strict=True) if rows else ([], [])
    pairs = pa.table([pa.array(column, pa.string()) for column in columns], names=IDS)
    used = dict.fromkeys(passage_id for _, passage_id in rows)
    passages = records_to_table((pool.passages[passage_id] for passage_id in used), PASSAGE_SCHEMA)
    return PoolTables(
        name="the pool",
        pairs=lambda: pairs,
        queries=records_to_table(pool.queries.values(), QUERY_SCHEMA),
        passage_ids=passages["passage_id"],
        passages=lambda: iter(passages.to_batches()),
        inputs=pool.inputs,
    )


class PoolTexts:
    """The texts of a pool by the number of the query, from 0 in judging order. Use it in `with`.

    Each passage is cut and defended once, when the texts are opened. Raises `ArtifactError` if a text is missing or the
    disk is full.
    """

    def __init__(self, tables: PoolTables, reading: Reading, tokens: Tokens | None, *, scratch: Path) -> None:
        """`scratch`: folder in which the temporary file is made."""
        self.scratch = scratch
        self._reading = reading
        self._tokens = tokens
        self._ids = pc.cast(tables.passage_ids, pa.large_string()).combine_chunks()
        pairs = tables.pairs()
        self._rows = _numbers(pairs["passage_id"], tables.passage_ids, f"{tables.name}: passage")
        self._starts = _starts(pairs["query_id"])
        query_ids = pairs["query_id"].take(self._starts[:-1])
        del pairs  # its ids take most of the memory of a pool
        numbers = _numbers(query_ids, tables.queries["query_id"], f"{tables.name}: query")
        self._queries = tables.queries["text"].take(numbers).combine_chunks()
        self._query_ids = query_ids.combine_chunks()
        self._looked = np.zeros(len(self._query_ids), dtype=bool)
        self._repeats = np.zeros(len(self._rows), dtype=bool)
        """Pairs whose passage repeats the query, of queries that were looked at: [pairs], bool."""
        self._cut = np.zeros(len(self._ids), dtype=bool)
        self._stripped = np.zeros(len(self._ids), dtype=bool)
        self._texts = TextFile(self._shown(tables), scratch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._texts.__exit__(kind, error, trace)

    def __len__(self) -> int:
        """Return the number of queries with candidates."""
        return len(self._starts) - 1

    def query_id(self, number: int) -> str:
        """Return the id of a query by its number."""
        found: str = self._query_ids[number].as_py()
        return found

    def __getitem__(self, number: int) -> Texts:
        """Return the texts of a query by its number."""
        rows = self._rows[self._starts[number] : self._starts[number + 1]]
        query_id, query = self.query_id(number), self._queries[number].as_py()
        ids = self._ids.take(pa.array(rows)).to_pylist()
        passages = dict(zip(ids, self._texts.several(rows.tolist()), strict=True))
        return Texts(query_id, query, passages, without_query=self._again(number, passages, query=query))

    def _again(self, number: int, passages: dict[str, str], *, query: str) -> dict[str, str]:
        """Return the passages for the second look at a query. Which ones they are is computed once."""
        part = slice(self._starts[number], self._starts[number + 1])
        if self._looked[number]:
            repeats = compress(passages.items(), self._repeats[part].tolist())
            return second_looks(query, dict(repeats), self._reading)
        again = second_looks(query, passages, self._reading)
        self._looked[number] = True
        self._repeats[part] = [passage_id in again for passage_id in passages] if again else False
        return again

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for the manifest: longest passage, and number of pairs whose passage was cut or stripped."""
        length = "passage_tokens" if self._reading.passage_tokens else "passage_words"
        facts: dict[str, Any] = {length: getattr(self._reading, length)}
        facts["cut_passages"] = int(self._cut[self._rows].sum())
        if stripped := int(self._stripped[self._rows].sum()):
            facts["stripped_passages"] = stripped
        return facts

    def passages_of(self) -> Iterator[tuple[str, list[str]]]:
        """Yield every query id with the ids of its passages, sorted by query id."""
        for number in pc.sort_indices(self._query_ids).to_pylist():
            rows = self._rows[self._starts[number] : self._starts[number + 1]]
            yield self.query_id(number), self._ids.take(pa.array(rows)).to_pylist()

    def _shown(self, tables: PoolTables) -> Iterator[str]:
        """Yield the passages as a judge reads them; an empty text for a passage of no pair."""
        used = np.zeros(len(self._ids), dtype=bool)
        used[self._rows] = True
        row = 0
        for batch in tables.passages():
            needed = used[row : row + batch.num_rows].tolist()
            for title, text, wanted in zip(batch["title"].to_pylist(), batch["text"].to_pylist(), needed, strict=True):
                if wanted:
                    read = read_passage(full_text(title, text), self._reading, self._tokens)
                    self._cut[row], self._stripped[row] = read.cut, read.stripped
                yield read.text if wanted else ""
                row += 1


def _numbers(ids: pa.ChunkedArray, known: pa.ChunkedArray, what: str) -> Array:
    """Return the place of each id in `known`: [ids], int32. Raises `ArtifactError` for an id that is not in it."""
    found = pc.index_in(ids, value_set=known)
    if found.null_count:
        missing = ids.filter(pc.is_null(found))[0].as_py()
        raise ArtifactError(f"{what} {missing!r} has candidates but no text; make the pool again")
    return found.to_numpy()


def _starts(query_ids: pa.ChunkedArray) -> Array:
    """Return the first pair of each query, and at the end the number of pairs: [queries + 1], int64."""
    count = len(query_ids)
    if not count:
        return np.zeros(1, dtype=np.int64)
    new = pc.not_equal(query_ids.slice(1), query_ids.slice(0, count - 1)).to_numpy()
    return np.concatenate([[0], np.flatnonzero(new) + 1, [count]])
