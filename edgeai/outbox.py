"""Questions that wait for the network, in an SQLite file in the data folder, which a crash leaves whole.

``Policy(when_offline="queue")`` puts a question here when it should have left and nobody could be reached.
States of a question: "waiting"; "sending" from just before its bytes leave; then "answered", and "delivered"
once the app has had the answer; "refused" when it may not leave or the cloud will not answer it; "unknown"
when the program died, or the connection broke, while it was sent: it may have been answered and billed, so
it is not sent again unless `retry` says so. Nothing is sent twice by itself.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from edgeai.database import Connection, Database
from edgeai.errors import ConfigError, LedgerError, MissingExtra
from edgeai.paths import data_dir
from edgeai.types import Message, Request, Sampling, Text

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

__all__ = ["KEY_VARIABLE", "STATES", "Outbox", "Queued", "State", "new_key"]

State = Literal["waiting", "sending", "answered", "delivered", "refused", "unknown"]
STATES: tuple[State, ...] = ("waiting", "sending", "answered", "delivered", "refused", "unknown")
KEY_VARIABLE = "EDGEAI_QUEUE_KEY"
DEFAULT_LIFE_S = 7 * 24 * 3600.0
COLUMNS = "id, state, time, expires, content, answer, note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """One question. ``time`` and ``expires`` in seconds since 1970; ``note`` says why it was refused.

    ``request`` and ``answer`` are None when they are encrypted and the key is not given.
    """

    id: int
    state: State
    time: float
    expires: float
    request: Request | None
    answer: str | None
    note: str | None

    @property
    def asked(self) -> datetime:
        """When it was put here."""
        return datetime.fromtimestamp(self.time, UTC)


def questions(db: Connection) -> None:
    """The table of questions."""
    db.execute(
        "CREATE TABLE questions (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " state TEXT NOT NULL, time REAL NOT NULL, expires REAL NOT NULL,"
        " owner INTEGER, content BLOB NOT NULL, answer BLOB, note TEXT)"
    )


class Outbox:
    """The questions that wait, for all threads and processes. ``key`` encrypts what is stored (`new_key`).

    Raises LedgerError for a file that cannot be used, ConfigError for a key that is none, MissingExtra.
    """

    def __init__(self, path: Path | None = None, *, key: str | None = None) -> None:
        key = key or os.environ.get(KEY_VARIABLE) or None
        self._cipher = None if key is None else _cipher(key)
        self._database = Database.open(path or data_dir() / "queue.sqlite", [questions])
        self._lock = threading.Lock()

    def add(self, request: Request, *, life_s: float = DEFAULT_LIFE_S, unknown: str | None = None) -> int:
        """Store a question for ``life_s`` seconds; its number. ``unknown`` says why its fate is not known.

        Raises ConfigError for one with images, tools or a schema: their answers are of no use later.
        """
        now = time.time()
        content = self._sealed(_packed(request))
        with self._database.transaction() as db:
            added = db.execute(
                "INSERT INTO questions (state, time, expires, content, note) VALUES (?, ?, ?, ?, ?)",
                ("unknown" if unknown else "waiting", now, now + life_s, content, unknown),
            )
            return int(added.lastrowid or 0)

    def all(self) -> tuple[Queued, ...]:
        """Every question, the oldest first."""
        rows = self._database.read(f"SELECT {COLUMNS} FROM questions ORDER BY id", {})
        return tuple(self._queued(row) for row in rows)

    def counts(self) -> dict[State, int]:
        """How many there are in each state."""
        rows = dict(self._database.read("SELECT state, count(*) FROM questions GROUP BY state", {}))
        return {state: rows.get(state, 0) for state in STATES}

    def claim(self) -> Queued | None:
        """Take the oldest waiting question to send it, None when there is none.

        What is out of date goes, but for answers that nobody has had.

        A question whose process died while sending becomes "unknown". Raises ConfigError without its key.
        """
        with self._database.transaction() as db:
            db.execute(
                "DELETE FROM questions WHERE state NOT IN ('sending', 'answered') AND expires < ?",
                (time.time(),),
            )
            for number, owner in db.execute(
                "SELECT id, owner FROM questions WHERE state = 'sending'"
            ).fetchall():
                if not _is_alive(owner):
                    db.execute(
                        "UPDATE questions SET state = 'unknown', note = ? WHERE id = ?", (DIED, number)
                    )
            row = db.execute(
                f"SELECT {COLUMNS} FROM questions WHERE state = 'waiting' ORDER BY id LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            found = self._queued(row)
            if found.request is None:
                raise ConfigError(
                    "The queue is encrypted with another key", remedy=f"Give its key, or set {KEY_VARIABLE}"
                )
            db.execute(
                "UPDATE questions SET state = 'sending', owner = ? WHERE id = ?", (os.getpid(), found.id)
            )
            return found

    def back(self, number: int) -> None:
        """It was not sent: it waits again, in its old place."""
        self._set(number, "waiting")

    def answered(self, number: int, text: str) -> None:
        """The cloud's answer."""
        with self._database.transaction() as db:
            values = (self._sealed({"text": text}), number)
            db.execute("UPDATE questions SET state = 'answered', answer = ? WHERE id = ?", values)

    def refused(self, number: int, why: str) -> None:
        """It may not leave, or will not be answered."""
        self._set(number, "refused", why)

    def unknown(self, number: int, why: str) -> None:
        """It left, and what became of it is not known."""
        self._set(number, "unknown", why)

    def delivered(self, number: int) -> None:
        """The app has had the answer, and question and answer are forgotten."""
        empty = self._sealed({})
        with self._database.transaction() as db:
            db.execute(
                "UPDATE questions SET state = 'delivered', content = ?, answer = NULL WHERE id = ?",
                (empty, number),
            )

    def retry(self, number: int) -> None:
        """Send a refused or unknown question again. Raises LedgerError when there is none of that number."""
        with self._database.transaction() as db:
            changed = db.execute(
                "UPDATE questions SET state = 'waiting', note = NULL"
                " WHERE id = ? AND state IN ('refused', 'unknown')",
                (number,),
            )
            if not changed.rowcount:
                raise LedgerError(
                    f"No question {number} can be sent again",
                    why="Only those that were refused, or whose fate is unknown, can",
                    remedy="See edgeai queue list",
                )

    def clear(self) -> int:
        """Forget all but what is being sent; how many there were."""
        with self._database.transaction() as db:
            db.execute("PRAGMA secure_delete = ON")
            return int(db.execute("DELETE FROM questions WHERE state != 'sending'").rowcount)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set(self, number: int, state: State, note: str | None = None) -> None:
        with self._database.transaction() as db:
            db.execute("UPDATE questions SET state = ?, note = ? WHERE id = ?", (state, note, number))

    def _sealed(self, value: Mapping[str, Any]) -> bytes:
        data = json.dumps(value, ensure_ascii=False).encode()
        return data if self._cipher is None else self._cipher.encrypt(data)

    def _opened(self, data: bytes | None) -> dict[str, Any] | None:
        if data is None:
            return None
        if data.startswith(b"{"):
            return dict(json.loads(data))
        if self._cipher is None:
            return None
        from cryptography.fernet import InvalidToken

        try:
            return dict(json.loads(self._cipher.decrypt(data)))
        except InvalidToken:
            return None

    def _queued(self, row: tuple[Any, ...]) -> Queued:
        number, state, moment, expires, content, answer, note = row
        said = self._opened(answer)
        return Queued(
            id=number,
            state=state,
            time=moment,
            expires=expires,
            request=_unpacked(self._opened(content)),
            answer=None if said is None else str(said["text"]),
            note=note,
        )


