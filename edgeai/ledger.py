"""The record of queries and of money, in one SQLite file.

One row per query says where the answer came from, why, and what it cost; what was asked and answered is not
in it, unless the ledger is opened with ``keep_content=True``. Money is reserved before it is spent, in one
transaction with the check, so that neither threads nor processes can pass a limit together.

Safe for many threads and processes: short transactions, write-ahead log, busy timeout.
`Ledger.disclosures` is the record of what left the device.
"""

import json
import logging
import math
import time as clock
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from edgeai.database import Connection, Cursor, Database
from edgeai.disclosures import Disclosures
from edgeai.errors import BudgetExceeded, ConfigError, EdgeError, LedgerError
from edgeai.history import History
from edgeai.migrations import MIGRATIONS
from edgeai.paths import data_dir
from edgeai.types import Answer, Prompt, Source, Timing

log = logging.getLogger("edgeai.ledger")

Window = Literal["hour", "day", "month"]
WINDOW_S: Mapping[Window, float] = {"hour": 3600.0, "day": 86400.0, "month": 30 * 86400.0}
# A reservation that is older, and not sent, was made by a process that died before it could settle.
RESERVATION_S = 600.0
# Fifty cents are fifty times one cent, also in binary fractions.
ROUNDING_USD = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One query of the record. Unknown is None, never zero.

    ``time`` is UTC, in ISO format; ``source`` is None when there was no answer, and ``error`` then names
    the class of the error. ``device`` is what computed the device's answer. ``cost_usd`` is what the
    answer cost, by the price list that ``price_as_of`` names; ``wasted_cost_usd`` what a cancelled or
    failed side cost beside it. ``prompt`` and ``answer`` are None unless content is kept.
    """

    time: str
    model: str
    source: Source | None = None
    engine: str | None = None
    device: str | None = None
    endpoint: str | None = None
    reason: str | None = None
    task: str | None = None
    score: float | None = None
    score_name: str | None = None
    confidence: float | None = None
    certified: bool = False
    contract: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    ttft_s: float | None = None
    total_s: float | None = None
    decode_tps: float | None = None
    cost_usd: float | None = None
    price_as_of: str | None = None
    wasted_cost_usd: float = 0.0
    energy_j: float | None = None
    finish_reason: str | None = None
    disclosed_bytes: int = 0
    error: str | None = None
    prompt: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over the record.

    ``cost_usd`` is what is known, with what was wasted; the price of ``unpriced`` cloud answers is not in it.
    ``audits`` of kept answers against the cloud are no queries, but what they cost and disclosed is in the
    sums, as far as these are not restricted to a source or a reason.
    """

    queries: int
    device: int
    cloud: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    disclosed_bytes: int
    cost_usd: float
    unpriced: int
    audits: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


CONTENT = ("prompt", "answer")
COLUMNS = tuple(column.name for column in fields(Entry) if column.name not in CONTENT)
OF_ANSWER = tuple(column.name for column in fields(Answer) if column.name in COLUMNS)
OF_TIMING = tuple(column.name for column in fields(Timing) if column.name in COLUMNS)
INSERT = f"INSERT INTO queries ({', '.join(COLUMNS)}) VALUES ({', '.join(f':{name}' for name in COLUMNS)})"
SELECT = f"SELECT {', '.join(COLUMNS + CONTENT)} FROM queries LEFT JOIN contents ON query = id"
WHERE = (
    "WHERE (:since IS NULL OR time >= :since) AND (:source IS NULL OR source = :source)"
    " AND (:reason IS NULL OR reason = :reason)"
)
TOTALS = """
    SELECT count(*), count(*) FILTER (WHERE source = 'device'), count(*) FILTER (WHERE source = 'cloud'),
           count(error), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
           coalesce(sum(disclosed_bytes), 0), total(cost_usd) + total(wasted_cost_usd),
           count(*) FILTER (WHERE source = 'cloud' AND cost_usd IS NULL)
    FROM queries
"""


