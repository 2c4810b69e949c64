"""What has become of contracts: their latest queries, their audits, and the state of these, in the ledger."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from edgeai.database import Connection, Database

__all__ = ["AuditSums", "History", "contracts"]

SUMS = """
    SELECT count(*), coalesce(sum(disclosed_bytes), 0), total(cost_usd),
           count(*) FILTER (WHERE disclosed_bytes > 0 AND cost_usd IS NULL)
    FROM audits WHERE :since IS NULL OR time >= :since
"""


def contracts(db: Connection) -> None:
    """The contract of a query; the audits of kept answers, and what they have come to for each contract."""
    db.execute("ALTER TABLE queries ADD COLUMN contract TEXT")
    db.execute("CREATE INDEX queries_contract ON queries (contract, id) WHERE contract IS NOT NULL")
    db.execute("CREATE TABLE drift (contract TEXT PRIMARY KEY, state TEXT NOT NULL)")
    db.execute(
        "CREATE TABLE audits (id INTEGER PRIMARY KEY, time TEXT NOT NULL, contract TEXT NOT NULL,"
        " agrees INTEGER, error TEXT, cost_usd REAL, disclosed_bytes INTEGER NOT NULL)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSums:
    """Sums over audits. ``cost_usd`` is what is known; that of ``unpriced`` ones is not in it."""

    audits: int
    disclosed_bytes: int
    cost_usd: float
    unpriced: int


class History:
    """The ledger's part about contracts, which are known by their hash. Raises LedgerError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def contract_ends(self, contract: str, limit: int) -> list[tuple[str | None, str | None]]:
        """(source, reason) of the latest queries under this contract, the oldest first."""
        found = self._database.read(
            "SELECT source, reason FROM queries WHERE contract = :contract ORDER BY id DESC LIMIT :limit",
            {"contract": contract, "limit": limit},
        )
        return [(source, reason) for source, reason in reversed(found)]

    def used(self) -> tuple[str, ...]:
        """The contracts under which queries were answered."""
        found = self._database.read(
            "SELECT DISTINCT contract FROM queries WHERE contract IS NOT NULL ORDER BY contract", {}
        )
        return tuple(str(contract) for (contract,) in found)

    def drift(self, contract: str) -> str | None:
        """The state of a contract's audits, as `change_drift` stored it; None before the first."""
        return self.drifts().get(contract)

    def drifts(self) -> dict[str, str]:
        """The states of all contracts that were audited."""
        return dict(self._database.read("SELECT contract, state FROM drift ORDER BY contract", {}))

    def change_drift(self, contract: str, change: Callable[[str | None], str]) -> None:
        """Replace the state of a contract's audits, in one step for all processes."""
        with self._database.transaction() as db:
            row = db.execute("SELECT state FROM drift WHERE contract = ?", (contract,)).fetchone()
            state = change(None if row is None else row[0])
            db.execute("INSERT OR REPLACE INTO drift VALUES (?, ?)", (contract, state))

    def record_audit(
        self,
        contract: str,
        *,
        agrees: bool | None,
        error: str | None,
        cost_usd: float | None,
        disclosed_bytes: int,
    ) -> None:
        """Add an audit of a kept answer; without ``agrees`` it came to nothing."""
        values = (_now(), contract, agrees, error, cost_usd, disclosed_bytes)
        with self._database.transaction() as db:
            db.execute(
                "INSERT INTO audits (time, contract, agrees, error, cost_usd, disclosed_bytes)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )

    def sums(self, since: object) -> AuditSums:
        """Sums over the audits from the moment ``since`` on, given as the column ``time`` has it, or None."""
        found = self._database.read(SUMS, {"since": since})[0]
        names = ("audits", "disclosed_bytes", "cost_usd", "unpriced")
        return AuditSums(**dict(zip(names, found, strict=True)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
