"""The origin of judgements in a dataset: prompt, request, raw reply, price and date.

`mix` copies prompts, replies and ballots (single orders or votes behind a joined judgement) into the dataset. Requests
are not stored: a request is rebuilt from prompt, query and passages. Its key, a hash of every byte that was sent, shows
whether the rebuilt request is the same.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from duckdb import DuckDBPyConnection

from labelkit.engines import Message, Reply, traits_of
from labelkit.engines.dialects import dialect_of, turns
from labelkit.engines.tokenizers import FileTokens, Tokens, Words
from labelkit.errors import LabelkitError
from labelkit.judging.defences import strip
from labelkit.judging.journal import FILE as JOURNAL
from labelkit.judging.journal import Journal
from labelkit.judging.methods import Judging, method_named
from labelkit.judging.prompts import Prompt
from labelkit.judging.reading import Reading, Texts, reach, second_looks, shortened
from labelkit.judging.request_keys import digest, identity_of, next_key, request_key, sent_of
from labelkit.judging.stored_replies import reply_of
from labelkit.judging.tasks import Requests, Task
from labelkit.records import JUDGEMENT_SCHEMA, PROMPT_SCHEMA, REPLY_SCHEMA, Judge, Judgement
from labelkit.storage import folders, tables

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
"""Columns of the rows of `Journal.records`."""
NAMES = ("ballots", "prompts", "replies")
"""The tables of a dataset whose labels come from a journal."""


class Exchange(NamedTuple):
    """A request and its reply."""

    messages: tuple[Message, ...] | None
    """None if the request could not be rebuilt."""
    record: Mapping[str, Any]
    """A row of `replies`."""


def save_provenance(db: DuckDBPyConnection, draft: folders.Draft, folders: Sequence[Path]) -> None:
    """Write the tables `NAMES` from the labels folders that have a journal; no tables if none has one."""
    journalled = [folder for folder in folders if (folder / JOURNAL).is_file()]
    if not journalled:
        return
    prompts: dict[str, str] = {}
    for number, folder in enumerate(journalled):
        with Journal(folder) as journal:
            prompts |= {judge.prompt_sha256 or "": content.decode() for judge, content in journal.judges()}
            tables.stage(db, f"records_{number}", RECORD_SCHEMA, rows=journal.records())
    rows = [{"prompt_sha256": sha256, "content": prompts[sha256]} for sha256 in sorted(prompts)]
    draft.write_table("prompts", pa.Table.from_pylist(rows, schema=PROMPT_SCHEMA))
    # Folders may share replies through a cache: the first folder with a key counts, and its last attempt.
    parts = (f"SELECT {number} AS folder, * FROM records_{number}" for number in range(len(journalled)))
    tables.save(
        db,
        draft,
        "replies",
        statement=f"""
        SELECT key, first(reply ORDER BY attempt DESC) AS reply, count(*)::INT AS tries, sum(tokens)::BIGINT AS tokens,
               if(bool_or(tokens IS NOT NULL AND cost IS NULL), NULL, list_sum(list(cost ORDER BY attempt))) AS cost,
               max(answered_at) AS answered_at
        FROM (FROM ({" UNION ALL ".join(parts)}) QUALIFY folder = min(folder) OVER (PARTITION BY key))
        GROUP BY key ORDER BY key
        """,
        schema=REPLY_SCHEMA,
    )
    columns = ", ".join(JUDGEMENT_SCHEMA.names)
    # Folders of earlier versions lack some columns, which the empty table names.
    db.register("no_ballots", JUDGEMENT_SCHEMA.empty_table())
    files = (f"FROM {tables.parquet(folder / 'ballots.parquet')}" for folder in journalled)
    ballots = f"SELECT {columns} FROM ({' UNION ALL BY NAME '.join(('FROM no_ballots', *files))})"
    order = "query_id, passage_id, judge_id, permutation_seed, reply_ref"
    tables.save(db, draft, "ballots", statement=f"FROM ({ballots}) ORDER BY {order}", schema=JUDGEMENT_SCHEMA)


def exchanges_of(
    judge: Judge,
    prompt: Prompt,
    shown: Sequence[Judgement],
    query: str,
    passages: Sequence[str],
    record_of: Callable[[str], Mapping[str, Any] | None],
) -> list[Exchange]:
    """Rebuild the sequence of requests about passages that were shown together, each with its reply.

    `shown`: judgements or ballots of the passages, in the order shown. `passages`: their full texts, in the same order.
    """
    first = shown[0]
    ids = tuple(row.passage_id for row in shown)
    task = Task(first.query_id, ids, 0, window=0, seed=first.permutation_seed, key=first.reply_ref or "")
    sent = as_sent(Judging(judge, prompt, method_named(prompt.method)), task, query, passages=passages)
    steps, dialect = method_named(prompt.method).judge(len(ids), prompt), dialect_of(sent_of(judge))
    ask, key = next(steps), task.key
    exchanges: list[Exchange] = []
    while record := record_of(key):
        request = sent.requests.request(sent.texts, sent.task, ask, key=key) if sent else None
        messages = turns(request, dialect) if request else None
        exchanges.append(Exchange(messages, record))
        reply: Reply = reply_of(key, record["reply"], Path("replies.parquet"))
        try:
            ask = steps.send(reply)
        except StopIteration:
            break
        key = next_key(task.key, ask)
    return exchanges


class Sent(NamedTuple):
    """Everything that renders the requests of a task as they were sent."""

    requests: Requests
    texts: Texts
    task: Task


def as_sent(
    judging: Judging, task: Task, query: str, *, passages: Sequence[str], tokenizer: str | None = None
) -> Sent | None:
    """Find the texts and the task that render the request of a task as it was sent; None if no request that can be made
    from the full texts has its key.

    `tokenizer`: path of the judge's tokenizer, if it has moved.
    """
    judge = judging.judge
    if judge.reading is None:
        return None
    read = json.loads(judge.reading)
    reading, identity = Reading(**read["reading"]), digest(identity_of(judge))
    ask = next(judging.method.judge(len(task.passage_ids), judging.prompt))
    requests = Requests(judging, reading)
    heads = [reach(passage, reading) for passage in passages]
    whole = [strip(passage) if "strip" in reading.defences else passage for passage in heads]
    for cut in cuts(whole, reading, engine=judge.engine, tokenizer=tokenizer or read["tokenizer"]):
        shown = dict(zip(task.passage_ids, cut, strict=True))
        texts = Texts(task.query_id, query, shown, without_query=second_looks(query, shown, reading))
        # The second of two looks at a passage is about the same pair as the first, with another text.
        for variant in range(2 if texts.without_query else 1):
            look = task._replace(variant=variant)
            if request_key(identity, requests.request(texts, look, ask, key="")) == task.key:
                return Sent(requests, texts, look)
    return None


def cuts(passages: Sequence[str], reading: Reading, *, engine: str | None, tokenizer: str) -> Iterator[Sequence[str]]:
    """Yield the ways in which passages may have been shown: whole, then cut as `reading` says, then every prefix of a
    passage that was judged alone, since its tokenizer may be missing or changed.
    """
    yield passages
    tokens = tokens_named(engine, tokenizer) if reading.passage_tokens else None
    if tokens or reading.passage_words:
        yield [shortened(passage, reading, tokens) for passage in passages]
    if len(passages) == 1:
        yield from ([passages[0][:end]] for end in range(1, len(passages[0])))


@lru_cache
def tokens_named(engine: str | None, tokenizer: str) -> Tokens | None:
    """Load the tokenizer of a judge; None if it is missing. The result is cached."""
    with suppress(LabelkitError):
        return Words() if engine and traits_of(engine).words else FileTokens(tokenizer)
    return None
