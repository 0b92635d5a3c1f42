"""Reads raters from labels folders, datasets and qrels. DuckDB numbers queries and passages, and sorts judgements."""

import logging
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray

from labelkit.corpora.answers import tool_of
from labelkit.corpora.human import stage_human
from labelkit.quality.agreement_metrics import RELEVANT
from labelkit.quality.raters import MISSING, SCORED, Numbers, Pairs, Rater, union
from labelkit.records import JUDGEMENT_SCHEMA, Judge
from labelkit.storage import tables
from labelkit.storage.labels import judgements_sql, judges_in

log = logging.getLogger(__name__)

RATED = pa.schema(
    [
        ("rater", pa.int32()),
        ("row", pa.int64()),
        ("query_id", pa.string()),
        ("passage_id", pa.string()),
        ("grade", pa.int8()),
        ("score", pa.float64()),
        ("relevance", pa.float64()),
        ("position", pa.int32()),
        ("seed", pa.int64()),
    ]
)
JUDGES = pa.schema([("rater", pa.int32()), ("judge_id", pa.string()), ("relevant", pa.list_(pa.float64()))])

Columns = dict[str, Any]
"""Name of a column -> its values `[n]`."""


class Who(NamedTuple):
    """The identity of a rater whose judgements are not yet read."""

    rater_id: str
    name: str
    kind: str
    family: str | None = None
    imported: bool = False
    source: int = 0


class Source(NamedTuple):
    """The raters of one file or folder, and the SQL of their judgements with a column `row`."""

    who: list[Who]
    judges: list[Judge]
    judgements: str


def raters_of(
    db: DuckDBPyConnection,
    labels: Sequence[Path],
    human: Sequence[Path] = (),
    *,
    scale: str | None = None,
    consensus: bool = False,
) -> list[Rater]:
    """Read all raters: people from the human grades, then people from the folders, then the other judges of the
    folders.

    `scale` is the text of the scale of the human grades if they are not 0 to 3. With `consensus`, the people of each
    source of human grades are one rater, who gave each pair their median grade, the lower one of two.

    The session gets the tables `rated_queries` and `rated_passages` of `number_ids`.
    """
    found = [human_source(db, path, number, scale=scale, consensus=consensus) for number, path in enumerate(human)]
    found += [labels_source(db, folder, number) for number, folder in enumerate(labels, len(found))]
    who: list[Who] = []
    ratings = []
    for number, source in enumerate(found):
        register_judges(db, f"judges_{number}", source.judges, first=len(who))
        ratings.append(said_by(source.judgements, f"judges_{number}"))
        who += source.who
    read = read_raters(db, who, ratings)
    tables.release(db)
    return sorted(read, key=lambda rater: rater.kind != "human")


def labels_source(db: DuckDBPyConnection, folder: Path, number: int) -> Source:
    """Open the judgements of a labels folder or dataset, the source with this number."""
    judges = judges_in(folder)
    who = [
        Who(one.judge_id, one.name, one.kind, family=one.family, imported=made_elsewhere(one), source=number)
        for one in judges
    ]
    return Source(who, judges, judgements_sql(db, folder))


def human_source(db: DuckDBPyConnection, path: Path, number: int, *, scale: str | None, consensus: bool) -> Source:
    """Open human grades, the source with this number; a qrels file is one person with the name of the file."""
    judges, judgements = stage_human(db, f"grades_{number}", path, scale=scale)
    if consensus:
        judgements = median_grades(db, f"medians_{number}", path, judgements=judgements)
        judges = [Judge(judge_id=str(path), kind="human", name=path.name)]
    db.register("no_judgements", JUDGEMENT_SCHEMA.empty_table())
    rows = f"(FROM no_judgements UNION ALL BY NAME SELECT 0::BIGINT AS row, * FROM ({judgements}))"
    one = consensus or (path.is_file() and not tool_of(path))
    who = [
        Who(str(path) if one else judge.judge_id, path.name if one else judge.name, "human", source=number)
        for judge in judges
    ]
    return Source(who, judges, rows)


