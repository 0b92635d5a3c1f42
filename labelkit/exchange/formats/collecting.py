"""Collects the queries, passages and labels of a file in tables on disk, and writes them as a dataset.

A reader calls the methods of a `Collector` in the order of its file, with repetitions. Only a few thousand rows are in
memory: duplicates, contradictions and labels that lack a text are found by DuckDB.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.corpora.scales import read_scale
from labelkit.errors import DataError
from labelkit.records import (
    EXAMPLE_SCHEMA,
    JUDGE_SCHEMA,
    JUDGEMENT_SCHEMA,
    LABEL_COLUMNS,
    PASSAGE_SCHEMA,
    QUERY_SCHEMA,
    ROLES,
    Judge,
)
from labelkit.storage import folders, tables
from labelkit.storage.dataset import records_to_table

SIDES = {"positive": 0, "negative": 1}
WORDS = "CASE side WHEN 0 THEN 'positive' WHEN 1 THEN 'negative' ELSE 'ignored' END"
NUMBER = ("number", pa.int64())
"""Place of a row in the order of the calls."""
TABLES = {
    "asked": pa.schema([("query_id", pa.string()), ("text", pa.string()), ("place", pa.string()), NUMBER]),
    "given": pa.schema(
        [("passage_id", pa.string()), ("title", pa.string()), ("text", pa.string()), ("place", pa.string()), NUMBER]
    ),
    "said": pa.schema(
        [
            ("query_id", pa.string()),
            ("passage_id", pa.string()),
            ("side", pa.int8()),
            ("otherwise", pa.int8()),
            ("grade", pa.int8()),
            ("raw_grade", pa.string()),
            ("score", pa.float64()),
            NUMBER,
        ]
    ),
}
ROWS_AT_ONCE = 16_384
QUERIES_AT_ONCE = 16_384
BOTH_SIDES = "positive and negative of the same query"


class Grading(NamedTuple):
    """How a reader understands the grades of a file."""

    positive_grade: int = 2
    """Lowest grade of a positive."""
    scale: str | None = None
    """Text of the scale of the grades (`labelkit.corpora.scales`); None for grades from 0 to 3."""
    split: str | None = None
    """Split to read; None if there is only one, or for all qrels of a collection."""


class Collector:
    """Collects the contents of a file in the tables of a DuckDB session."""

    def __init__(self, db: DuckDBPyConnection) -> None:
        self._db = db
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
        self._number = 0
        self.only_labelled = False
        """Leave out queries without labels, which belong to other splits."""
        for name, schema in TABLES.items():
            tables.stage(db, name, schema, rows=())

    def query(self, query_id: str | None, text: str, where: str) -> str:
        """Add a query; without an id, one is made from its text. Returns the id."""
        query_id = query_id or name_of("q", text)
        self._add("asked", query_id, text, where)
        return query_id

    def passage(self, passage_id: str | None, title: str, text: str, where: str) -> str:
        """Add a passage; without an id, one is made from its text. Returns the id."""
        passage_id = passage_id or name_of("p", text)
        self._add("given", passage_id, title, text, where)
        return passage_id

    def label(
        self,
        query_id: str,
        passage_id: str,
        side: str,
        *,
        grade: int | None = None,
        score: float | None = None,
        raw_grade: str | None = None,
    ) -> None:
        """Add a passage to the `positive` or `negative` side of a query; a passage on both sides becomes `ignored`."""
        self._add("said", query_id, passage_id, SIDES[side], None, grade, raw_grade, score)

    def graded(self, query_id: str, passage_id: str, side: str, *, grade: int, raw_grade: str | None) -> None:
        """Add the grade of a pair; it decides the side only if no label does."""
        self._add("said", query_id, passage_id, None, SIDES[side], grade, raw_grade, None)

    def _add(self, table: str, *values: Any) -> None:
        self._number += 1
        self._rows[table].append((*values, self._number))
        if len(self._rows[table]) >= ROWS_AT_ONCE:
            self._flush(table)

    def _flush(self, table: str) -> None:
        if rows := self._rows[table]:
            tables.append(self._db, table, tables.batches_of(TABLES[table], rows))
            rows.clear()

    def write(self, draft: folders.Draft, judge: Judge, where: Path) -> dict[str, int]:
        """Write the tables of a dataset and return its counts.

        Without grades, positives get grade 2 and negatives grade 0, as with the binary method. Raises `DataError` if
        there are no labels, an id has two texts, or a label refers to a query or passage without a text.
        """
        for table in TABLES:
            self._flush(table)
        self._join(where)
        db, me = self._db, tables.text(judge.judge_id)
        draft.write_batches("train", EXAMPLE_SCHEMA, examples(db, judge))
        tables.save(
            db,
            draft,
            "corpus",
            statement="SELECT passage_id, title, text FROM passages ORDER BY passage_id",
            schema=PASSAGE_SCHEMA,
        )
        tables.save(
            db, draft, "queries", statement="SELECT query_id, text FROM queries ORDER BY query_id", schema=QUERY_SCHEMA
        )
        db.register("nothing", JUDGEMENT_SCHEMA.empty_table())
        judged = f"""
            SELECT query_id, passage_id, {me} AS judge_id, grade, raw_grade, score,
                   CASE WHEN grade IS NULL THEN '{BOTH_SIDES}' END AS failure FROM labels"""
        columns = ", ".join(JUDGEMENT_SCHEMA.names)
        every = f"SELECT {columns} FROM (FROM nothing UNION ALL BY NAME {judged}) ORDER BY query_id, passage_id"
        tables.save(db, draft, "judgements", statement=every, schema=JUDGEMENT_SCHEMA)
        draft.write_table("judges", records_to_table([judge], JUDGE_SCHEMA))
        sides = dict(db.execute("SELECT side, count(*) FROM labels GROUP BY side").fetchall())
        found = {"positives": "positive", "negatives": "negative", "on_both_sides": "ignored"}
        return {"queries": draft.rows["queries"], **{name: sides.get(side, 0) for name, side in found.items()}}

    def _join(self, where: Path) -> None:
        """Make the tables `queries`, `passages` and `labels`, each id or pair once. Raises `DataError`."""
        db = self._db
        if not tables.value(db, "SELECT count(*) FROM said"):
            raise DataError(f"{where} has no labels")
        refuse_two_grades(db, where)
        refuse_two_texts(db, "asked", "query_id", values="text")
        refuse_two_texts(db, "given", "passage_id", values="title, text")
        for name, table, key in (("queries", "asked", "query_id"), ("passages", "given", "passage_id")):
            firsts = f"SELECT min(number) FROM {table} GROUP BY {key}"
            db.execute(f"CREATE TABLE {name} AS FROM {table} WHERE number IN ({firsts})")
        if self.only_labelled:
            db.execute("DELETE FROM queries WHERE query_id NOT IN (SELECT query_id FROM said)")
        db.execute(
            f"""
            CREATE TABLE labels AS
            SELECT query_id, passage_id, {WORDS} AS side,
                   coalesce(grade, CASE side WHEN 0 THEN 2 WHEN 1 THEN 0 END) AS grade, raw_grade, score, number
            FROM (SELECT query_id, passage_id, min(number) AS number,
                         CASE WHEN count(side) = 0 THEN arg_min(otherwise, number)
                              WHEN min(side) = max(side) THEN min(side) ELSE 2 END AS side,
                         arg_max(grade, number) FILTER (grade IS NOT NULL) AS grade,
                         arg_max(raw_grade, number) FILTER (grade IS NOT NULL) AS raw_grade,
                         arg_max(score, number) FILTER (score IS NOT NULL) AS score
                  FROM said GROUP BY query_id, passage_id)
            """
        )
        for what, key, table in (("query", "query_id", "queries"), ("passage", "passage_id", "passages")):
            unknown = f"SELECT query_id, passage_id FROM labels ANTI JOIN {table} USING ({key}) ORDER BY {key}"
            if found := tables.row(db, unknown):
                lacks = (
                    "query {!r} has labels but no text"
                    if what == "query"
                    else "passage {1!r} (query {0!r}) has no text"
                )
                raise DataError(f"{where}: {lacks.format(*found)}")


def refuse_two_grades(db: DuckDBPyConnection, where: Path) -> None:
    """Raise `DataError` if qrels contradict each other on a pair."""
    pairs = "SELECT query_id, passage_id, min(grade), max(grade) FROM said WHERE otherwise IS NOT NULL GROUP BY ALL"
    if found := tables.row(db, f"{pairs} HAVING min(grade) <> max(grade) ORDER BY ALL"):
        query_id, passage_id, lowest, highest = found
        raise DataError(
            f"{where}: the pair {query_id!r}, {passage_id!r} has the grades {lowest} and {highest}; labelkit tidy sets "
            "such lines aside"
        )


def refuse_two_texts(db: DuckDBPyConnection, table: str, key: str, values: str) -> None:
    """Raise `DataError` with the place of the first text that differs from an earlier text of the same id."""
    differing = f"SELECT {key} FROM {table} GROUP BY {key} HAVING min(hash({values})) <> max(hash({values}))"
    later = f"""
        SELECT place, {key} FROM (
            SELECT *, first_value(hash({values})) OVER (PARTITION BY {key} ORDER BY number) AS first
            FROM {table} WHERE {key} IN ({differing}))
        WHERE hash({values}) <> first ORDER BY number"""
    if found := tables.row(db, later):
        raise DataError(f"{found[0]}: {key.removesuffix('_id')} {found[1]!r} has two different texts")


def examples(db: DuckDBPyConnection, judge: Judge) -> Iterator[pa.RecordBatch]:
    """Yield the rows of `train` by query id, with the labels of a query in the order of the file.

    Scores are probabilities if they all lie between 0 and 1; one score outside shows that the others are none either,
    such as logits of a reranker.
    """
    probable = tables.value(db, "SELECT coalesce(bool_and(score BETWEEN 0 AND 1), true) FROM labels")
    fields = {
        "passage_id": "passage_id", "grade": "grade", "source": tables.text(judge.kind),
        "judge_id": tables.text(judge.judge_id), "weight": "1.0", "probability": "score" if probable else "NULL",
        "score": "score",
    }  # fmt: skip
    label = ", ".join(f"{name}: {value}" for name, value in fields.items())
    lists = ", ".join(
        f"coalesce(list({{{label}}} ORDER BY l.number) FILTER (side = '{role}'), []) AS {role}" for role in ROLES
    )
    columns = ", ".join(
        f"list_transform({role}, lambda x: x.{attribute}) AS {role}_{suffix}"
        for role in ROLES
        for suffix, (attribute, _) in LABEL_COLUMNS.items()
    )
    slices = f"""
        SELECT min(query_id), max(query_id)
        FROM (SELECT query_id, row_number() OVER (ORDER BY query_id) - 1 AS place FROM queries)
        GROUP BY place // {QUERIES_AT_ONCE} ORDER BY ALL"""
    for first, last in db.execute(slices).fetchall():
        among = f"query_id BETWEEN {tables.text(first)} AND {tables.text(last)}"
        yield from tables.rows_of(
            db,
            f"""
            SELECT query_id, query, {columns}
            FROM (SELECT q.query_id, any_value(q.text) AS query, {lists}
                  FROM (FROM queries WHERE {among}) q LEFT JOIN labels l USING (query_id) GROUP BY q.query_id)
            ORDER BY query_id
            """,
            EXAMPLE_SCHEMA,
        )


def name_of(letter: str, text: str) -> str:
    """Make the id of a text without one, from its hash; equal texts get the same id."""
    return f"{letter}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def judge_of(paths: Iterable[Path], name: str, scale: str | None = None) -> Judge:
    """Make the judge of imported labels: its revision is the sha256 of the files. Another scale makes another judge."""
    digests = [folders.file_sha256(path) for path in sorted(paths)]
    revision = "sha256:" + hashlib.sha256(" ".join(digests).encode()).hexdigest()
    mapping = read_scale(scale).mapping if scale else None
    digest = hashlib.sha256(" ".join(filter(None, ("imported", name, revision, mapping))).encode()).hexdigest()
    judge_id = f"imported-{name}-{digest[:16]}"
    return Judge(judge_id=judge_id, kind="imported", name=name, revision=revision, scale=mapping)
