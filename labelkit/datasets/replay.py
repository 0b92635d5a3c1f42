"""Verifies labels by rebuilding their requests: `labelkit replay`.

A labels folder or dataset stores everything that is needed: texts, prompts, the cutting of passages, decoding, and
every raw reply. The key of a request is a hash of everything that affects its reply, so a rebuilt request with the same
key is identical, byte for byte.
"""

import random
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from labelkit.datasets.options import ReplayOptions
from labelkit.datasets.provenance import NAMES, as_sent
from labelkit.engines import Reply
from labelkit.errors import DataError, UsageError
from labelkit.judging.journal import FILE as JOURNAL
from labelkit.judging.journal import Journal, reply_of
from labelkit.judging.methods import Judging, judging_of, method_of
from labelkit.judging.methods.steps import Verdict
from labelkit.judging.settling import judgements_of
from labelkit.judging.tasks import Task
from labelkit.pooling.pool import Pool, pool_behind, read_pool
from labelkit.records import Judge, Judgement, JudgementRow, Passage, Query
from labelkit.storage import dataset, folders
from labelkit.storage.labels import KIND as LABELS


class Records(NamedTuple):
    """The texts, judges, judgements, prompts and replies of a folder."""

    texts: Pool
    """Queries and passages; the pool has no candidates."""
    judges: dict[str, Judge]
    judgements: list[Judgement]
    ballots: list[Judgement]
    prompts: dict[str, bytes]
    """Judge id -> content of the prompt file."""
    replies: "Kept"


class Kept:
    """Stored replies (JSON) by the key of their request."""

    def __init__(self, bodies: Mapping[str, str], folder: Path) -> None:
        self._bodies = bodies
        self._folder = folder

    def get(self, key: str) -> Reply | None:
        """Return the reply to the request with a key; None if it is not stored."""
        return reply_of(key, self._bodies[key], self._folder) if key in self._bodies else None


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
    folder, pool = Path(folder), options.pool
    records = read_records(folder, pool)
    judged = [row for row in records.judgements if row.judge_id in records.prompts]
    if not judged:
        raise UsageError(f"{folder} has no replies to replay: its labels were imported")
    bench = Bench(records, options.tokenizer)
    chosen = random.Random(options.seed).sample(judged, min(options.sample, len(judged)))
    found = [(row, bench.differs(row)) for row in chosen]
    mismatches = [
        f"{row.judge_id}, query {row.query_id!r}, passage {row.passage_id!r}: {why}" for row, why in found if why
    ]
    return Replayed(len(chosen), len(judged), mismatches)


def read_records(folder: Path, pool: Path | None) -> Records:
    """Read the records of a labels folder (with its pool and journal) or of a dataset."""
    kind = folders.manifest_kind(folder)
    manifest = folders.read_manifest(folder, kind)
    if kind not in (LABELS, dataset.KIND):
        raise UsageError(f"{folder} contains a {kind}; give a labels folder or a dataset")
    names = [name for name in (*dataset.CONFIGS, *NAMES) if (folder / f"{name}.parquet").is_file()]
    tables = {name: folders.read_table(folder, name).to_pylist() for name in names if name != "train"}
    judges = {row["judge_id"]: Judge(**row) for row in tables["judges"]}
    if kind == LABELS and not (folder / JOURNAL).is_file():
        raise UsageError(f"{folder} has no replies to replay: its labels were imported")
    if kind == LABELS:
        texts = read_pool(pool or pool_behind(folder, manifest.inputs, "--pool"))
        with Journal(folder) as journal:
            prompts = {judge.judge_id: content for judge, content in journal.judges()}
            bodies = {key: reply for key, _, reply, *_ in journal.records()}
    else:
        queries = {row["query_id"]: Query(**row) for row in tables["queries"]}
        texts = Pool(queries, {row["passage_id"]: Passage(**row) for row in tables["corpus"]}, [], inputs={})
        contents = {row["prompt_sha256"]: row["content"].encode() for row in tables.get("prompts", [])}
        found = {judge_id: contents.get(judge.prompt_sha256) for judge_id, judge in judges.items()}
        prompts = {judge_id: content for judge_id, content in found.items() if content is not None}
        bodies = {row["key"]: row["reply"] for row in tables.get("replies", [])}
    rows = {name: [Judgement(**row) for row in tables.get(name, [])] for name in ("judgements", "ballots")}
    return Records(
        texts, judges, rows["judgements"], ballots=rows["ballots"], prompts=prompts, replies=Kept(bodies, folder)
    )


class Bench:
    """Rebuilds requests and judgements. Judgements that are decided together are rebuilt once."""

    def __init__(self, records: Records, tokenizer: str | None) -> None:
        self._records = records
        self._tokenizer = tokenizer
        self._judging = lru_cache(self._read_judging)
        self._again = lru_cache(self._judge_again)
        self._asked: dict[tuple[str, ...], list[Judgement]] = {}
        for row in (*records.ballots, *records.judgements):
            if row.reply_ref is not None:
                self._asked.setdefault(self._unit(row), []).append(row)

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
        texts = self._records.texts
        passages = [texts.passages[pid].full_text for pid in task.passage_ids]
        query = texts.queries[task.query_id].text
        return as_sent(judging, task, query, passages=passages, tokenizer=self._tokenizer) is not None

    def _read_judging(self, judge_id: str) -> Judging:
        return judging_of(self._records.judges[judge_id], self._records.prompts[judge_id])
