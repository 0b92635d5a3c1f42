"""Judge through a batch API, at half the price and within a day, or through files for `vllm run-batch`.

A batch is recorded before it is submitted and carries its name as metadata, so that a batch whose submission was
interrupted can be found by that name. A batch that ends, even by expiring, returns the replies that it has; only
missing replies are requested again. A run collects the finished replies and raises `NotYetError` for the others, unless
it is told to wait.
"""

import json
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from labelkit.engines import Engine, EngineFacts, Probed, Reply, Request, Settings, Traits
from labelkit.engines.batch_services import Api, Ended, Files, Service
from labelkit.engines.completions import ScoreWatch, read_completion, read_raw
from labelkit.engines.dialects import Dialect, chat_body, dialect_of
from labelkit.engines.http import (
    EMPTY_ACCOUNT,
    REASON_LENGTH,
    RETRIED_STATUS,
    NotFoundError,
    RetriedError,
    error_inside,
)
from labelkit.engines.openai import OUT_OF_LENGTH, OpenAIEngine
from labelkit.engines.tokenizers import file_tokens, stated_context
from labelkit.errors import EngineError, JournalError, NotYetError, UsageError

log = logging.getLogger(__name__)

TRAITS = Traits(file_tokens, stated_context, batch=True)
REQUESTS, FILE_BYTES = 50_000, 200_000_000
"""Limits of one file: requests and bytes."""
POLL_SECONDS = 30.0
LATE_SECONDS = 20.0
"""Longest time in seconds until a batch whose submission was interrupted appears in the list of batches."""
TOGETHER = 1000
"""Replies of a batch that are returned together."""
ROUNDS = 3
"""Number of batches per run without an answer to a request after which the request fails."""
CAREFUL = Dialect(constraint="none")
"""Dialect for a server that answers no single call: it would refuse the whole batch for one unknown field."""
FULL = "token_limit_exceeded"
"""Error code of a batch that does not fit the queue: none of it was processed or paid."""
FILE = "batches.sqlite"
SCHEMA = "CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, at REAL NOT NULL, id TEXT, keys TEXT NOT NULL)"


def open_engine(settings: Settings) -> "BatchEngine":
    """Prepare the folder of the run; nothing is sent before the first request."""
    if settings.folder is None:
        raise UsageError("engine openai-batch needs the folder of the run, in which it records its batches")
    return BatchEngine(settings, settings.folder)


class SubmittedBatch(NamedTuple):
    """A submitted batch with requests whose replies are not collected yet."""

    name: str
    at: float
    """Time before the submission in seconds since 1970."""
    id: str | None
    """Id given by the service; None if the batch was recorded but may not have arrived."""
    keys: frozenset[str]