def median_grades(db: DuckDBPyConnection, table: str, path: Path, judgements: str) -> str:
    """Make a table of the median grade of each pair, the lower one of two, and return its SQL."""
    db.execute(
        f"""
        CREATE OR REPLACE TABLE {table} AS
        SELECT {tables.text(str(path))} AS judge_id, query_id, passage_id, count(*) AS people,
               list_sort(list(grade))[(count(*) + 1) // 2] AS grade
        FROM ({judgements}) GROUP BY query_id, passage_id
        """
    )
    if several := tables.value(db, f"SELECT count(*) FROM {table} WHERE people > 1"):
        log.info(f"{path}: of {several:,} pairs with several grades, the median counts")
    return f"SELECT judge_id, query_id, passage_id, grade FROM {table}"


def made_elsewhere(judge: Judge) -> bool:
    """Return whether the grades of a judge were imported."""
    return judge.engine is None and judge.method is None


def register_judges(db: DuckDBPyConnection, table: str, judges: Sequence[Judge], first: int) -> None:
    """Register a table of judges, who are the raters from number `first` on.

    Its column `relevant` has 1 for each label of the judge that means relevant, else 0.
    """
    rows = [
        {
            "rater": number,
            "judge_id": judge.judge_id,
            "relevant": judge.label_grades and [float(grade >= RELEVANT) for grade in judge.label_grades],
        }
        for number, judge in enumerate(judges, first)
    ]
    db.register(table, pa.Table.from_pylist(rows, schema=JUDGES))


def said_by(judgements: str, judges: str) -> str:
    """Return the SQL of the rated columns of judgements by the judges in a table of `register_judges`."""
    return f"""
        SELECT rater, row, query_id, passage_id, score, position, permutation_seed AS seed,
               if(grade IS NULL AND failure IS NULL, {SCORED}, grade) AS grade,
               list_sum(list_transform(list_zip(probs, relevant), lambda x: x[1] * x[2])) AS relevance
        FROM {judgements} JOIN {judges} USING (judge_id)
    """


