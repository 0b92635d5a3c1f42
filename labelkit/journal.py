"""The crash-safe record of an annotation run: every judge, every pair asked, every reply paid for.

One SQLite file in WAL mode with synchronous=FULL, written by one process under a file lock. A reply is committed before
anything else happens with it, with a digest that shows later damage. The judgements are a pure function of this file.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
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
SCHEMA = """
CREATE TABLE IF NOT EXISTS judges (
    judge_id TEXT PRIMARY KEY, judge TEXT NOT NULL, prompt BLOB NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS asked (
    judge_id TEXT NOT NULL, query_id TEXT NOT NULL, passage_id TEXT NOT NULL, key TEXT NOT NULL,
    digest TEXT NOT NULL, PRIMARY KEY (judge_id, query_id, passage_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replies (
    key TEXT NOT NULL, attempt INTEGER NOT NULL, reply TEXT NOT NULL, at TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (key, attempt)) WITHOUT ROWID;
"""


class Asked(NamedTuple):
    """A pair that a judge was asked about, and the key of the request."""

    judge_id: str
    query_id: str
    passage_id: str
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
            self._db.executescript(SCHEMA)
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

    def register(self, judge: Judge, prompt: bytes, asked: Iterable[Asked]) -> None:
        """Record who will be asked what, before the first request leaves."""
        body = judge.model_dump_json()
        with self._errors("written"):
            self._db.execute("BEGIN")
            self._db.execute(
                "INSERT OR REPLACE INTO judges VALUES (?, ?, ?, ?)",
                (judge.judge_id, body, prompt, _digest(judge.judge_id, body, prompt.hex())),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO asked VALUES (?, ?, ?, ?, ?)", ((*pair, _digest(*pair)) for pair in asked)
            )
            self._db.execute("COMMIT")

    def append(self, reply: Reply) -> None:
        """Commit one reply; when this returns, the reply survives a crash and a power loss."""
        body = reply.model_dump_json()
        with self._errors("written"):
            self._db.execute(
                "INSERT INTO replies SELECT ?, 1 + coalesce(max(attempt), 0), ?, ?, ? FROM replies WHERE key = ?",
                (reply.key, body, datetime.now(UTC).isoformat(), _digest(reply.key, body), reply.key),
            )

    def replies(self) -> dict[str, Reply]:
        """The last reply of every key. A damaged record is left out, so that its pair is asked again."""
        found: dict[str, Reply] = {}
        for key, body, digest in self._read("SELECT key, reply, digest FROM replies ORDER BY key, attempt"):
            if digest == _digest(key, body):
                found[key] = _reply(body, self.path)
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
        """The pairs a judge was asked about, by query and passage id."""
        rows = self._read(
            "SELECT judge_id, query_id, passage_id, key, digest FROM asked WHERE judge_id = ? "
            "ORDER BY query_id, passage_id",
            judge_id,
        )
        return (Asked(*pair) for *pair, digest in rows if self._checked(digest, *pair))

    def _checked(self, digest: str, *fields: str) -> bool:
        """True, or an error: unlike a reply, what was asked cannot be had again by asking."""
        if digest != _digest(*fields):
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


def _reply(body: str, path: Path) -> Reply:
    try:
        return Reply.model_validate(json.loads(body))
    except (ValueError, ValidationError):
        raise JournalError(f"{path} holds a reply of another schema; use the labelkit that wrote it") from None


def _digest(*fields: str) -> str:
    """sha256 over texts with their boundaries."""
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