class BatchEngine(Engine):
    """Chat completions in batches, whose replies are collected when they have ended."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._path = folder / FILE
        directory = settings.batch_dir
        self._service: Service = Api(settings) if directory is None else Files(settings, directory)
        self._chat = OpenAIEngine(settings, only_probes=True) if directory is None else None
        """Single calls, which show at once which options the server accepts; a batch would show it after hours."""
        self._dialect = CAREFUL if directory is None else Dialect()
        self._scores = ScoreWatch()
        self.settled = self._chat is None
        self.facts = EngineFacts("openai-batch", self._service.version, revision=settings.revision)

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """Do nothing: the server has the tokenizer, and labels are looked up in its list of most probable tokens."""

    def probe(self, request: Request) -> Probed:
        assert self._chat is not None
        probed = self._chat.probe(request)
        self._take_over(self._chat)
        if (probed.reply.error or "").startswith(NotFoundError.__name__) and not probed.again:
            self.adopt(None)
        return probed

    def learn(self, request: Request, reply: Reply) -> bool:
        assert self._chat is not None
        again = self._chat.learn(request, reply)
        self._take_over(self._chat)
        return again

    def _take_over(self, chat: OpenAIEngine) -> None:
        """Take over what single calls have found out."""
        self.facts = self.facts._replace(sent=chat.facts.sent)
        self.settled, self._dialect = chat.settled, dialect_of(dict(self.facts.sent))

    def adopt(self, sent: Mapping[str, Any] | None) -> None:
        unknown = Dialect() if self._chat is None else CAREFUL
        self.settled, self._dialect = True, unknown if sent is None else dialect_of(sent)
        self.facts = self.facts._replace(sent=tuple(self._dialect.changes().items()))

    def together(self, requests: Iterable[Request]) -> Iterator[list[Reply]]:
        pending = {request.key: request for request in requests}
        rounds: Counter[str] = Counter()
        largest, refused = REQUESTS, 0
        with closing(BatchRecord(self._path)) as record, closing(self._service):
            while pending:
                for batch in self._arrived(record, pending):
                    ended = self._service.poll(batch.id or "")
                    if ended is None:
                        continue
                    yield from self._collect(record, batch, ended, pending=pending)
                    refused = len(batch.keys) if ended.code == FULL else 0
                    rounds.update(() if refused else batch.keys & pending.keys())
                if failed := [key for key in pending if rounds[key] >= ROUNDS]:
                    yield [Reply(key=key, error=f"no answer in {ROUNDS} batches") for key in failed]
                    for key in failed:
                        del pending[key]
                if refused and not record.open(pending):
                    # No other batch of this run is in the queue, so this file alone was too large for it.
                    largest, refused = self._half(refused), 0
                if not refused:
                    self._submit(record, pending, largest)
                if pending and not self._settings.wait:
                    raise self._not_yet(record, pending)
                if pending:
                    time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Do nothing: connections are closed after each run."""

    def _arrived(self, record: "BatchRecord", pending: dict[str, Request]) -> list[SubmittedBatch]:
        """Return the uncollected batches of these requests that the service has; remove those that never arrived."""
        for batch in record.open(pending):
            if batch.id is not None:
                continue
            found = self._service.find(batch.name, batch.at)
            if found is None:
                time.sleep(max(0.0, batch.at + LATE_SECONDS - time.time()))
                found = self._service.find(batch.name, batch.at)
            if found is None:
                log.info(f"batch {batch.name} never arrived: its {len(batch.keys)} requests will be submitted again")
                record.left(batch.name, frozenset())
            else:
                log.info(f"batch {batch.name} arrived although its submission was interrupted: its id is {found}")
                record.arrived(batch.name, found)
        return record.open(pending)

    def _half(self, refused: int) -> int:
        if refused == 1:
            raise EngineError("the server's limit on enqueued tokens is below one request; ask for a higher limit")
        log.info(f"a batch of {refused} requests is over the server's limit on enqueued tokens: halving it")
        return refused // 2

    def _submit(self, record: "BatchRecord", pending: dict[str, Request], largest: int) -> None:
        """Submit the requests that are in no batch; one file at a time if the queue is known to be short."""
        waiting = frozenset[str]().union(*(batch.keys for batch in record.open(pending)))
        free = [request for key, request in pending.items() if key not in waiting]
        for part, content in files(free, self._line, largest):
            name, at = uuid4().hex, time.time()
            record.intend(SubmittedBatch(name, at, None, keys=frozenset(request.key for request in part)))
            record.arrived(name, self._service.submit(name, at, content))
            log.info(f"batch {name}: {len(part)} requests submitted")
            if largest < REQUESTS:
                break

    def _line(self, request: Request) -> bytes:
        body = chat_body(self._settings.model, request, self._dialect, effort=self._settings.reasoning_effort)
        line = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n"

    def _collect(
        self, record: "BatchRecord", batch: SubmittedBatch, ended: Ended, pending: dict[str, Request]
    ) -> Iterator[list[Reply]]:
        """Yield the replies of an ended batch, and remove it from the record once they are journalled.

        Requests of other runs stay in the record for those runs.
        """
        mine = batch.keys & pending.keys()
        strange = 0
        part: list[Reply] = []
        for line in ended.lines:
            key, row = read_row(line)
            if key in mine and key in pending:
                reply = read_reply(row, pending[key], in_json=self._dialect.in_json)
                if reply is not None:
                    self._scores.see(reply, pending[key])
                    part.append(reply)
                    del pending[key]
                if len(part) == TOGETHER:
                    yield part
                    part = []
            elif key not in batch.keys:
                strange += 1
        if part:
            yield part
        record.left(batch.name, batch.keys - mine)
        said = [f"batch {batch.name}: {ended.status}", f"{len(mine - pending.keys())} of {len(mine)} answered"]
        said += [f"{strange} lines of no request in it"] if strange else []
        log.info(", ".join([*said, ended.reason] if ended.reason else said))
        if ended.status == "failed" and ended.code != FULL:
            raise EngineError(f"the server refuses the batch: {ended.reason}")

    def _not_yet(self, record: "BatchRecord", pending: dict[str, Request]) -> NotYetError:
        open_batches = record.open(pending)
        ids = [batch.id for batch in open_batches if batch.id is not None]
        batches = "1 batch" if len(ids) == 1 else f"{len(ids)} batches"
        return NotYetError(f"{len(pending):,} requests are waiting in {batches}; {self._service.later(ids)}")


