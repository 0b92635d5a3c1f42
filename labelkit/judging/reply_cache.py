"""Share replies between runs and folders, so that no reply is paid for twice.

A reply is found by its key, a hash over everything that determines it (`request_keys.request_key`): after adding one
passage, only its judgement is paid for. A run that ends adds its paid replies, and the paid replies of an earlier run
that was killed. The file is locked only while a run reads or writes it.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from labelkit.engines import Reply
from labelkit.errors import JournalError
from labelkit.judging.stored_replies import body_of, reply_of
from labelkit.storage.credentials import blot, secret_forms
from labelkit.storage.sqlite_file import digest_of

FILE = "cache.sqlite"
LAYOUT = 3
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, reply TEXT NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version={LAYOUT};
"""
PATIENCE = 60.0
"""Longest wait in seconds while another run reads or writes."""


class Cache:
    """The cached replies in one folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._secrets = secret_forms()
        self._lock = FileLock(folder / "cache.lock", timeout=PATIENCE)

    def find(self, keys: Iterable[str]) -> list[Reply]:
        """Return the undamaged replies in the cache; the others must be paid for."""
        found = []
        with self._open() as db:
            for key in keys:
                row = db.execute("SELECT reply, digest FROM replies WHERE key = ?", (key,)).fetchone()
                if row and row[1] == digest_of(key, row[0]):
                    found.append(reply_of(key, row[0], self.path))
        return found

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the keys without a reply in the cache."""
        with self._open() as db:
            return [key for key in keys if not db.execute("SELECT 1 FROM replies WHERE key = ?", (key,)).fetchone()]

    def add(self, replies: Iterable[Reply]) -> None:
        """Store replies; a new reply replaces an older one with the same key."""
        bodies = ((reply.key, blot(body_of(reply), self._secrets)) for reply in replies)
        rows = ((key, body, digest_of(key, body)) for key, body in bodies)
        with self._open() as db:
            db.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a transaction under the file lock."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._lock:
                db = sqlite3.connect(self.path)
                try:
                    db.text_factory = lambda content: content.decode("utf-8", "replace")
                    self._create_or_refuse(db)
                    with db:
                        yield db
                finally:
                    db.close()
        except Timeout:
            raise JournalError(f"{self.path} is locked by another run for over {PATIENCE:.0f} s; try again") from None
        except sqlite3.Error as error:
            raise JournalError(f"{self.path} cannot be used ({error}); free space, or remove it") from None

    def _create_or_refuse(self, db: sqlite3.Connection) -> None:
        layout, tables = db.execute("PRAGMA user_version").fetchone()[0], db.execute("PRAGMA table_list").fetchall()
        if layout not in (0, LAYOUT) or (layout == 0 and any(name == "replies" for _, name, *_ in tables)):
            raise JournalError(f"{self.path} was written by another release of labelkit; choose another --cache folder")
        db.executescript(SCHEMA)
