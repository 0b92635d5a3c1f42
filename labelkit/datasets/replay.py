"""Verifies labels by rebuilding their requests: `labelkit replay`.

A labels folder or dataset stores everything that is needed: texts, prompts, the cutting of passages, decoding, and
every raw reply. The key of a request is a hash of everything that affects its reply, so a rebuilt request with the same
key is identical, byte for byte.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation

from labelkit.datasets.options import ReplayOptions
from labelkit.datasets.provenance import as_sent
from labelkit.engines import Reply
from labelkit.errors import DataError, UsageError
from labelkit.judging.journal import FILE as JOURNAL
from labelkit.judging.journal import Journal
from labelkit.judging.methods import Judging, judging_of, method_of
from labelkit.judging.methods.steps import Verdict
from labelkit.judging.settling import Replies, judgements_of
from labelkit.judging.stored_replies import reply_of
from labelkit.judging.tasks import Task
from labelkit.pooling.pool import pool_behind
from labelkit.records import Judge, Judgement, JudgementRow, full_text
from labelkit.storage import dataset, folders, tables
from labelkit.storage.labels import KIND as LABELS
from labelkit.storage.labels import judgements_sql, read_records
from labelkit.storage.manifest import POOL

PLACE_SCHEMA = pa.schema([("number", pa.int64()), ("place", pa.int64())])
UNIT_SCHEMA = pa.schema([("judge_id", pa.string()), ("query_id", pa.string()), ("passage_id", pa.string())])


class Records(NamedTuple):
    """A folder whose labels are replayed: everything but the labels, which are looked up."""

    db: DuckDBPyConnection
    """Session with the tables `judgements` and `ballots`, with a column `row`, and `queries` and `corpus`."""
    judges: dict[str, Judge]
    prompts: dict[str, bytes]
    """Judge id -> content of the prompt file."""
    replies: Replies


class Kept:
    """The replies (JSON) in a dataset, by the key of their request."""

    def __init__(self, db: DuckDBPyConnection, folder: Path) -> None:
        self._db = db
        self._file = folder / "replies.parquet"

    def get(self, key: str) -> Reply | None:
        """Return the reply to the request with a key; None if it is not stored."""
        if not self._file.is_file():
            return None
        found = self._db.execute(f"SELECT reply FROM {tables.parquet(self._file)} WHERE key = ?", [key]).fetchall()
        return reply_of(key, found[0][0], self._file.parent) if found else None


class Journalled:
    """The replies in a journal, by the key of their request."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def get(self, key: str) -> Reply | None:
        """Return the last reply to the request with a key; None if it is not stored."""
        return self._journal.reply(key)


class Replayed(NamedTuple):
    """The number of labels that were replayed, and one line per mismatch."""

    labels: int
    of: int
    """Number of labels by models in the folder."""
    mismatches: list[str]


def replay(
    folder: Path | str,
    options: ReplayOptions = ReplayOptions(),  # noqa: B008 (a frozen record)
) -> Replayed:
    """Verify random labels: rebuild their requests byte for byte and parse their stored replies again.

    Args:
        folder: labels folder or dataset with labels by models.
        options: the number of labels, and the places of texts and tokenizer if they have moved.

    Returns:
        The number of labels replayed, and a line for each label that differs from its reply.

    Raises:
        UsageError: the folder has no replies, or its pool is not found.
    """
    folder = Path(folder)
    with opened(folder, options.pool) as records:
        chosen, count = drawn(records, options)
        if not count:
            raise UsageError(f"{folder} has no replies to replay: its labels were imported")
        bench = Bench(records, chosen, options.tokenizer)
        found = [(row, bench.differs(row)) for row in chosen]
    mismatches = [
        f"{row.judge_id}, query {row.query_id!r}, passage {row.passage_id!r}: {why}" for row, why in found if why
    ]
    return Replayed(len(chosen), count, mismatches)


