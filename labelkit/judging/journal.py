"""The crash-safe record of an annotation run: every judge, every pair asked, every reply paid for.

A reply is committed before anything else happens with it, with a digest that shows later damage. The judgements are a
pure function of this file. It is read row by row and never held as a whole: a journal may be larger than memory.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from labelkit.engines import Reply
from labelkit.errors import JournalError
from labelkit.records import Judge
from labelkit.storage.credentials import blot, secret_forms
from labelkit.storage.sqlite_file import SqliteFile, digest_of

log = logging.getLogger(__name__)

FILE = "journal.sqlite"
LAYOUT = 3
"""Of the tables below."""
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
REPLY = "key, attempt, reply, failed, tokens, usd, at, digest"
"""The columns of `replies`; the digest is over all others."""


class Charge(NamedTuple):
    """What a request cost, or what is set aside for it."""

    tokens: int
    usd: float | None
    """None where the price is not known."""


class Spent(NamedTuple):
    """What a folder cost in all its runs, and how many replies its journal holds."""

    tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0
    """Charges without a price."""
    replies: int = 0

    def plus(self, charge: Charge) -> "Spent":
        """This and one more charge."""
        unpriced = self.unpriced + (charge.usd is None)
        return Spent(self.tokens + charge.tokens, self.usd + (charge.usd or 0.0), unpriced, replies=self.replies)


class Asked(NamedTuple):
    """A pair that a judge was asked about, where it stood, and the key of the first request about it."""

    judge_id: str
    query_id: str
    passage_id: str
    variant: int
    """Which of the orders or votes, from 0."""
    window: int
    """Which part of a pool that was shown in parts, from 0."""
    position: int
    """Place in the window, from 1; 0 for a pair that was asked about alone."""
    seed: int | None
    """Of the order or of the vote."""
    key: str


class Journal(SqliteFile):
    """The journal in a folder of labels. Open with `with`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE, SCHEMA, LAYOUT)
        self._secrets = secret_forms()

    def _opened(self) -> None:
        self._spent = self._read_spent()

    def register(self, judge: Judge, prompt: bytes, asked: Iterable[Asked], *, whole: bool = False) -> None:
        """Record who will be asked what, before the first request leaves. The pairs of a query come together.

        With `whole`, what this judge was asked before about the same queries is superseded: passages that were shown
        together cannot be replaced one by one.
        """
        body = judge.model_dump_json()
        with self._commit():
            self._db.execute(
                "INSERT OR REPLACE INTO judges VALUES (?, ?, ?, ?)",
                (judge.judge_id, body, prompt, digest_of(judge.judge_id, body, prompt)),
            )
            for (judge_id, query_id), group in groupby(asked, key=lambda pair: pair[:2]):
                before = None if whole else self._asked_before(judge_id, query_id)
                pairs = merged(before, [pair[2:] for pair in group])
                if pairs != before:
                    row = (judge_id, query_id, pairs, digest_of(judge_id, query_id, pairs))
                    self._db.execute("INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?)", row)

    def _asked_before(self, judge_id: str, query_id: str) -> str | None:
        """What a judge was asked about a query, as it is kept."""
        statement = "SELECT pairs, digest FROM asked WHERE judge_id = ? AND query_id = ?"
        for pairs, digest in self._db.execute(statement, (judge_id, query_id)):
            if digest == digest_of(judge_id, query_id, pairs):
                return str(pairs)
            log.info(f"{self.path}: what was asked about {query_id!r} is damaged; the pairs of this run take its place")
        return None

    def asked(self, judge_id: str) -> Iterator[Asked]:
        """The pairs a judge was asked about, by query and passage id, then by order or vote."""
        statement = "SELECT query_id, pairs, digest FROM asked WHERE judge_id = ? ORDER BY query_id"
        for query_id, pairs, digest in self._rows(statement, judge_id):
            self._check(digest, judge_id, query_id, pairs)
            for pair in json.loads(pairs):
                yield Asked(judge_id, query_id, *pair)

    def judges(self) -> list[tuple[Judge, bytes]]:
        """Every judge of this folder with the text of its prompt, by id."""
        found = []
        for judge_id, judge, prompt, digest in self._rows("SELECT * FROM judges ORDER BY judge_id"):
            self._check(digest, judge_id, judge, prompt)
            found.append((Judge.model_validate_json(judge), prompt))
        return found

    def append(self, replies: Sequence[Reply], charges: Sequence[Charge | None] = ()) -> None:
        """Commit replies that came together; when this returns, they survive a crash and a power loss.

        A charge is what its reply cost, in the place of what was set aside for it; replies out of a cache have none.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        spent = self._spent._replace(replies=self._spent.replies + len(replies))
        with self._commit():
            for reply, charge in zip(replies, charges or [None] * len(replies), strict=True):
                last = "SELECT coalesce(max(attempt), 0) FROM replies WHERE key = ?"
                attempt = 1 + self._db.execute(last, (reply.key,)).fetchone()[0]
                row = (
                    reply.key,
                    attempt,
                    body_of(reply, self._secrets),
                    int(reply.error is not None),
                    *(charge or (None, None)),
                    now,
                )
                self._db.execute(
                    f"INSERT INTO replies ({REPLY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, digest_of(*row))
                )
                if charge is not None:
                    spent = spent.plus(charge)
            self._db.executemany("DELETE FROM aside WHERE key = ?", ((reply.key,) for reply in replies))
            self._write_spent(spent)

    def reserve(self, key: str, charge: Charge) -> None:
        """Set the worst case of a request aside, before it is sent."""
        with self._commit():
            digest = digest_of(key, *charge)
            self._db.execute("INSERT OR REPLACE INTO aside VALUES (?, ?, ?, ?)", (key, *charge, digest))

    def aside(self) -> dict[str, Charge]:
        """What is set aside for requests without a reply, by key."""
        found = {}
        for key, tokens, usd, digest in self._rows("SELECT key, tokens, usd, digest FROM aside ORDER BY key"):
            self._check(digest, key, tokens, usd)
            found[key] = Charge(tokens, usd)
        return found

    def write_off(self) -> None:
        """Count all that is set aside as spent: a killed run sent those requests, or did not; nobody knows."""
        spent = self._spent
        for charge in self.aside().values():
            spent = spent.plus(charge)
        with self._commit():
            self._db.execute("DELETE FROM aside")
            self._write_spent(spent)

    def spent(self) -> Spent:
        """What replies cost so far, and what was written off."""
        return self._spent

    def answered(self) -> set[str]:
        """The keys whose last reply is no error.

        Damaged replies are struck off, so that their pairs are asked again; what they cost stays spent. Raises
        `JournalError` where records vanished or the file itself is damaged: what else it lost cannot be known.
        """
        good: set[str] = set()
        damaged = []
        count = 0
        statement = f"SELECT row, {REPLY} FROM replies ORDER BY row"
        for row, key, attempt, reply, failed, tokens, usd, at, digest in self._rows(statement):
            count += 1
            # `digest_of`, spelled out: this is done for every reply of a journal, and takes a third less so.
            text = f"{key}\x1f{attempt}\x1f{reply}\x1f{failed}\x1f{tokens}\x1f{usd}\x1f{at}"
            if digest != sha256(text.encode()).digest():
                damaged.append(row)
            elif failed:
                good.discard(key)
            else:
                good.add(key)
        if damaged or count != self._spent.replies:
            self._strike_off(damaged, count)
            return self.answered()
        return good

    def check(self) -> None:
        """Raise `JournalError` for any damage; nothing is changed."""
        damaged = sum(digest != digest_of(*row) for *row, digest in self._rows(f"SELECT {REPLY} FROM replies"))
        missing = self._spent.replies - next(self._rows("SELECT count(*) FROM replies"))[0]
        state = self._state()
        if damaged or missing or state != "ok":
            what = f"{damaged} damaged and {missing} missing replies" if damaged or missing else state
            raise JournalError(f"{self.path} is damaged ({what}); annotate asks again what can be, or restore a copy")
        self.aside()
        for judge, _ in self.judges():
            for _ in self.asked(judge.judge_id):
                """Checked as it is read."""

    def _strike_off(self, damaged: Sequence[int], count: int) -> None:
        """Remove damaged replies from a file that is otherwise whole."""
        self.mend()
        if count != self._spent.replies:
            raise JournalError(
                f"{self.path} is damaged: {count} of {self._spent.replies} replies are there; restore it from a copy"
            )
        log.info(f"{self.path}: {len(damaged)} damaged replies; their pairs are asked again")
        with self._commit():
            self._db.executemany("DELETE FROM replies WHERE row = ?", ((row,) for row in damaged))
            self._write_spent(self._spent._replace(replies=count - len(damaged)))

    def reply(self, key: str) -> Reply | None:
        """The last reply to a request; None where there is none."""
        record = next(iter(self._records(key, "ORDER BY attempt DESC")), None)
        return reply_of(key, record[2], self.path) if record else None

    def cost(self, key: str) -> float | None:
        """US dollars spent on all replies to a request; None where nothing was, or one of them had no price."""
        charged = [usd for _, _, _, _, tokens, usd, *_ in self._records(key, "ORDER BY attempt") if tokens is not None]
        return None if not charged or None in charged else sum(charged)

    def _records(self, key: str, order: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a key that are as they were written."""
        for row in self._rows(f"SELECT {REPLY} FROM replies WHERE key = ? {order}", key):
            if row[0] == key and row[-1] == digest_of(*row[:-1]):
                yield row

    def records(self) -> Iterator[tuple[str, int, str, int | None, float | None, str]]:
        """Key, attempt, reply as JSON, tokens, dollars and time of every whole record, in the order of writing."""
        for *fields, digest in self._rows(f"SELECT {REPLY} FROM replies ORDER BY row"):
            if digest == digest_of(*fields):
                key, attempt, reply, _, tokens, usd, at = fields
                yield key, attempt, reply, tokens, usd, at

    def models(self) -> int:
        """How many different answerers, by model and fingerprint, the replies name; damaged replies may add to it."""
        names = "json_extract(reply, '$.model'), json_extract(reply, '$.fingerprint')"
        query = f"SELECT count(*) FROM (SELECT DISTINCT {names} FROM replies WHERE json_valid(reply))"
        return int(next(self._rows(query))[0])

    def _read_spent(self) -> Spent:
        for *fields, digest in self._rows("SELECT tokens, usd, unpriced, replies, digest FROM spent"):
            self._check(digest, *fields)
            return Spent(*fields)
        if next(self._rows("SELECT count(*) FROM replies"))[0]:
            raise JournalError(f"{self.path}: the sum of what was spent is lost; restore the file from a copy")
        return Spent()

    def _write_spent(self, spent: Spent) -> None:
        self._db.execute("INSERT OR REPLACE INTO spent VALUES (1, ?, ?, ?, ?, ?)", (*spent, digest_of(*spent)))
        self._spent = spent

    def _check(self, digest: bytes, *fields: object) -> None:
        """Raise for damage: unlike a reply, what was asked and spent cannot be had again by asking."""
        if digest != digest_of(*fields):
            raise JournalError(f"{self.path}: the record of {fields[0]!r} is damaged; restore the file from a copy")


def merged(before: str | None, pairs: Iterable[Sequence[Any]]) -> str:
    """The pairs of a query as JSON, sorted: those kept before, and these in the place of any of the same passage and
    variant."""
    rows = {(pair[0], pair[1]): list(pair) for pair in [*json.loads(before or "[]"), *pairs]}
    return json.dumps([rows[place] for place in sorted(rows)], ensure_ascii=False)


def body_of(reply: Reply, secrets: Sequence[str]) -> str:
    """What is kept of a reply beside its key: the fields that differ from their defaults, as JSON, without secrets."""
    return blot(reply.model_dump_json(exclude={"key"}, exclude_defaults=True), secrets)


def reply_of(key: str, body: str, path: Path) -> Reply:
    """A reply as it was kept. Raises `JournalError` where it has another schema."""
    try:
        return Reply.model_validate({**json.loads(body), "key": key})
    except (ValueError, ValidationError):
        raise JournalError(f"{path} holds a reply of another schema; use the labelkit that wrote it") from None
