import json

import pytest

from edgeai.cli.exits import Exit
from edgeai.errors import CloudTimeout
from edgeai.ledger import Ledger
from edgeai.types import Answer, Reason, Timing, Usage
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def _queries() -> None:
    """Two answers and a failure."""
    with Ledger.open() as ledger:
        ledger.history.record_audit("c", agrees=True, error=None, cost_usd=0.5, disclosed_bytes=10)
        for source, reason in (("device", Reason.CONFIDENT), ("cloud", Reason.LOW_CONFIDENCE)):
            ledger.record(
                Answer(
                    text="a secret",
                    source=source,  # type: ignore[arg-type]  # one of the two
                    model="smol",
                    reason=reason,
                    explanation="",
                    score=0.5,
                    certified=source == "device",
                    contract="c",
                    usage=Usage(completion_tokens=7),
                    timing=Timing(ttft_s=0.25, total_s=1.5, decode_tps=99.6),
                    cost_usd=0.001 if source == "cloud" else 0.0,
                    disclosed_bytes=100 if source == "cloud" else 0,
                )
            )
        ledger.record_error(CloudTimeout("no answer"), model="smol")


def test_the_table(run: Run) -> None:
    """The newest first, unknown as a question mark, and a sentence with the totals."""
    lines = run("ledger").out.splitlines()
    rows = [line.split("\t") for line in lines[1:-1]]
    assert [row[1] for row in rows] == ["none", "cloud", "device"]
    assert rows[0][3:] == ["CloudTimeout", "?", "-", *"?????", "0 B"]
    assert rows[1][3:] == [
        "low_confidence",
        "0.50",
        "no",
        "7",
        "0.25 s",
        "1.50 s",
        "100",
        "$0.001000",
        "100 B",
    ]
    assert lines[-1] == (
        "3 queries: 1 on the device, 1 in the cloud, 1 failed, 1 audits; $0.501000; "
        "110 bytes left the device."
    )


def test_json(run: Run) -> None:
    """JSON has rows and totals, and no content."""
    shown = run("ledger", "--json", "--limit", "1", "--source", "cloud")
    record = json.loads(shown.out)
    assert [row["reason"] for row in record["queries"]] == ["low_confidence"]
    assert record["totals"]["queries"] == 1
    assert "secret" not in shown.out


@pytest.mark.parametrize(
    ("since", "queries"), [("1h", 3), ("2w", 3), ("2999-01-01", 0), ("2026-01-01T10:00", 3)]
)
def test_since(run: Run, since: str, queries: int) -> None:
    """Spans and dates bound rows and totals."""
    assert json.loads(run("ledger", "--json", "--since", since).out)["totals"]["queries"] == queries


@pytest.mark.parametrize("since", ["yesterday", "999999w", "0001-01-01T00:00+14:00"])
def test_a_bad_since(run: Run, since: str) -> None:
    """What is neither span nor date, or before all calendars, is a usage error."""
    shown = run("ledger", "--since", since)
    assert shown.code == Exit.USAGE
    assert f"error: --since is {since!r}. Give 30m" in shown.err