@contextmanager
def opened(folder: Path, pool: Path | None) -> Iterator[Records]:
    """Open a labels folder (with its pool and journal) or a dataset."""
    kind = folders.manifest_kind(folder)
    manifest = folders.read_manifest(folder, kind)
    if kind not in (LABELS, dataset.KIND):
        raise UsageError(f"{folder} contains a {kind}; give a labels folder or a dataset")
    if kind == LABELS and not (folder / JOURNAL).is_file():
        raise UsageError(f"{folder} has no replies to replay: its labels were imported")
    judges = {judge.judge_id: judge for judge in read_records(folder, "judges", Judge)}
    with ExitStack() as stack:
        db = stack.enter_context(tables.temporary())
        for name in ("judgements", "ballots"):
            there = (folder / f"{name}.parquet").is_file()
            rows = judgements_sql(db, folder, name) if there else "(SELECT *, 0::BIGINT AS row FROM no_judgements)"
            db.execute(f"CREATE TEMP VIEW {name} AS FROM {rows}")
        if kind == LABELS:
            texts = pool or pool_behind(folder, manifest.inputs, "--pool")
            folders.read_manifest(texts, POOL)
            journal = stack.enter_context(Journal(folder))
            prompts = {judge.judge_id: content for judge, content in journal.judges()}
            replies: Replies = Journalled(journal)
        else:
            texts, prompts, replies = folder, prompts_in(folder, judges), Kept(db, folder)
        corpus = "passages" if kind == LABELS else "corpus"
        for view, name in (("queries", "queries"), ("corpus", corpus)):
            db.execute(f"CREATE TEMP VIEW {view} AS FROM {tables.parquet(texts / f'{name}.parquet')}")
        yield Records(db, judges, prompts, replies=replies)


def prompts_in(folder: Path, judges: Mapping[str, Judge]) -> dict[str, bytes]:
    """Return the content of the prompt file of each judge in a dataset whose prompt is stored."""
    if not (folder / "prompts.parquet").is_file():
        return {}
    contents = {row["prompt_sha256"]: row["content"] for row in folders.read_table(folder, "prompts").to_pylist()}
    found = {judge_id: contents.get(judge.prompt_sha256) for judge_id, judge in judges.items()}
    return {judge_id: content.encode() for judge_id, content in found.items() if content is not None}


def drawn(records: Records, options: ReplayOptions) -> tuple[list[Judgement], int]:
    """Draw random labels of judges whose prompts are stored; also returns the number of all such labels."""
    judges = ", ".join(map(tables.text, records.prompts)) or "NULL"
    judged = f"FROM judgements WHERE judge_id IN ({judges})"
    count = tables.value(records.db, f"SELECT count(*) {judged}")
    places = random.Random(options.seed).sample(range(count), min(options.sample, count))
    tables.stage(records.db, "drawn", PLACE_SCHEMA, rows=enumerate(places))
    rows = f"SELECT row, row_number() OVER (ORDER BY row) - 1 AS place {judged}"
    found = records.db.sql(
        f"SELECT judgements.* FROM judgements JOIN ({rows}) USING (row) JOIN drawn USING (place) ORDER BY number"
    )
    return judgements_from(found), count


def judgements_from(found: DuckDBPyRelation) -> list[Judgement]:
    """Return the rows of a result as records."""
    return [Judgement(**row) for row in found.project("* EXCLUDE row").to_arrow_table().to_pylist()]


