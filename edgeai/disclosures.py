"""The disclosure record: one row for every query that was about to leave the device.

Each row holds the hash of the row before it, so that a row that was altered, removed from the middle or put
between shows in `Disclosures.verify`. Rows removed at the end show by the head, the latest row's number and
hash, which is kept in a file beside the ledger. Who can write both files can forge both: the record protects
against accidents and edits of the database, not against the owner of the machine.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from edgeai.database import Connection, Database
from edgeai.errors import LedgerError

GENESIS = "0" * 64
_MEMORY = ":memory:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """One query as it was handed to the network. ``time`` is UTC, in ISO format.

    ``n_bytes`` and ``sha256`` are those of the body; a try that failed may have sent less, and a retry the
    same again. ``redactions`` counts placeholders by kind. ``body`` is None unless content is kept.
    """

    number: int
    time: str
    endpoint: str
    model: str
    task: str | None
    labels: tuple[str, ...]
    redactions: Mapping[str, int]
    n_bytes: int
    sha256: str
    previous: str
    hash: str
    body: bytes | None = field(default=None, repr=False)

    def expected_hash(self) -> str:
        """SHA-256 of everything but the hash itself and the body, whose own hash is among it."""
        values = asdict(self)
        del values["hash"], values["body"]
        plain = json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `Disclosures.verify` found: the number of rows, and each fault as a sentence."""

    rows: int
    faults: tuple[str, ...]


_COLUMNS = tuple(column.name for column in fields(Disclosure))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM disclosures"
_INSERT = f"INSERT INTO disclosures ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{n}' for n in _COLUMNS)})"


def disclosures(db: Connection) -> None:
    """The migration: the chained rows. No row is ever updated or deleted by us."""
    db.execute(
        "CREATE TABLE disclosures (number INTEGER PRIMARY KEY, time TEXT NOT NULL, endpoint TEXT NOT NULL,"
        " model TEXT NOT NULL, task TEXT, labels TEXT NOT NULL, redactions TEXT NOT NULL,"
        " n_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL,"
        " body BLOB)"
    )


class Disclosures:
    """The rows in a ledger's database. Safe from any thread and process."""

    def __init__(self, database: Database, *, keep_bodies: bool) -> None:
        self._database, self._keep_bodies = database, keep_bodies
        in_memory = str(database.path) == _MEMORY
        self.head = None if in_memory else database.path.with_name(f"{database.path.name}.head")

    def add(
        self,
        *,
        endpoint: str,
        model: str,
        body: bytes,
        labels: Sequence[str] = (),
        redactions: Mapping[str, int] | None = None,
        task: str | None = None,
    ) -> Disclosure:
        """Add a row, on the disk before this returns. Raises LedgerError; then send nothing."""
        with self._database.transaction(durable=True) as db:
            number, previous = _latest(db)
            row = Disclosure(
                number=number + 1,
                time=datetime.now(UTC).isoformat(timespec="microseconds"),
                endpoint=endpoint,
                model=model,
                task=task,
                labels=tuple(labels),
                redactions=dict(redactions or {}),
                n_bytes=len(body),
                sha256=hashlib.sha256(body).hexdigest(),
                previous=previous,
                hash="",
                body=body if self._keep_bodies else None,
            )
            values = asdict(row) | {"hash": row.expected_hash()}
            db.execute(
                _INSERT, values | {name: json.dumps(values[name]) for name in ("labels", "redactions")}
            )
        self._write_head()
        return Disclosure(**values)

    def rows(self, limit: int = 20) -> tuple[Disclosure, ...]:
        """The latest rows, newest first. Raises LedgerError."""
        found = self._database.read(f"{_SELECT} ORDER BY number DESC LIMIT :limit", {"limit": limit})
        return tuple(map(_row, found))

    def verify(self) -> Verdict:
        """Check the whole chain and its head. Raises LedgerError when the record cannot be read."""
        with self._database.transaction() as db:  # nobody adds a row meanwhile
            found = db.execute(f"{_SELECT} ORDER BY number").fetchall()
            head = self._read_head()
        try:
            rows = tuple(map(_row, found))
        except (ValueError, TypeError) as error:
            return Verdict(rows=len(found), faults=(f"A row is damaged: {error}",))
        faults = (*_chain_faults(rows), *_head_faults(rows, head, self.head))
        return Verdict(rows=len(rows), faults=faults)

    def _write_head(self) -> None:
        """Under the writer's lock, so that the head never goes back; a crash before leaves the older one."""
        if self.head is None:
            return
        with self._database.transaction() as db:
            number, latest = _latest(db)
            new = self.head.with_name(f"{self.head.name}.{os.getpid()}.new")
            try:
                new.write_text(f"{number} {latest}\n", encoding="ascii")
                new.replace(self.head)
            except OSError as error:
                raise LedgerError(f"{self.head} cannot be written", why=str(error)) from error

    def _read_head(self) -> str | None:
        try:
            return None if self.head is None else self.head.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"{self.head} cannot be read", why=str(error)) from error


def _latest(db: Connection) -> tuple[int, str]:
    row = db.execute("SELECT number, hash FROM disclosures ORDER BY number DESC LIMIT 1").fetchone()
    return (0, GENESIS) if row is None else (row[0], row[1])


def _row(values: Sequence[object]) -> Disclosure:
    named = dict(zip(_COLUMNS, values, strict=True))
    labels, redactions = json.loads(str(named["labels"])), json.loads(str(named["redactions"]))
    named |= {"labels": tuple(labels), "redactions": redactions}
    return Disclosure(**named)  # type: ignore[arg-type]  # an altered row shows by its hash


def _chain_faults(rows: Sequence[Disclosure]) -> Iterator[str]:
    previous = GENESIS
    for expected, row in enumerate(rows, 1):
        if row.number != expected:
            yield f"Row {expected} is missing, or its number was altered"
            return
        if row.hash != row.expected_hash():
            yield f"Row {row.number} was altered"
        if row.previous != previous:
            yield f"Row {row.number} does not follow row {row.number - 1}: one was altered or replaced"
        if row.body is not None and not _is_body(row.body, row.sha256):
            yield f"The body of row {row.number} was altered"
        previous = row.hash


def _is_body(body: object, sha256: str) -> bool:
    return isinstance(body, bytes) and hashlib.sha256(body).hexdigest() == sha256


def _head_faults(rows: Sequence[Disclosure], head: str | None, path: Path | None) -> Iterator[str]:
    if path is None or (head is None and not rows):
        return
    if head is None:
        yield f"The head is missing ({path}): rows may have been removed at the end"
        return
    number, _, latest = head.strip().partition(" ")
    if not number.isascii() or not number.isdigit():
        yield f"The head is damaged ({path})"
    elif int(number) > len(rows):
        yield f"{int(number) - len(rows)} rows were removed at the end: the head names row {number}"
    elif not int(number) or rows[int(number) - 1].hash != latest:
        yield f"Row {number} is not the one that the head names: the record was rewritten"
