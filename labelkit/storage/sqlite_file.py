"""Write SQLite files that survive crashes and reveal damage: WAL mode, synchronous=FULL, a file lock, and digests.

SQLite has no checksums, so every record carries a digest; a record that does not match its digest is damaged.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from labelkit.errors import HeldError, JournalError
from labelkit.storage.locks import HolderLock

log = logging.getLogger(__name__)


class SqliteFile:
    """A SQLite file with a lock that is held until the `with` block ends.

    `layout` is the version of the tables in `schema`. It is stored in the file, so that a release with other tables
    refuses to read it.
    """

    def __init__(self, path: Path, schema: str, layout: int) -> None:
        self.path = path
        self._schema = f"BEGIN; {schema} PRAGMA user_version={layout}; COMMIT;"
        self._layout = layout
        self._lock = HolderLock(str(path.with_suffix("")), path.parent)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except HeldError as error:
            raise JournalError(str(error)) from None
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None)
            # Damaged bytes may not be text: they must not raise an error before the digest is checked.
            self._db.text_factory = lambda content: content.decode("utf-8", "replace")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA cache_size=-65536")
            self._create_or_refuse()
            self._opened()
        except sqlite3.DatabaseError as error:
            self._lock.release()
            raise JournalError(f"{self.path} cannot be read ({error}); restore it from a copy or remove it") from None
        except BaseException:
            self._lock.release()
            raise
        return self

    def _opened(self) -> None:
        """Read what a subclass needs as soon as the file is open."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._lock.release()

    def _create_or_refuse(self) -> None:
        """Create the tables of a new file, or raise `JournalError` for a file of another layout.

        In an existing file, a missing table was lost to damage and is not created.
        """
        layout, tables = (
            self._db.execute(f"SELECT {what}").fetchone()[0]
            for what in ("user_version FROM pragma_user_version", "count(*) FROM sqlite_master")
        )
        if not tables and not layout:
            self._db.executescript(self._schema)
        elif layout != self._layout:
            raise JournalError(f"{self.path} was written by another release of labelkit; choose another output folder")

    def mend(self) -> bool:
        """Rebuild the indexes if they do not agree with the tables; return whether this was needed.

        Raises `JournalError` if the structure of the tables is damaged.
        """
        if self._state() == "ok":
            return False
        with self._errors("repaired"):
            self._db.execute("REINDEX")
        if (state := self._state()) != "ok":
            raise JournalError(f"{self.path} is damaged ({state}); restore it from a copy")
        log.info(f"{self.path}: a damaged index was rebuilt")
        return True

    def _state(self) -> str:
        return str(next(self._rows("PRAGMA integrity_check(1)"))[0])

    def _rows(self, statement: str, *values: str) -> Iterator[tuple[Any, ...]]:
        with self._errors("read"):
            # No `yield from`: an abandoned generator must not close a cursor of a file that is already closed.
            for row in self._db.execute(statement, values):  # noqa: UP028
                yield row

    def _rows_together(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        """Return all rows of a statement, faster than one by one."""
        with self._errors("read"):
            return self._db.execute(statement, values).fetchall()

    @contextmanager
    def _commit(self) -> Iterator[None]:
        """Run the block in one transaction; when the block ends, either all of it is on disk or nothing."""
        with self._errors("written"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self, done: str) -> Iterator[None]:
        """Raise `JournalError` for a full disk, an I/O error or a damaged page, so that no reply is bought and lost."""
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(
                f"{self.path} cannot be {done} ({error}); free space or restore a copy, then run the command again"
            ) from None


def digest_of(*fields: object) -> bytes:
    """Return the sha256 over the fields of a record, which reveals damage but not forgery."""
    return hashlib.sha256("\x1f".join(map(str, fields)).encode()).digest()