class BatchRecord:
    """Record of the batches and their requests: a file in the folder of the run, written before each submission."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._do("PRAGMA journal_mode=WAL")
        self._do("PRAGMA synchronous=FULL")
        self._do(SCHEMA)

    def close(self) -> None:
        self._db.close()

    def intend(self, batch: SubmittedBatch) -> None:
        """Record a batch that is about to be submitted."""
        keys = json.dumps(sorted(batch.keys))
        self._do("INSERT INTO batches VALUES (?, ?, ?, ?)", batch.name, batch.at, batch.id, keys)

    def arrived(self, name: str, batch_id: str) -> None:
        """Record the service's id of a batch that arrived."""
        self._do("UPDATE batches SET id = ? WHERE name = ?", batch_id, name)

    def left(self, name: str, keys: frozenset[str]) -> None:
        """Record the requests that are still to be collected from a batch; without any, remove the batch."""
        if keys:
            self._do("UPDATE batches SET keys = ? WHERE name = ?", json.dumps(sorted(keys)), name)
        else:
            self._do("DELETE FROM batches WHERE name = ?", name)

    def open(self, keys: Iterable[str]) -> list[SubmittedBatch]:
        """Return the batches that contain any of these requests, oldest first."""
        wanted = frozenset(keys)
        rows = self._do("SELECT name, at, id, keys FROM batches ORDER BY at, name")
        found = [
            SubmittedBatch(name, at, batch_id, keys=frozenset(json.loads(held))) for name, at, batch_id, held in rows
        ]
        return [batch for batch in found if batch.keys & wanted]

    def _do(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{self._path}: {error}; free space or restore a copy, then run again") from None


def files(
    requests: Sequence[Request], line: Callable[[Request], bytes], largest: int
) -> Iterator[tuple[list[Request], bytes]]:
    """Yield requests in groups of at most `largest`, each with the content of its file of at most `FILE_BYTES`."""
    part: list[Request] = []
    lines: list[bytes] = []
    size = 0
    for request in requests:
        content = line(request)
        if part and (len(part) == largest or size + len(content) > FILE_BYTES):
            yield part, b"".join(lines)
            part, lines, size = [], [], 0
        part.append(request)
        lines.append(content)
        size += len(content)
    if part:
        yield part, b"".join(lines)


def read_row(line: bytes) -> tuple[str | None, dict[str, Any]]:
    """Parse a line of a batch's output; return the key of its request (None if there is none) and the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None, {}
    if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
        return None, {}
    return row["custom_id"], row


def read_reply(row: dict[str, Any], request: Request, *, in_json: bool = False) -> Reply | None:
    """Return the reply in a line; None if its request expired or met a fault of the server and must be sent again.

    With `in_json`, constrained answers were requested as JSON objects. A completion without a status was paid for, too.
    """
    response = row.get("response")
    response = response if isinstance(response, dict) else {}
    if response.get("choices"):
        response = {"body": response}  # the completion in place of its envelope
    status, body = status_in(response.get("status_code")), response.get("body")
    if not status and not row.get("error") and isinstance(body, dict) and body.get("choices"):
        status = 200
    if status // 100 != 2:
        # A line without a status, or with status 0, may have an error beside the response.
        unpaid = EMPTY_ACCOUNT.search(json.dumps(body)) is not None
        if not status or (status in RETRIED_STATUS and not unpaid) or status >= 500:
            return None
        if OUT_OF_LENGTH.search(str(body)):
            return Reply(key=request.key, finish_reason="length")
        reason = " ".join(f"status {status}: {row.get('error') or body}".split())
        return Reply(key=request.key, error=reason[:REASON_LENGTH])
    if isinstance(error_inside(body), RetriedError):
        return None
    wrapped = in_json and bool(request.labels or request.pattern)
    if isinstance(body, str):
        return read_raw(json.dumps(body), request, in_json=wrapped)
    return read_completion(body, json.dumps(body), request, in_json=wrapped)


def status_in(value: Any) -> int:
    """Return an HTTP status given as a number or as digits; 0 if it is neither."""
    return int(value) if isinstance(value, int | str) and len(str(value)) == 3 and str(value).isdecimal() else 0
