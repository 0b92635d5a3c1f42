"""Store an annotation run so that it survives a crash: all judges, requested pairs and paid replies.

A reply is committed before it is used, with a digest that reveals later damage. The judgements are a pure function of
this file. It is read row by row, because a journal may be larger than memory.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from labelkit.engines import Reply
from labelkit.errors import JournalError
from labelkit.judging.key_set import KeySet, short
from labelkit.judging.stored_replies import (
    REPLY,
    REPLY_BYTES,
    body_of,
    digest_of_reply,
    dollars,
    replies_of,
    reply_of,
)
from labelkit.records import Judge
from labelkit.storage.credentials import blot, secret_forms
from labelkit.storage.sqlite_file import SqliteFile, digest_of

log = logging.getLogger(__name__)

FILE = "journal.sqlite"
LAYOUT = 3
"""Version of the tables in `SCHEMA`."""
SCHEMA = """
CREATE TABLE judges (judge_id TEXT PRIMARY KEY, judge TEXT NOT NULL, prompt BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE asked (
    judge_id TEXT NOT NULL, query_id TEXT NOT NULL, pairs TEXT NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (judge_id, query_id)) WITHOUT ROWID;
CREATE TABLE replies (
    row INTEGER PRIMARY KEY, key TEXT NOT NULL, attempt INTEGER NOT NULL, reply TEXT NOT NULL, failed INTEGER NOT NULL,
    tokens INTEGER, usd REAL, at TEXT NOT NULL, digest BLOB NOT NULL);
CREATE INDEX replies_by_key ON replies (key, attempt);
CREATE TABLE aside (key TEXT PRIMARY KEY, tokens INTEGER NOT NULL, usd REAL, digest BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE spent (
    one INTEGER PRIMARY KEY, tokens INTEGER NOT NULL, usd REAL NOT NULL, unpriced INTEGER NOT NULL,
    replies INTEGER NOT NULL, digest BLOB NOT NULL);
"""
KEYS = "FROM replies WHERE key IN (SELECT value FROM json_each(?))"
"""Rows of `replies` whose keys are in a JSON list."""


class Charge(NamedTuple):
    """The cost of a request, spent or reserved."""

    tokens: int
    usd: float | None
    """US dollars; None if the price is not known."""


class Arrival(NamedTuple):
    """A reply that has arrived, and its cost."""

    reply: Reply
    charge: Charge | None = None
    """Replaces the reservation for the reply; None for a reply without a cost, such as one from a cache."""


class Spent(NamedTuple):
    """The cost of a folder in all its runs, and the number of replies in its journal."""

    tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0
    """Number of charges without a price."""
    replies: int = 0

    def plus(self, *charges: Charge) -> "Spent":
        """Return the sum with more charges."""
        tokens, spent, unpriced, replies = self
        for count, usd in charges:
            tokens += count
            spent += usd or 0.0
            unpriced += usd is None
        return Spent(tokens, spent, unpriced, replies=replies)


class Answer(NamedTuple):
    """A reply, and the cost of all replies to its request."""

    reply: Reply
    usd: float | None
    """US dollars; None if none was paid or a reply had no price."""


class Asked(NamedTuple):
    """A pair that a judge was asked about, its place in the request, and the key of the first request about it."""

    judge_id: str
    query_id: str
    passage_id: str
    variant: int
    """Number of the order or vote, from 0."""
    window: int
    """Number of the window, from 0, if the pool was shown in several windows."""
    position: int
    """Place in the window, from 1; 0 for a pair that was judged alone."""
    seed: int | None
    """Seed of the order or vote."""
    key: str


class Journal(SqliteFile):
    """The journal of a labels folder. Open it with `with`."""

    changed = False
    """Whether anything that the tables of the folder show has changed since the journal was opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE, SCHEMA, LAYOUT)
        self._secrets = secret_forms()

    def _opened(self) -> None:
        self._spent = self._read_spent()
        self._reserved = bool(next(self._rows("SELECT EXISTS (SELECT 1 FROM aside)"))[0])
        """Whether there may be reservations."""

    def register(self, judge: Judge, prompt: bytes, asked: Iterable[Asked], *, whole: bool = False) -> None:
        """Record a judge and the pairs that it will be asked about, before the first request is sent.

        The pairs of a query must follow each other. With `whole`, the pairs replace all earlier pairs of this judge and
        these queries, because passages that were shown together cannot be replaced one by one.
        """
        groups = groupby(asked, key=lambda pair: pair.query_id)
        queries = ((query_id, merged(None, (pair[2:] for pair in group))) for query_id, group in groups)
        self.register_queries(judge, prompt, queries, whole=whole)

    def register_queries(
        self,
        judge: Judge,
        prompt: bytes,
        queries: Iterable[tuple[str, str]],
        *,
        whole: bool,
        before_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Record a judge and the pairs of queries, like `register`, from query ids and pairs as made by `merged`.

        `before_change` is called before the first record that is new or different is stored.
        """
        judge_id, body = judge.judge_id, judge.model_dump_json()
        record = (judge_id, body, prompt, digest_of(judge_id, body, prompt))
        with self._commit():
            if record not in self._db.execute("SELECT * FROM judges WHERE judge_id = ?", (judge_id,)).fetchall():
                self._change(before_change)
                self._db.execute("INSERT OR REPLACE INTO judges VALUES (?, ?, ?, ?)", record)
            for query_id, new in queries:
                before = self._asked_before(judge_id, query_id)
                pairs = new if whole or before in (None, new) else merged(before, json.loads(new))
                if pairs != before:
                    self._change(before_change)
                    row = (judge_id, query_id, pairs, digest_of(judge_id, query_id, pairs))
                    self._db.execute("INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?)", row)

    def _change(self, before_change: Callable[[], None]) -> None:
        if not self.changed:
            before_change()
        self.changed = True

    def _asked_before(self, judge_id: str, query_id: str) -> str | None:
        """Return the stored pairs of a judge and a query as JSON; None if there are none or they are damaged."""
        statement = "SELECT pairs, digest FROM asked WHERE judge_id = ? AND query_id = ?"
        for pairs, digest in self._db.execute(statement, (judge_id, query_id)):
            if digest == digest_of(judge_id, query_id, pairs):
                return str(pairs)
            log.info(f"{self.path}: the pairs of query {query_id!r} are damaged; the pairs of this run replace them")
        return None

    def asked(self, judge_id: str) -> Iterator[Asked]:
        """Yield the pairs that a judge was asked about, sorted by query id, passage id, and order or vote."""
        return chain.from_iterable(self.asked_by_query(judge_id))

    def asked_by_query(self, judge_id: str) -> Iterator[list[Asked]]:
        """Yield the same pairs as `asked`, in one list per query."""
        statement = "SELECT query_id, pairs, digest FROM asked WHERE judge_id = ? ORDER BY query_id"
        for query_id, pairs, digest in self._rows(statement, judge_id):
            self._check(digest, judge_id, query_id, pairs)
            yield [Asked(judge_id, query_id, *pair) for pair in json.loads(pairs)]

    def judges(self) -> list[tuple[Judge, bytes]]:
        """Return all judges of this folder with the texts of their prompts, sorted by id."""
        found = []
        for judge_id, judge, prompt, digest in self._rows("SELECT * FROM judges ORDER BY judge_id"):
            self._check(digest, judge_id, judge, prompt)
            found.append((Judge.model_validate_json(judge), prompt))
        return found

    def drop(self, judge_id: str) -> None:
        """Remove a judge and the pairs that it was asked about; the replies stay, since they were paid for."""
        self.changed = True
        with self._commit():
            for table in ("asked", "judges"):
                self._db.execute(f"DELETE FROM {table} WHERE judge_id = ?", (judge_id,))

    def unused(self) -> bool:
        """Return whether nothing was ever stored: no judge, no reply, no cost, no reservation."""
        return self._spent == Spent() and not self.judges() and not self.aside()

    def append(self, arrivals: Sequence[Arrival]) -> list[Reply]:
        """Commit replies that arrived together; when this returns, they survive a crash and a power loss.

        Returns the replies as they are stored, without secrets.
        """
        self.changed = True
        replies = [arrival.reply for arrival in arrivals]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        bodies = [body_of(reply) for reply in replies]
        safe = [blot(body, self._secrets) for body in bodies]
        keys = json.dumps([reply.key for reply in replies])
        spent = self._spent.plus(*(charge for _, charge in arrivals if charge is not None))
        spent = spent._replace(replies=spent.replies + len(replies))
        with self._commit():
            attempts = Counter(dict(self._db.execute(f"SELECT key, max(attempt) {KEYS} GROUP BY key", (keys,))))
            rows = []
            for (reply, charge), body in zip(arrivals, safe, strict=True):
                attempts[reply.key] += 1
                attempt, failed, cost = attempts[reply.key], int(reply.error is not None), charge or (None, None)
                digest = digest_of_reply((reply.key.encode(), attempt, body.encode(), failed, *cost, now.encode()))
                rows.append((reply.key, attempt, body, failed, *cost, now, digest))
            self._db.executemany(f"INSERT INTO replies ({REPLY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            if self._reserved:
                self._db.execute("DELETE FROM aside WHERE key IN (SELECT value FROM json_each(?))", (keys,))
            self._write_spent(spent)
        return [
            reply if body == blotted else reply_of(reply.key, blotted, self.path)
            for reply, body, blotted in zip(replies, bodies, safe, strict=True)
        ]

    def reserve(self, key: str, charge: Charge) -> None:
        """Reserve the worst-case cost of a request before it is sent."""
        self._reserved = True
        with self._commit():
            digest = digest_of(key, *charge)
            self._db.execute("INSERT OR REPLACE INTO aside VALUES (?, ?, ?, ?)", (key, *charge, digest))

    def release(self, key: str) -> None:
        """Remove the reservation for a request that the server refused to process."""
        with self._commit():
            self._db.execute("DELETE FROM aside WHERE key = ?", (key,))

    def aside(self) -> dict[str, Charge]:
        """Return the reservations for requests without a reply, by key."""
        found = {}
        for key, tokens, usd, digest in self._rows("SELECT key, tokens, usd, digest FROM aside ORDER BY key"):
            self._check(digest, key, tokens, usd)
            found[key] = Charge(tokens, usd)
        return found

    def write_off(self) -> None:
        """Count all reservations as spent, because a killed run may have sent their requests."""
        spent = self._spent
        for charge in self.aside().values():
            spent = spent.plus(charge)
        with self._commit():
            self._db.execute("DELETE FROM aside")
            self._write_spent(spent)

    def spent(self) -> Spent:
        """Return the cost of all replies so far, including reservations that were written off."""
        return self._spent

    def answered(self) -> KeySet:
        """Return the keys of requests whose last reply is not an error.

        Damaged replies are deleted, so that their requests are sent again; their cost stays counted. Raises
        `JournalError` if records are missing or the file itself is damaged, because other losses cannot be detected.
        """
        keys, errors = bytearray(), bytearray()
        damaged = []
        count = 0
        for row, *fields, digest in self._rows(f"SELECT row, {REPLY_BYTES} FROM replies ORDER BY row"):
            count += 1
            if digest != digest_of_reply(fields):
                damaged.append(row)
            else:
                keys += short(fields[0].decode())
                errors.append(fields[3])
        if damaged or count != self._spent.replies:
            self._strike_off(damaged, count)
            return self.answered()
        return KeySet.of_last(keys, errors)

    def check(self) -> None:
        """Raise `JournalError` for any damage, without changing anything."""
        damaged = sum(digest != digest_of(*row) for *row, digest in self._rows(f"SELECT {REPLY} FROM replies"))
        missing = self._spent.replies - next(self._rows("SELECT count(*) FROM replies"))[0]
        state = self._state()
        if damaged or missing or state != "ok":
            what = f"{damaged} damaged and {missing} missing replies" if damaged or missing else state
            raise JournalError(f"{self.path} is damaged ({what}); run annotate to repair it, or restore a copy")
        self.aside()
        for judge, _ in self.judges():
            for _ in self.asked(judge.judge_id):
                """Reading a pair checks it."""

    def _strike_off(self, damaged: Sequence[int], count: int) -> None:
        """Delete damaged replies from a file that is otherwise complete."""
        self.mend()
        self.changed = True
        if count != self._spent.replies:
            raise JournalError(
                f"{self.path} is damaged: {count} of {self._spent.replies} replies are left; restore it from a copy"
            )
        log.info(f"{self.path}: {len(damaged)} damaged replies; their requests are sent again")
        with self._commit():
            self._db.executemany("DELETE FROM replies WHERE row = ?", ((row,) for row in damaged))
            self._write_spent(self._spent._replace(replies=count - len(damaged)))

    def reply(self, key: str) -> Reply | None:
        """Return the last reply to a request; None if there is none."""
        record = next(iter(self._records(key, "ORDER BY attempt DESC")), None)
        return reply_of(key, record[2], self.path) if record else None

    def answers(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Return the last undamaged reply to each of these requests, by key, and the cost of all its replies."""
        statement = f"SELECT {REPLY_BYTES} {KEYS} ORDER BY key, attempt"
        found = self._rows_together(statement, json.dumps(list(keys)))
        rows = [row for row in found if row[-1] == digest_of_reply(row[:-1])]
        last = {row[0]: row[2] for row in rows}
        replies = replies_of(((key.decode(), body) for key, body in last.items()), self.path)
        if len(last) == len(rows):  # every request has one reply
            costs = [None if tokens is None else usd for _, _, _, _, tokens, usd, *_ in rows]
        else:
            costs = [dollars(list(attempts)) for _, attempts in groupby(rows, key=itemgetter(0))]
        return {reply.key: Answer(reply, usd) for reply, usd in zip(replies, costs, strict=True)}

    def cost(self, key: str) -> float | None:
        """Return the US dollars spent on all replies to a request; None if none was paid or one had no price."""
        return dollars(self._records(key, "ORDER BY attempt"))

    def _records(self, key: str, order: str) -> Iterator[tuple[Any, ...]]:
        """Yield the undamaged rows of a key."""
        for row in self._rows(f"SELECT {REPLY} FROM replies WHERE key = ? {order}", key):
            if row[0] == key and row[-1] == digest_of(*row[:-1]):
                yield row

    def records(self) -> Iterator[tuple[str, int, str, int | None, float | None, str]]:
        """Yield key, attempt, reply as JSON, tokens, US dollars and time of undamaged replies, in order of writing."""
        for *fields, digest in self._rows(f"SELECT {REPLY} FROM replies ORDER BY row"):
            if digest == digest_of(*fields):
                key, attempt, reply, _, tokens, usd, at = fields
                yield key, attempt, reply, tokens, usd, at

    def state(self) -> str:
        """Return a hash over what the tables of the folder are written from: judges, pairs, number and cost of replies.

        It does not reveal damage.
        """
        found = sha256(repr((*self._spent, self.last_row())).encode())
        for table in ("judges ORDER BY judge_id", "asked ORDER BY judge_id, query_id"):
            for (digest,) in self._rows(f"SELECT digest FROM {table}"):
                found.update(digest)
        return found.hexdigest()

    def last_row(self) -> int:
        """Return the number of the newest reply; 0 if there is none."""
        return int(next(self._rows("SELECT coalesce(max(row), 0) FROM replies"))[0])

    def good_rows(self) -> Iterator[tuple[int, Reply]]:
        """Yield the number and the reply of every undamaged record without an error, in order of writing."""
        for row, *fields, digest in self._rows(f"SELECT row, {REPLY} FROM replies WHERE NOT failed ORDER BY row"):
            if digest == digest_of(*fields):
                yield row, reply_of(fields[0], fields[2], self.path)

    def one_model(self) -> bool:
        """Return whether all replies, damaged ones included, name the same model and fingerprint."""
        names = "json_extract(reply, '$.model'), json_extract(reply, '$.fingerprint')"
        query = f"SELECT count(*) FROM (SELECT DISTINCT {names} FROM replies WHERE json_valid(reply) LIMIT 2)"
        return int(next(self._rows(query))[0]) == 1

    def _read_spent(self) -> Spent:
        for *fields, digest in self._rows("SELECT tokens, usd, unpriced, replies, digest FROM spent"):
            self._check(digest, *fields)
            return Spent(*fields)
        if next(self._rows("SELECT count(*) FROM replies"))[0]:
            raise JournalError(f"{self.path}: the record of the total cost is lost; restore the file from a copy")
        return Spent()

    def _write_spent(self, spent: Spent) -> None:
        self._db.execute("INSERT OR REPLACE INTO spent VALUES (1, ?, ?, ?, ?, ?)", (*spent, digest_of(*spent)))
        self._spent = spent

    def _check(self, digest: bytes, *fields: object) -> None:
        """Raise `JournalError` for a damaged record that, unlike a reply, cannot be requested again."""
        if digest != digest_of(*fields):
            raise JournalError(f"{self.path}: the record of {fields[0]!r} is damaged; restore the file from a copy")


def merged(before: str | None, pairs: Iterable[Sequence[Any]]) -> str:
    """Return the pairs of a query as sorted JSON: earlier pairs, replaced by new pairs with the same passage and
    variant.
    """
    rows = {(pair[0], pair[1]): list(pair) for pair in [*json.loads(before or "[]"), *pairs]}
    return json.dumps([rows[place] for place in sorted(rows)], ensure_ascii=False)
