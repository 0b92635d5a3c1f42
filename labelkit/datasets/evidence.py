"""Looks up single labels of a dataset, with their judgements, prompts, requests and replies."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from labelkit.datasets.provenance import Exchange, exchanges_of
from labelkit.errors import DataError
from labelkit.judging.prompts import parse_prompt
from labelkit.records import MINED, RELABELLED, ROLES, Example, Judge, Judgement, Label, Passage
from labelkit.storage import folders, tables
from labelkit.storage.dataset import KIND, examples_from_table


class Evidence(NamedTuple):
    """One judge's judgement of a pair, with its prompt, requests and replies."""

    judge: Judge
    judgement: Judgement
    prompt: str | None
    """Content of the prompt file; None if unknown, as for people."""
    exchanges: list[Exchange]


class Shown(NamedTuple):
    """A label of a query with its passage and all judgements of the pair."""

    role: str
    label: Label
    passage: Passage
    evidence: list[Evidence]
    mined: Mapping[str, Any] | None = None
    """Row of `mined` with retriever, rank and score of a mined negative; None for a label of a judge."""
    relabelled: Mapping[str, Any] | None = None
    """Row of `relabelled` with the old label; None for a label that `labelkit relabel` did not change."""


class Lookup:
    """A dataset folder in which single rows are looked up; only the parts of the files that contain them are read."""

    def __init__(self, folder: Path) -> None:
        folders.read_manifest(folder, KIND, verify=False)
        self._folder = folder
        self._db = duckdb.connect()

    def table(self, name: str, **where: str | None) -> pa.Table:
        """Return the rows of a table whose columns have these values; no rows if the dataset has no such table."""
        path = self._folder / f"{name}.parquet"
        if not path.is_file():
            return pa.table({})
        condition = " AND ".join(f"{column} = ${column}" for column in where)
        return self._db.sql(
            f"FROM {tables.parquet(path)} WHERE {condition} ORDER BY ALL", params=where
        ).to_arrow_table()

    def rows(self, name: str, **where: str | None) -> list[dict[str, Any]]:
        """Return the rows of a table whose columns have these values, as dicts."""
        found: list[dict[str, Any]] = self.table(name, **where).to_pylist()
        return found

    def passage(self, passage_id: str) -> Passage:
        """Return the passage with an id."""
        return Passage(**self.rows("corpus", passage_id=passage_id)[0])

    def record(self, key: str) -> dict[str, Any] | None:
        """Return the stored reply to the request with a key; None if the dataset does not have it."""
        return next(iter(self.rows("replies", key=key)), None)


def find(folder: Path, query_id: str, passage_id: str | None = None) -> tuple[Example, list[Shown]]:
    """Find a query's example and its labels with all evidence, or only the label of one passage.

    Labels are in the order of the example. Raises `DataError` if the dataset has no such query or label.
    """
    lookup = Lookup(folder)
    examples = list(examples_from_table(lookup.table("train", query_id=query_id)))
    if not examples:
        raise DataError(f"{folder} has no query {query_id!r} in train")
    labels = [
        (role, label)
        for role, field in ROLES.items()
        for label in getattr(examples[0], field)
        if passage_id in (None, label.passage_id)
    ]
    if not labels and passage_id is not None:
        raise DataError(f"{folder} has no label of passage {passage_id!r} for query {query_id!r}")
    shown = [
        Shown(
            role,
            label,
            lookup.passage(label.passage_id),
            evidence=list(evidence(lookup, examples[0], label.passage_id)),
            mined=next(iter(lookup.rows(MINED, query_id=query_id, passage_id=label.passage_id)), None)
            if label.source == MINED
            else None,
            relabelled=next(reversed(lookup.rows(RELABELLED, query_id=query_id, passage_id=label.passage_id)), None),
        )
        for role, label in labels
    ]
    return examples[0], shown


def evidence(lookup: Lookup, example: Example, passage_id: str) -> Iterator[Evidence]:
    """Yield every judgement of a pair with its prompt, requests and replies."""
    pair = {"query_id": example.query_id, "passage_id": passage_id}
    for row in lookup.rows("judgements", **pair):
        judgement = Judgement(**row)
        (judge,) = (Judge(**found) for found in lookup.rows("judges", judge_id=judgement.judge_id))
        prompts = lookup.rows("prompts", prompt_sha256=judge.prompt_sha256) if judge.prompt_sha256 else []
        content = prompts[0]["content"] if prompts else None
        ballots = [Judgement(**found) for found in lookup.rows("ballots", judge_id=judge.judge_id, **pair)]
        asked = {ballot.reply_ref for ballot in ballots or [judgement] if ballot.reply_ref}
        exchanges = [
            exchange
            for reference in sorted(asked)
            if content is not None
            for exchange in exchanges_about(lookup, judge, content, example=example, reference=reference)
        ]
        yield Evidence(judge, judgement, content, exchanges=exchanges)


def exchanges_about(lookup: Lookup, judge: Judge, content: str, example: Example, reference: str) -> list[Exchange]:
    """Rebuild the sequence of requests that began with the request of a key, about all passages that it showed."""
    of = {"judge_id": judge.judge_id, "query_id": example.query_id, "reply_ref": reference}
    rows = lookup.rows("ballots", **of) or lookup.rows("judgements", **of)
    # Two orders of a short list may be equal, and then share their replies.
    rows = [row for row in rows if row["permutation_seed"] == rows[0]["permutation_seed"]]
    shown = sorted((Judgement(**row) for row in rows), key=lambda row: row.position or 0)
    passages = [lookup.passage(row.passage_id).full_text for row in shown]
    prompt = parse_prompt(content.encode(), f"prompt of {judge.judge_id}")
    return exchanges_of(judge, prompt, shown, query=example.query, passages=passages, record_of=lookup.record)