DIED = "The program ended while it was sent"


def new_key() -> str:
    """A key for an encrypted queue; keep it where other secrets are. Raises MissingExtra."""
    return _fernet().generate_key().decode()


def _cipher(key: str) -> "Fernet":
    try:
        return _fernet()(key)
    except ValueError as error:
        raise ConfigError(
            "The queue's key is not a key", why=str(error), remedy="Make one: edgeai queue key"
        ) from None


def _fernet() -> "type[Fernet]":
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise MissingExtra("An encrypted queue needs cryptography", extra="crypto", why=str(error)) from error
    return Fernet


def _packed(request: Request) -> dict[str, Any]:
    plain = all(not (turn.images or turn.tool_calls or turn.tool_call_id) for turn in request.messages)
    if not plain or request.tools or request.schema or request.grammar or request.choices:
        raise ConfigError("Only plain questions can wait for the network", remedy='Use when_offline="keep"')
    return {
        "messages": [_packed_turn(turn) for turn in request.messages],
        "max_tokens": request.max_tokens,
        "sampling": asdict(request.sampling),
        "stop": request.stop,
        "task": request.task,
    }


def _unpacked(table: Mapping[str, Any] | None) -> Request | None:
    if not table:
        return None
    return Request(
        messages=tuple(map(_unpacked_turn, table["messages"])),
        max_tokens=table["max_tokens"],
        sampling=Sampling(**table["sampling"]),
        stop=tuple(table["stop"]),
        task=table["task"],
    )


def _packed_turn(turn: Message) -> dict[str, Any]:
    """With all that the gate goes by, of its parts, too."""
    content = turn.content if isinstance(turn.content, str) else [asdict(part) for part in turn.content]
    return {"role": turn.role, "content": content, "private": turn.private, "label": turn.label}


def _unpacked_turn(table: Mapping[str, Any]) -> Message:
    content = table["content"]
    if not isinstance(content, str):
        content = tuple(Text(part["text"], private=part["private"], label=part["label"]) for part in content)
    return Message(table["role"], content, private=table["private"], label=table["label"])


def _is_alive(pid: int | None) -> bool:
    import psutil

    return pid is not None and psutil.pid_exists(pid)