def read_raters(db: DuckDBPyConnection, who: Sequence[Who], sources: Sequence[str]) -> list[Rater]:
    """Read raters from SQL statements with columns of `RATED`; the column `rater` is the number in `who`.

    If a rater judged a pair several times, the judgement with the highest `row` counts.
    """
    db.register("no_ratings", RATED.empty_table())
    parts = [f"(FROM no_ratings UNION ALL BY NAME {source})" for source in sources]
    query_ids, passage_ids = (number_ids(db, what, parts) for what in ("query", "passage"))
    found = {number: columns for part in parts for number, columns in columns_of(db, part)}
    keys = {number: columns.pop("key") for number, columns in found.items()}
    every: NDArray[np.int64] = reduce(union, keys.values(), np.zeros(0, dtype=np.int64))
    width = max(1, len(passage_ids))
    pairs = Pairs(
        (every // width).astype(np.int32), (every % width).astype(np.int32), query_ids, passage_ids=passage_ids
    )
    nothing: Columns = {name: np.zeros(0, dtype=value.dtype) for name, value in MISSING.items()}
    numbers = {number: np.searchsorted(every, key).astype(np.int32) for number, key in keys.items()}
    return [
        Rater(*one, pairs, numbers.get(number, every[:0].astype(np.int32)), **found.get(number, nothing))
        for number, one in enumerate(who)
    ]


def number_ids(db: DuckDBPyConnection, what: str, parts: Sequence[str]) -> pa.Array:
    """Make the table `rated_queries` (`query_id`, `query`) or `rated_passages` (`passage_id`, `passage`) of the ids in
    SQL relations, numbered from 0 in their order. Returns the ids in this order.
    """
    table = {"query": "rated_queries", "passage": "rated_passages"}[what]
    ids = " UNION ALL ".join(f"SELECT {what}_id FROM {part}" for part in parts) or f"SELECT {what}_id FROM no_ratings"
    db.execute(
        f"""
        CREATE OR REPLACE TABLE {table} AS
        SELECT {what}_id, (row_number() OVER (ORDER BY {what}_id) - 1)::INT AS {what}
        FROM (SELECT DISTINCT {what}_id FROM ({ids}))
        """
    )
    found = db.sql(f"SELECT {what}_id FROM {table} ORDER BY {what}").to_arrow_table()
    return found.column(0).cast(pa.large_string()).combine_chunks()


def columns_of(db: DuckDBPyConnection, ratings: str) -> Iterator[tuple[int, Columns]]:
    """Yield each rater in an SQL relation with its columns, and the `key` of each pair, in the order of pairs."""
    counts = ", ".join(f"count({name}) AS {name}" for name in MISSING)
    ((size, *given),) = db.execute(f"SELECT count(*), {counts} FROM {ratings}").fetchall()
    there = [name for name, count in zip(MISSING, given, strict=True) if count]
    values = ", ".join(f"coalesce({name}, {literal(MISSING[name])}) AS {name}" for name in there)
    width = tables.value(db, "SELECT count(*) FROM rated_passages")
    reader = db.sql(
        f"""
        SELECT rater, query::BIGINT * {width} + passage AS key, {values}
        FROM {ratings} JOIN rated_queries USING (query_id) JOIN rated_passages USING (passage_id)
        ORDER BY rater, key, row
        """
    ).to_arrow_reader(tables.ROWS_AT_ONCE)
    types = {"rater": np.dtype(np.int32), "key": np.dtype(np.int64)} | {name: MISSING[name].dtype for name in there}
    columns: Columns = {name: np.empty(size, dtype=kind) for name, kind in types.items()}
    filled = 0
    for batch in reader:
        for name, column in columns.items():
            column[filled : filled + batch.num_rows] = batch.column(name).to_numpy()
        filled += batch.num_rows
    yield from by_rater(columns)


def by_rater(columns: Columns) -> Iterator[tuple[int, Columns]]:
    """Yield the columns of each rater from columns sorted by rater and key; of equal keys, the last row counts.

    A column that is missing takes no memory.
    """
    rater, key = columns.pop("rater"), columns["key"]
    last = np.append((key[1:] != key[:-1]) | (rater[1:] != rater[:-1]), True)
    for number in np.unique(rater).tolist():
        first, end = np.searchsorted(rater, [number, number + 1])
        kept = slice(first, end) if last[first:end].all() else np.flatnonzero(last[first:end]) + first
        found = {name: values[kept] for name, values in columns.items()}
        missing = {name: np.broadcast_to(value, len(found["key"])) for name, value in MISSING.items()}
        yield number, missing | found


def numbers_in(db: DuckDBPyConnection, pairs: Pairs, relation: str, value: str = "0") -> tuple[Numbers, NDArray[Any]]:
    """Return the numbers of the pairs in an SQL relation with the columns query_id and passage_id, without unknown
    pairs, and an SQL value of each, by which they are ordered.
    """
    found = db.sql(
        f"""
        SELECT query::BIGINT * {max(1, len(pairs.passage_ids))} + passage AS key, value
        FROM (SELECT query_id, passage_id, {value} AS value FROM {relation})
             JOIN rated_queries USING (query_id) JOIN rated_passages USING (passage_id)
        ORDER BY value, key
        """
    ).fetchnumpy()
    wanted, known = found["key"], pairs.key
    place = np.searchsorted(known, wanted)
    inside = place < len(known)
    inside[inside] = known[place[inside]] == wanted[inside]
    return place[inside].astype(np.int32), np.asarray(found["value"])[inside]


def literal(value: Any) -> str:
    """Return a value of `MISSING` as SQL."""
    return "'nan'::DOUBLE" if value.dtype == np.float64 else str(value)
