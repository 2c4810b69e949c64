"""The record of what left: it cannot be changed without showing."""

import hashlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgeai.disclosures import Disclosures
from edgeai.ledger import Ledger


def add(record: Disclosures, n: int = 1) -> None:
    for at in range(n):
        record.add(
            endpoint="https://x.test/v1",
            model="m",
            body=b"body %d" % at,
            labels=("a",),
            redactions={"EMAIL": 2},
        )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with five disclosures."""
    with Ledger.open(tmp_path / "l.sqlite3") as ledger:
        add(ledger.disclosures, 5)
    return tmp_path / "l.sqlite3"


def faults(path: Path) -> tuple[str, ...]:
    with Ledger.open(path) as ledger:
        return ledger.disclosures.verify().faults


def tamper(path: Path, sql: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(sql)
    db.close()


def test_a_row_says_what_left(path: Path) -> None:
    """Endpoint, size, hash, labels, redactions; the bytes only on request."""
    with Ledger.open(path) as ledger:
        row = ledger.disclosures.rows(1)[0]
    assert (row.number, row.endpoint, row.model, row.n_bytes) == (5, "https://x.test/v1", "m", 6)
    assert (row.labels, row.redactions, row.body) == (("a",), {"EMAIL": 2}, None)
    assert row.sha256 == hashlib.sha256(b"body 4").hexdigest()
    with Ledger.open(path, keep_content=True) as ledger:
        add(ledger.disclosures)
        assert ledger.disclosures.rows(1)[0].body == b"body 0"
    assert faults(path) == ()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE disclosures SET n_bytes = 1 WHERE number = 3",
        "UPDATE disclosures SET endpoint = 'https://y.test' WHERE number = 5",
        "UPDATE disclosures SET labels = '[]' WHERE number = 1",
        "UPDATE disclosures SET labels = 'x' WHERE number = 1",
        "UPDATE disclosures SET body = 'x' WHERE number = 2",
        "UPDATE disclosures SET hash = previous WHERE number = 2",
        "DELETE FROM disclosures WHERE number = 1",
        "DELETE FROM disclosures WHERE number = 3",
        "DELETE FROM disclosures WHERE number = 5",
        "DELETE FROM disclosures WHERE number >= 2",
        "DELETE FROM disclosures",
    ],
)
def test_tampering_shows(path: Path, sql: str) -> None:
    """Any altered or removed row is a fault, also at the end."""
    assert faults(path) == ()
    tamper(path, sql)
    assert faults(path) != ()


def test_the_head(path: Path) -> None:
    """A missing, damaged or older head: the first two are faults, the third is what a crash leaves."""
    head = path.with_name("l.sqlite3.head")
    good = head.read_text()
    with Ledger.open(path) as ledger:
        add(ledger.disclosures)
    head.write_text(good)
    assert faults(path) == ()
    head.write_text("x")
    assert faults(path)
    head.unlink()
    assert faults(path)


def test_many_writers(tmp_path: Path) -> None:
    """Threads with connections of their own make one chain."""
    path = tmp_path / "l.sqlite3"

    def write() -> None:
        with Ledger.open(path) as ledger:
            add(ledger.disclosures, 5)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Ledger.open(path) as ledger:
        verdict = ledger.disclosures.verify()
    assert (verdict.rows, verdict.faults) == (20, ())


def test_kill_9(tmp_path: Path) -> None:
    """Killed at any moment, the chain verifies, and every row that was said to be written is there."""
    path = tmp_path / "l.sqlite3"
    code = (
        "import sys; from pathlib import Path; from edgeai.ledger import Ledger\n"
        "record = Ledger.open(Path(sys.argv[1])).disclosures\n"
        "while True: print(record.add(endpoint='e', model='m', body=b'x').number, flush=True)"
    )
    for delay_s in (0.0, 0.013, 0.05):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        said = int(child.stdout.readline())
        time.sleep(delay_s)
        child.send_signal(signal.SIGKILL)
        said = max(said, *map(int, child.communicate()[0].split() or ["0"]), 0)
        with Ledger.open(path) as ledger:
            verdict = ledger.disclosures.verify()
        assert verdict.faults == ()
        assert verdict.rows in (said, said + 1)
