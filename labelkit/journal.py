"""The crash-safe record of an annotation run: every judge, every pair asked, every reply paid for.

One SQLite file in WAL mode with synchronous=FULL, written by one process under a file lock. A reply is committed before
anything else happens with it, with a digest that shows later damage. The judgements are a pure function of this file.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from filelock import FileLock, Timeout
from pydantic import ValidationError

from labelkit.engines import Reply
from labelkit.errors import JournalError
from labelkit.schema import Judge

FILE = "journal.sqlite"
LAYOUT = 2
"""Of the tables below; kept in the file, so that another release never half-reads it."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS judges (
    judge_id TEXT PRIMARY KEY, judge TEXT NOT NULL, prompt BLOB NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS asked (
    judge_id TEXT NOT NULL, query_id TEXT NOT NULL, passage_id TEXT NOT NULL, variant INTEGER NOT NULL,
    window INTEGER NOT NULL, position INTEGER NOT NULL, seed INTEGER, key TEXT NOT NULL,
    digest TEXT NOT NULL, PRIMARY KEY (judge_id, query_id, passage_id, variant)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replies (
    key TEXT NOT NULL, attempt INTEGER NOT NULL, reply TEXT NOT NULL, at TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (key, attempt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS charges (
    row INTEGER PRIMARY KEY, key TEXT NOT NULL, tokens INTEGER NOT NULL, usd REAL, aside INTEGER NOT NULL,
    digest TEXT NOT NULL);
"""


class Charge(NamedTuple):
    """What a request cost, or what is set aside for it."""

    tokens: int
    usd: float | None
    """None where the price is not known."""
    row: int | None = None
    """In the journal, once it is there."""


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


class Journal:
    """Open with `with`: the file lock is held until the block ends."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = FileLock(folder / "journal.lock")
        self._holder = folder / "journal.holder"

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = self._holder.read_text() if self._holder.is_file() else "another process"
            raise JournalError(f"{self.path.parent} is being written by {holder}; wait for it or stop it") from None
        self._holder.write_text(f"process {os.getpid()}")
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None)
            # Damage may leave bytes that are no text: they must reach the digest check, not raise before it.
            self._db.text_factory = lambda content: content.decode("utf-8", "replace")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._refuse_other_layout()
            self._db.executescript(SCHEMA + f"PRAGMA user_version={LAYOUT};")
        except sqlite3.DatabaseError as error:
            self._lock.release()
            raise JournalError(f"{self.path} cannot be read ({error}); restore it from a copy or remove it") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._holder.unlink(missing_ok=True)
        self._lock.release()

    def _refuse_other_layout(self) -> None:
        layout, tables = (
            self._db.execute(f"SELECT {what}").fetchone()[0]
            for what in ("user_version FROM pragma_user_version", "count(*) FROM sqlite_master")
        )
        if tables and layout != LAYOUT:
            self.__exit__(None, None, None)
            raise JournalError(f"{self.path} was written by another release of labelkit; choose another output folder")

    def register(self, judge: Judge, prompt: bytes, asked: Sequence[Asked], *, whole: bool = False) -> None:
        """Record who will be asked what, before the first request leaves.

        With `whole`, what this judge was asked before about the same queries is superseded: passages that were shown
        together cannot be replaced one by one.
        """
        body = judge.model_dump_json()
        with self._errors("written"):
            self._db.execute("BEGIN")
            self._db.execute(
                "INSERT OR REPLACE INTO judges VALUES (?, ?, ?, ?)",
                (judge.judge_id, body, prompt, digest_of(judge.judge_id, body, prompt.hex())),
            )
            if whole:
                queries = sorted({(judge.judge_id, pair.query_id) for pair in asked})
                self._db.executemany("DELETE FROM asked WHERE judge_id = ? AND query_id = ?", queries)
            self._db.executemany(
                "INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ((*pair, digest_of(*map(str, pair))) for pair in asked),
            )
            self._db.execute("COMMIT")

    def append(self, *replies: Reply, charge: Charge | None = None) -> None:
        """Commit replies; when this returns, they survive a crash and a power loss.

        `charge` is what a reply cost, in the place of what was set aside for it; replies out of a cache cost nothing.
        """
        now = datetime.now(UTC).isoformat()
        rows = [(reply.key, reply.model_dump_json()) for reply in replies]
        with self._errors("written"):
            self._db.execute("BEGIN")
            self._db.executemany(
                "INSERT INTO replies SELECT ?, 1 + coalesce(max(attempt), 0), ?, ?, ? FROM replies WHERE key = ?",
                ((key, body, now, digest_of(key, body), key) for key, body in rows),
            )
            if charge is not None:
                self._charge(replies[0].key, charge, aside=False)
            self._db.execute("COMMIT")

    def reserve(self, key: str, charge: Charge) -> Charge:
        """Set the worst case of a request aside, before it is sent."""
        with self._errors("written"):
            return charge._replace(row=self._charge(key, charge, aside=True))

    def _charge(self, key: str, charge: Charge, *, aside: bool) -> int | None:
        digest = digest_of(key, str(charge.tokens), repr(charge.usd), str(int(aside)))
        return self._db.execute(
            "INSERT OR REPLACE INTO charges VALUES (?, ?, ?, ?, ?, ?)",
            (charge.row, key, charge.tokens, charge.usd, aside, digest),
        ).lastrowid

    def charges(self) -> list[tuple[str, Charge, bool]]:
        """Everything spent, by key, with whether it was only set aside."""
        rows = self._read("SELECT row, key, tokens, usd, aside, digest FROM charges ORDER BY row")
        return [
            (key, Charge(tokens, usd, row), bool(aside))
            for row, key, tokens, usd, aside, digest in rows
            if self._checked(digest, key, str(tokens), repr(usd), str(aside))
        ]

    def costs(self) -> dict[str, float]:
        """US dollars spent on the replies of each key, where all of them had a price."""
        spent: dict[str, float | None] = {}
        for key, charge, aside in self.charges():
            if not aside:
                before = spent.get(key, 0.0)
                spent[key] = None if charge.usd is None or before is None else before + charge.usd
        return {key: usd for key, usd in spent.items() if usd is not None}

    def replies(self) -> dict[str, Reply]:
        """The last reply of every key. A damaged record is left out, so that its pair is asked again."""
        found: dict[str, Reply] = {}
        for key, body, digest in self._read("SELECT key, reply, digest FROM replies ORDER BY key, attempt"):
            if digest == digest_of(key, body):
                found[key] = reply_of(body, self.path)
        return found

    def judges(self) -> list[tuple[Judge, bytes]]:
        """Every judge of this folder with the text of its prompt, by id."""
        rows = self._read("SELECT judge_id, judge, prompt, digest FROM judges ORDER BY judge_id")
        return [
            (Judge.model_validate_json(judge), prompt)
            for judge_id, judge, prompt, digest in rows
            if self._checked(digest, judge_id, judge, prompt.hex())
        ]

    def asked(self, judge_id: str) -> Iterator[Asked]:
        """The pairs a judge was asked about, by query and passage id, then by order or vote."""
        rows = self._read(
            "SELECT judge_id, query_id, passage_id, variant, window, position, seed, key, digest FROM asked "
            "WHERE judge_id = ? ORDER BY query_id, passage_id, variant",
            judge_id,
        )
        return (Asked(*pair) for *pair, digest in rows if self._checked(digest, *map(str, pair)))

    def _checked(self, digest: str, *fields: str) -> bool:
        """True, or an error: unlike a reply, what was asked cannot be had again by asking."""
        if digest != digest_of(*fields):
            raise JournalError(f"{self.path}: the record of {fields[0]!r} is damaged; restore the file from a copy")
        return True

    def _read(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with self._errors("read"):
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        """A full disk, an I/O error or a destroyed page stops the run: nothing may be asked that cannot be kept."""
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(
                f"{self.path} cannot be {done} ({error}); free space or restore a copy, then run the command again"
            ) from None


def reply_of(body: str, path: Path) -> Reply:
    """A reply as it was kept. Raises `JournalError` where it has another schema."""
    try:
        return Reply.model_validate(json.loads(body))
    except (ValueError, ValidationError):
        raise JournalError(f"{path} holds a reply of another schema; use the labelkit that wrote it") from None


def digest_of(*fields: str) -> str:
    """sha256 over texts with their boundaries."""
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
