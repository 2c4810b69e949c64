"""How the ledger's tables came to be: each step is applied once, known by its name."""

from edgeai.database import Connection
from edgeai.disclosures import disclosures
from edgeai.history import contracts

__all__ = ["MIGRATIONS"]


def queries_and_contents(db: Connection) -> None:
    """One row per query; its texts, if they are kept, in a table of their own."""
    db.execute(
        "CREATE TABLE queries (id INTEGER PRIMARY KEY, time TEXT NOT NULL, model TEXT NOT NULL, source TEXT,"
        " engine TEXT, endpoint TEXT, reason TEXT, task TEXT, score REAL, score_name TEXT, confidence REAL,"
        " certified INTEGER NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER,"
        " cached_tokens INTEGER, ttft_s REAL, total_s REAL, decode_tps REAL, cost_usd REAL,"
        " wasted_cost_usd REAL NOT NULL, energy_j REAL, finish_reason TEXT,"
        " disclosed_bytes INTEGER NOT NULL, error TEXT)"
    )
    db.execute("CREATE INDEX queries_time ON queries (time)")
    db.execute(
        "CREATE TABLE contents (query INTEGER PRIMARY KEY REFERENCES queries (id) ON DELETE CASCADE,"
        " prompt TEXT, answer TEXT)"
    )


def spending(db: Connection) -> None:
    """Money by the moment (seconds since 1970) it was reserved; ``settled`` once the true price is known."""
    db.execute(
        "CREATE TABLE spending (id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, usd REAL NOT NULL,"
        " settled INTEGER NOT NULL DEFAULT 0)"
    )
    db.execute("CREATE INDEX spending_time ON spending (time)")


def sent_reservations(db: Connection) -> None:
    """Money whose query was ``sent``: it may be owed even if nobody lives to settle it."""
    db.execute("ALTER TABLE spending ADD COLUMN sent INTEGER NOT NULL DEFAULT 0")


def cloud_details(db: Connection) -> None:
    """Tokens that a cloud thought or stored, and the price list that the cost was reckoned by."""
    db.execute("ALTER TABLE queries ADD COLUMN reasoning_tokens INTEGER")
    db.execute("ALTER TABLE queries ADD COLUMN cache_write_tokens INTEGER")
    db.execute("ALTER TABLE queries ADD COLUMN price_as_of TEXT")


def devices(db: Connection) -> None:
    """What computed the device's answer, such as "cpu" or "cpu, prefill on qnn"."""
    db.execute("ALTER TABLE queries ADD COLUMN device TEXT")


# Applied in this order, each once, known by its name: add new ones at the end, and never change an old one.
MIGRATIONS = [
    queries_and_contents,
    spending,
    sent_reservations,
    cloud_details,
    contracts,
    disclosures,
    devices,
]