class Ledger:
    """An open record. Close it, or use it as a context manager; all methods are safe from any thread."""

    def __init__(self, database: Database, *, keep_content: bool = False) -> None:
        self._database = database
        self.history = History(database)
        self._keep_content = keep_content
        self.disclosures = Disclosures(database, keep_bodies=keep_content)
        self._warned = False

    @classmethod
    def open(cls, path: Path | None = None, *, keep_content: bool = False) -> Self:
        """Open or create the record; without ``path`` it is ``ledger.sqlite3`` in the data folder.

        Raises LedgerError when the file is not a ledger, or cannot be written.
        """
        path = data_dir() / "ledger.sqlite3" if path is None else path
        return cls(Database.open(path, MIGRATIONS), keep_content=keep_content)

    @property
    def path(self) -> Path:
        """Where the record is."""
        return self._database.path

    def close(self) -> None:
        """Close the file. Closing twice is fine."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # the record

    def record(
        self,
        answer: Answer,
        *,
        task: str | None = None,
        prompt: Prompt | None = None,
        wasted_cost_usd: float = 0.0,
    ) -> None:
        """Add one answered query. A failure to write is logged once, because no answer may be lost by it.

        Blocks for a second at most; a record that is in use for longer is written later.
        """
        values = {name: getattr(answer, name) for name in OF_ANSWER} | asdict(answer.usage)
        timing = {name: getattr(answer.timing, name) for name in OF_TIMING}
        if answer.energy_source == "estimate":
            values["energy_j"] = None  # a record is of what was measured
        entry = Entry(time=_now(), task=task, wasted_cost_usd=wasted_cost_usd, **values, **timing)
        self._add(replace(entry, prompt=_plain(prompt), answer=answer.text))

    def record_error(
        self,
        error: EdgeError,
        *,
        model: str,
        engine: str | None = None,
        endpoint: str | None = None,
        reason: str | None = None,
        task: str | None = None,
        prompt: Prompt | None = None,
        total_s: float | None = None,
        wasted_cost_usd: float = 0.0,
        disclosed_bytes: int = 0,
    ) -> None:
        """Add one query that ended in an error. Like `record`, it never raises for a failing disk."""
        entry = Entry(
            time=_now(),
            model=model,
            engine=engine,
            endpoint=endpoint,
            reason=reason,
            task=task,
            total_s=total_s,
            wasted_cost_usd=wasted_cost_usd,
            disclosed_bytes=disclosed_bytes,
            error=type(error).__name__,
            prompt=_plain(prompt),
        )
        self._add(entry)

    def rows(
        self,
        limit: int = 20,
        *,
        since: datetime | None = None,
        source: Source | None = None,
        reason: str | None = None,
    ) -> tuple[Entry, ...]:
        """The latest ``limit`` queries, newest first. Raises LedgerError."""
        found = self._database.read(
            f"{SELECT} {WHERE} ORDER BY time DESC, id DESC LIMIT :limit",
            {"limit": limit, "since": _stamp(since), "source": source, "reason": reason},
        )
        entries = (dict(zip(COLUMNS + CONTENT, row, strict=True)) for row in found)
        return tuple(Entry(**(entry | {"certified": bool(entry["certified"])})) for entry in entries)

    def totals(
        self, *, since: datetime | None = None, source: Source | None = None, reason: str | None = None
    ) -> Totals:
        """Sums over the queries that fit. Raises LedgerError."""
        values = {"since": _stamp(since), "source": source, "reason": reason}
        counted = self._database.read(f"SELECT reason, count(*) FROM queries {WHERE} GROUP BY reason", values)
        reasons = {name: count for name, count in counted if name is not None}
        names = (column.name for column in fields(Totals) if column.name not in ("audits", "reasons"))
        sums = dict(zip(names, self._database.read(f"{TOTALS} {WHERE}", values)[0], strict=True))
        totals = Totals(**sums, reasons=reasons)
        return totals if source or reason else self._with_audits(totals, values)

    def _with_audits(self, totals: Totals, values: Mapping[str, object]) -> Totals:
        sums = self.history.sums(values["since"])
        return replace(
            totals,
            audits=sums.audits,
            disclosed_bytes=totals.disclosed_bytes + sums.disclosed_bytes,
            cost_usd=totals.cost_usd + sums.cost_usd,
            unpriced=totals.unpriced + sums.unpriced,
        )

    # money

    def reserve(self, amount_usd: float, limits: Mapping[Window, float], now: float | None = None) -> int:
        """Set money aside for one query; the number returned goes to `settle` or `release`.

        ``limits`` are US dollars for the last hour, day (24 h) and month (30 days); ``now`` is in seconds
        since 1970. A reservation that is neither sent, settled nor released counts for ten minutes. Raises
        BudgetExceeded with the numbers, and LedgerError when the record cannot be written, because money
        that is not recorded is not spent.
        """
        now = clock.time() if now is None else now
        _check_amount(amount_usd)
        with self._database.transaction() as db:
            for window, limit in limits.items():
                used = _used(db, window, now)
                if used + amount_usd > limit + ROUNDING_USD:
                    raise _exceeded(window, limit, used, amount_usd)
            return _identity(db.execute("INSERT INTO spending (time, usd) VALUES (?, ?)", (now, amount_usd)))

    def sent(self, reservation: int) -> None:
        """Say that the query is about to leave: from now on its reservation counts until it is settled.

        Without that, a process that dies while the cloud answers would give its money back. Raises
        LedgerError when there is no such reservation, or the record cannot be written: then do not send.
        """
        with self._database.transaction() as db:
            done = db.execute("UPDATE spending SET sent = 1 WHERE id = ?", (reservation,))
            _check_found(done, reservation)

    def settle(self, reservation: int, actual_usd: float) -> None:
        """Replace the reserved amount by what was really paid; settling again corrects it.

        Raises LedgerError when it was released before, or the record cannot be written. A record that is in
        use for longer than a second is written later.
        """
        _check_amount(actual_usd)
        paid = (actual_usd, reservation)

        def book(db: Connection) -> None:
            done = db.execute("UPDATE spending SET usd = ?, settled = 1 WHERE id = ?", paid)
            _check_found(done, reservation)

        self._database.write(book)

    def release(self, reservation: int) -> None:
        """Give back a reservation of which nothing was spent; a settled one stays. Raises LedgerError."""

        def give_back(db: Connection) -> None:
            db.execute("DELETE FROM spending WHERE id = ? AND settled = 0", (reservation,))

        self._database.write(give_back)

    def spent(self, window: Window, now: float | None = None) -> float:
        """US dollars spent or still reserved in the rolling window that ends ``now``. Raises LedgerError."""
        with self._database.transaction() as db:
            return _used(db, window, clock.time() if now is None else now)

    def _add(self, entry: Entry) -> None:
        def insert(db: Connection) -> None:
            query = _identity(db.execute(INSERT, asdict(entry)))
            if self._keep_content:
                db.execute("INSERT INTO contents VALUES (?, ?, ?)", (query, entry.prompt, entry.answer))

        try:
            self._database.write(insert)
        except LedgerError as error:
            if not self._warned:
                log.warning("a query was answered and could not be recorded: %s", error)
            self._warned = True


def _used(db: Connection, window: Window, now: float) -> float:
    values = (now - WINDOW_S[window], now - RESERVATION_S)
    row = db.execute(
        "SELECT total(usd) FROM spending WHERE time > ? AND (settled OR sent OR time > ?)", values
    )
    return float(row.fetchone()[0])


def _check_amount(usd: float) -> None:
    if not 0 <= usd < math.inf:
        raise ConfigError(f"An amount of money is {usd}", why="It must be zero or above, in US dollars")


def _check_found(done: Cursor, reservation: int) -> None:
    if done.rowcount != 1:
        raise LedgerError(f"There is no reservation {reservation}", why="It was released, or never made")


def _identity(inserted: Cursor) -> int:
    assert inserted.lastrowid is not None  # it is after an INSERT
    return inserted.lastrowid


def _exceeded(window: Window, limit: float, used: float, amount_usd: float) -> BudgetExceeded:
    return BudgetExceeded(
        f"This query may cost ${amount_usd:.6f}, and ${max(limit - used, 0):.6f} is left for the {window}",
        why=f"${used:.6f} of ${limit:.6f} is spent or reserved",
        remedy=f"Wait, or raise budget_usd['{window}'] in the policy",
    )


def _plain(prompt: Prompt | None) -> str | None:
    """A string as it is; messages as a JSON list of role and text."""
    if prompt is None or isinstance(prompt, str):
        return prompt
    return json.dumps([{"role": turn.role, "text": turn.text} for turn in prompt], ensure_ascii=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _stamp(moment: datetime | None) -> str | None:
    """The moment as the column ``time`` has it; a time without zone is local."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")
