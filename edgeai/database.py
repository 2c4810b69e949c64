"""An SQLite file that many threads and processes share: write-ahead log, short transactions, migrations."""

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from edgeai.errors import LedgerError

log = logging.getLogger("edgeai.ledger")

BUSY_TIMEOUT_S = 10.0
# The longest that `write` blocks its caller, who may be an event loop.
PATIENCE_S = 1.0
MAX_WAITING = 10_000

Connection = sqlite3.Connection
Cursor = sqlite3.Cursor
Migration = Callable[[Connection], None]
Step = Callable[[Connection], None]


class Database:
    """One connection, taken in turn by threads. Every failure of SQLite is a LedgerError.

    A finalizer can run in the middle of any statement of ours, and want to write: the lock lets its thread
    in, ``_inside`` says that the connection is in use below it, and what it writes waits in the queue.
    Whoever ends a turn writes what waits.
    """

    def __init__(self, path: Path, connection: Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._inside = False
        self._waiting: deque[Step] = deque()
        self._warned = False

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
        with self._turn() as connection:
            return connection.execute(sql, dict(values)).fetchall()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[Connection]:
        """All or nothing, with the writer's lock from the first statement on.

        With ``durable`` it is on the disk at the end, and survives also a loss of power.
        """
        with self._turn() as connection, _durable(connection, wanted=durable), _immediate(connection):
            yield connection

    def write(self, step: Step) -> None:
        """Do ``step`` in a transaction of its own: now, or later when others are busy for more than a second.

        Never waits for the thread that calls it, so finalizers may. Raises LedgerError, and what ``step``
        raises, when it was tried now and failed.
        """
        end = time.monotonic() + PATIENCE_S
        try:
            if not self._write_now(step, end):
                self._keep(step)
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error
        finally:
            self._flush()

    def close(self) -> None:
        """Write what waits, and close the file. Closing twice is fine."""
        with self._lock:
            if not self._inside:
                self._write_waiting(PATIENCE_S)
            if self._waiting:
                log.warning("%d rows of the ledger were not written: it is in use", len(self._waiting))
                self._waiting.clear()
            self._connection.close()

    @contextmanager
    def _turn(self) -> Iterator[Connection]:
        try:
            with self._lock:
                outer = self._inside
                if not outer:
                    self._write_waiting()
                    self._be_patient(BUSY_TIMEOUT_S)
                self._inside = True
                try:
                    yield self._connection
                finally:
                    self._inside = outer
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error
        finally:
            self._flush()

    def _write_now(self, step: Step, end: float) -> bool:
        if not self._lock.acquire(timeout=PATIENCE_S):
            return False
        try:
            if self._inside:
                return False
            self._write_waiting()
            return self._run(step, max(end - time.monotonic(), 0.0))
        finally:
            self._lock.release()

    def _keep(self, step: Step) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise _unusable(self.path, TimeoutError("It is in use, and too many rows wait already"))
        self._waiting.append(step)

    def _flush(self) -> None:
        """Write what waits, if that is possible at once; else whoever has the turn does it at its end."""
        while self._waiting and self._lock.acquire(blocking=False):
            try:
                if self._inside or not self._write_waiting():
                    return
            finally:
                self._lock.release()

    def _write_waiting(self, patience_s: float = 0.0) -> bool:
        """Whether the queue is empty now; what fails for another reason than a busy file is lost."""
        while self._waiting:
            step = self._waiting.popleft()
            try:
                if not self._run(step, patience_s):
                    self._waiting.appendleft(step)
                    return False
            except (sqlite3.Error, LedgerError) as error:
                log.warning("a row that waited could not be written: %s", error)
        return True

    def _run(self, step: Step, patience_s: float) -> bool:
        """Whether the step is done; False: another process holds the file. The lock is held."""
        self._inside = True
        try:
            self._be_patient(patience_s)
            with _immediate(self._connection) as connection:
                step(connection)
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            if not self._warned:
                log.warning("the ledger %s is in use by another process; what is new waits", self.path)
            self._warned = True
            return False
        finally:
            self._inside = False
        return True

    def _be_patient(self, seconds: float) -> None:
        self._connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def _is_busy(error: sqlite3.OperationalError) -> bool:
    # Errors of the Python module itself have no code; the low byte is the primary one.
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


@contextmanager
def _durable(connection: Connection, *, wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    connection.execute("PRAGMA synchronous = FULL")
    try:
        yield
    finally:
        connection.execute("PRAGMA synchronous = NORMAL")


@contextmanager
def _immediate(connection: Connection) -> Iterator[Connection]:
    connection.execute("BEGIN IMMEDIATE")
    with connection:  # commits, or rolls back on any error
        yield connection


def _prepare(connection: Connection, migrations: Sequence[Migration]) -> None:
    _use_wal(connection)
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


def _use_wal(connection: Connection) -> None:
    """Two that switch a new file at once get SQLITE_BUSY, for which SQLite does not wait by itself."""
    end = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


def _unusable(path: Path, error: Exception) -> LedgerError:
    return LedgerError(
        f"The file {path} cannot be used",
        why=str(error),
        remedy="Free the disk, correct the file's permissions, or move it away to start a new one; "
        "ledger=False, or --no-ledger, works without a ledger",
    )
