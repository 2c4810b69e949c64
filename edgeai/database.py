"""An SQLite file that many threads and processes share: write-ahead log, short transactions, migrations."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from edgeai.errors import LedgerError

BUSY_TIMEOUT_S = 10.0

Connection = sqlite3.Connection
Cursor = sqlite3.Cursor
Migration = Callable[[Connection], None]


class Database:
    """One connection, taken in turn by threads. Every failure of SQLite is a LedgerError."""

    def __init__(self, path: Path, connection: Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, migrations: Sequence[Migration]) -> Self:
        """Open or create the file and apply the migrations it lacks, in order, known by their names."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,  # autocommit: the transactions are explicit
                check_same_thread=False,
            )
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from error
        try:
            _prepare(connection, migrations)
        except sqlite3.Error as error:
            connection.close()
            raise _unusable(path, error) from error
        return cls(path, connection)

    def read(self, sql: str, values: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """All rows of one SELECT."""
        try:
            with self._lock:
                return self._connection.execute(sql, dict(values)).fetchall()
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing, with the writer's lock from the first statement on."""
        try:
            with self._lock, _immediate(self._connection) as connection:
                yield connection
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        with self._lock:
            self._connection.close()


@contextmanager
def _immediate(connection: Connection) -> Iterator[Connection]:
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back on any error
        yield connection


def _prepare(connection: Connection, migrations: Sequence[Migration]) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    # The lock also proves that the file can be written.
    with _immediate(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied TEXT NOT NULL)"
        )
        applied = {name for (name,) in connection.execute("SELECT name FROM migrations")}
        for migrate in (step for step in migrations if step.__name__ not in applied):
            migrate(connection)
            moment = datetime.now(UTC).isoformat(timespec="seconds")
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (migrate.__name__, moment))


def _unusable(path: Path, error: Exception) -> LedgerError:
    return LedgerError(
        f"The ledger {path} cannot be used",
        why=str(error),
        remedy="Free the disk, correct the file's permissions, or move it away to start a new one; "
        "ledger=False works without it",
    )
