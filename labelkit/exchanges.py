"""What stands behind a judgement: prompt, request, raw reply, price and date, carried along with the labels.

`mix` takes the prompts, the replies and the ballots behind joined judgements along into the dataset. The requests are
not stored: a request is made again from prompt, query and passages, and its key, a hash over every byte that was sent,
says whether it is the one that was.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit import artifact, duck
from labelkit.defences import looks_twice, strip
from labelkit.engines import Message, Reply
from labelkit.errors import LabelkitError
from labelkit.journal import FILE as JOURNAL
from labelkit.journal import Journal, reply_of
from labelkit.methods import method_named
from labelkit.prompts import Prompt
from labelkit.schema import JUDGEMENT_SCHEMA, PROMPT_SCHEMA, REPLY_SCHEMA, Judge, Judgement
from labelkit.tasks import Reading, Task, Tasks, Texts, digest, identity_of, next_key, request_key
from labelkit.tokens import FileTokens, Words

RECORD_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("attempt", pa.int32()),
        ("reply", pa.string()),
        ("tokens", pa.int64()),
        ("cost", pa.float64()),
        ("answered_at", pa.string()),
    ]
)
"""As `Journal.records` gives them."""
NAMES = ("ballots", "prompts", "replies")
"""The tables that a dataset has where a journal stands behind its labels."""


class Exchange(NamedTuple):
    """One request and what came back."""

    messages: tuple[Message, ...] | None
    """None where the request could not be made again."""
    record: Mapping[str, Any]
    """A row of `replies`."""


def save_provenance(db: DuckDBPyConnection, draft: artifact.Draft, folders: Sequence[Path]) -> None:
    """The tables `NAMES` of those labels folders that have a journal; nothing where none has."""
    journalled = [folder for folder in folders if (folder / JOURNAL).is_file()]
    if not journalled:
        return
    prompts: dict[str, str] = {}
    for number, folder in enumerate(journalled):
        with Journal(folder) as journal:
            prompts |= {judge.prompt_sha256 or "": content.decode() for judge, content in journal.judges()}
            duck.stage(db, f"records_{number}", RECORD_SCHEMA, journal.records())
    rows = [{"prompt_sha256": sha256, "content": prompts[sha256]} for sha256 in sorted(prompts)]
    draft.write_table("prompts", pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA))
    # Folders may share replies, by a cache: the first that has a key speaks for it, last attempt first.
    parts = (f"SELECT {number} AS folder, * FROM records_{number}" for number in range(len(journalled)))
    duck.save(
        db,
        draft,
        "replies",
        f"""
        SELECT key, first(reply ORDER BY attempt DESC) AS reply, count(*)::INT AS tries, sum(tokens)::BIGINT AS tokens,
               if(bool_or(tokens IS NOT NULL AND cost IS NULL), NULL, list_sum(list(cost ORDER BY attempt))) AS cost,
               max(answered_at) AS answered_at
        FROM (FROM ({" UNION ALL ".join(parts)}) QUALIFY folder = min(folder) OVER (PARTITION BY key))
        GROUP BY key ORDER BY key
        """,
        REPLY_SCHEMA,
    )
    columns = ", ".join(JUDGEMENT_SCHEMA.names)
    files = (duck.parquet(folder / "ballots.parquet") for folder in journalled)
    ballots = " UNION ALL ".join(f"SELECT {columns} FROM {file}" for file in files)
    order = "query_id, passage_id, judge_id, permutation_seed, reply_ref"
    duck.save(db, draft, "ballots", f"FROM ({ballots}) ORDER BY {order}", JUDGEMENT_SCHEMA)


def exchanges_of(
    judge: Judge,
    prompt: Prompt,
    shown: Sequence[Judgement],
    query: str,
    passages: Sequence[str],
    record_of: Callable[[str], Mapping[str, Any] | None],
) -> list[Exchange]:
    """Every request that was sent about passages shown together, step by step, with its reply.

    `shown` are their judgements or ballots in the order shown, `passages` their whole texts.
    """
    method = method_named(prompt.method)
    first = shown[0]
    ids = tuple(row.passage_id for row in shown)
    task = Task(first.query_id, ids, 0, 0, first.permutation_seed, first.reply_ref or "")
    # The second of two looks at a passage has the same pair as the first, and another text.
    for variant in range(2 if looks_twice(judge) else 1):
        task = task._replace(variant=variant)
        if tasks := tasks_as_sent(judge, prompt, task, query, passages):
            break
    steps = method.judge(len(task.passage_ids), prompt)
    ask, key = next(steps), task.key
    exchanges: list[Exchange] = []
    while record := record_of(key):
        exchanges.append(Exchange(tasks.request(task, ask, key).messages if tasks else None, record))
        reply: Reply = reply_of(key, record["reply"], Path("replies.parquet"))
        try:
            ask = steps.send(reply)
        except StopIteration:
            break
        key = next_key(task.key, ask)
    return exchanges


def tasks_as_sent(judge: Judge, prompt: Prompt, task: Task, query: str, passages: Sequence[str]) -> Tasks | None:
    """What renders the requests of a task as they were sent; None where its key belongs to none that can be made.

    How far the passages were cut is found by trying: whole, then so many words each; then every beginning of a passage
    that was judged alone, which is what a cut by tokens leaves, or, for a list, the judge's own cut, if its tokenizer
    is still at hand.
    """
    decoding = json.loads(judge.decoding or "{}")
    known = {name: decoding[name] for name in ("permutations", "votes") if name in decoding}
    reading = Reading(seed=judge.seed or 0, defences=tuple(decoding.get("defences", ())), **known)
    method, identity = method_named(prompt.method), digest(identity_of(judge))
    ask = next(method.judge(len(task.passage_ids), prompt))
    whole = [strip(passage) if "strip" in reading.defences else passage for passage in passages]
    for cut in cuts(whole, judge):
        shown = dict(zip(task.passage_ids, cut, strict=True))
        tasks = Tasks(
            Texts({task.query_id: query}, shown, "", 0, frozenset(), frozenset()), prompt, method, reading, identity
        )
        if request_key(identity, tasks.request(task, ask, "")) == task.key:
            return tasks
    return None


def cuts(passages: Sequence[str], judge: Judge) -> Iterator[Sequence[str]]:
    """The passages as they may have been shown, the likeliest first."""
    yield passages
    words = [passage.split() for passage in passages]
    for most in range(1, max(map(len, words))):
        yield [
            passage if len(parts) <= most else " ".join(parts[:most])
            for passage, parts in zip(passages, words, strict=True)
        ]
    if len(passages) == 1:
        yield from ([passages[0][:end]] for end in range(1, len(passages[0])))
    elif judge.reading is not None:
        with suppress(LabelkitError):
            yield cut_by_tokens(passages, json.loads(judge.reading), judge.engine)


def cut_by_tokens(passages: Sequence[str], read: Mapping[str, Any], engine: str | None) -> Sequence[str]:
    """The passages as a judge says that it read them. Raises `EngineError` where its tokenizer is gone."""
    tokens = Words() if engine == "scripted" else FileTokens(read["tokenizer"])
    most = read["reading"].get("passage_tokens") or sys.maxsize
    ends = [tokens.ends(passage) for passage in passages]
    return [
        passage if len(places) <= most else passage[: places[most - 1]]
        for passage, places in zip(passages, ends, strict=True)
    ]