class Bench:
    """Rebuilds requests and judgements. Judgements that are decided together are rebuilt once."""

    def __init__(self, records: Records, chosen: Sequence[Judgement], tokenizer: str | None) -> None:
        self._records = records
        self._tokenizer = tokenizer
        self._judging = lru_cache(self._read_judging)
        self._again = lru_cache(self._judge_again)
        self._asked: dict[tuple[str, ...], list[Judgement]] = {}
        for row in self._together(chosen):
            self._asked.setdefault(self._unit(row), []).append(row)
        asked = [row for rows in self._asked.values() for row in rows]
        self._queries = self._texts("queries", "query_id", {row.query_id for row in asked})
        self._passages = self._texts("corpus", "passage_id", {row.passage_id for row in asked})

    def _together(self, chosen: Sequence[Judgement]) -> Iterator[Judgement]:
        """Yield the ballots and judgements with a reply that are decided together with some judgements."""
        units = [(*unit, None)[:3] for unit in dict.fromkeys(map(self._unit, chosen))]
        db = self._records.db
        tables.stage(db, "units", UNIT_SCHEMA, rows=units)
        for name in ("ballots", "judgements"):
            rows = f"""
                SELECT said.* FROM {name} said JOIN units USING (judge_id, query_id)
                WHERE reply_ref IS NOT NULL AND coalesce(units.passage_id = said.passage_id, true) ORDER BY row
            """
            yield from judgements_from(db.sql(rows))

    def _texts(self, table: str, key: str, ids: set[str]) -> dict[str, str]:
        """Return the texts of some queries or passages, title and text joined, by id."""
        db = self._records.db
        tables.stage(db, "wanted", pa.schema([(key, pa.string())]), rows=((one,) for one in sorted(ids)))
        title = "title" if table == "corpus" else "''"
        found = db.sql(f"SELECT {key}, {title}, text FROM {table} SEMI JOIN wanted USING ({key})").fetchall()
        return {name: full_text(title, text) if table == "corpus" else text for name, title, text in found}

    def differs(self, row: Judgement) -> str | None:
        """Return why a label differs from its requests and replies; None if it does not."""
        try:
            again = self._again(self._unit(row)).get(row.passage_id)
        except DataError as error:
            return str(error)
        if again is None:
            return "its reply is not stored"
        told, found = (Verdict(*(getattr(one, name) for name in Verdict._fields)) for one in (row, again))
        if told.raw_grade is None:  # labels of earlier versions have none
            found = found._replace(raw_grade=None)
        return None if found == told else f"its reply gives {found}, but the label is {told}"

    def _unit(self, row: Judgement) -> tuple[str, ...]:
        """Return the key of the judgements that are decided together: of a pair, or of a query with a
        listwise method.
        """
        listwise = method_of(self._records.judges[row.judge_id]).listwise
        return (row.judge_id, row.query_id, *(() if listwise else (row.passage_id,)))

    def _judge_again(self, unit: tuple[str, ...]) -> dict[str, JudgementRow]:
        """Rebuild the judgements of a unit from its replies, by passage. Raises `DataError` if a request differs."""
        judging = self._judging(unit[0])
        if judging.prompt.sha256 != judging.judge.prompt_sha256:
            raise DataError("the prompt differs from the one that was used")
        shown: dict[tuple[int, str], list[Judgement]] = {}
        for row in self._asked[unit]:
            shown.setdefault((row.permutation_seed or 0, str(row.reply_ref)), []).append(row)
        tasks = []
        for (_, key), rows in sorted(shown.items()):
            ids = tuple(row.passage_id for row in sorted(rows, key=lambda row: row.position or 0))
            task = Task(unit[1], ids, 0, window=0, seed=rows[0].permutation_seed, key=key)
            if not self._was_sent(judging, task):
                raise DataError("the rebuilt request differs from the one that was sent")
            tasks.append(task)
        found = judgements_of(judging, tasks, self._records.replies, cost=lambda key: None)
        return {row.passage_id: row for row, _ in found}

    def _was_sent(self, judging: Judging, task: Task) -> bool:
        """Return whether the rebuilt first request of a task has the key under which its reply is stored."""
        passages = [self._passages[passage_id] for passage_id in task.passage_ids]
        query = self._queries[task.query_id]
        return as_sent(judging, task, query, passages=passages, tokenizer=self._tokenizer) is not None

    def _read_judging(self, judge_id: str) -> Judging:
        return judging_of(self._records.judges[judge_id], self._records.prompts[judge_id])
