"""The replay of the ledger from the command line."""

import json
import re
from pathlib import Path

import pytest

from edgeai.calibrate.cloud import LEDGER_TASK
from edgeai.cli.exits import Exit
from edgeai.ledger import Ledger
from edgeai.types import Answer, Reason, Timing, Usage
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def _queries() -> None:
    """Nine queries that stayed and one that left."""
    with Ledger.open() as ledger:
        for n in range(10):
            left = n == 0
            ledger.record(
                Answer(
                    text="a secret", source="cloud" if left else "device", model="m",
                    reason=Reason.LOW_CONFIDENCE if left else Reason.CONFIDENT, explanation="", score=n / 10,
                    score_name="s", usage=Usage(prompt_tokens=10, completion_tokens=5),
                    timing=Timing(total_s=2.0 if left else 0.5), cost_usd=0.002 if left else 0.0,
                ),
                task="t" if n % 2 else None,
            )  # fmt: skip
        mark = Answer(text="", source="cloud", model="m", reason=Reason.POLICY, explanation="")
        ledger.record(mark, task=LEDGER_TASK)  # of a calibration: it does not count


def test_the_table(run: Run) -> None:
    """One line for each threshold, with intervals, and what the ledger cannot know."""
    shown = run("simulate", "--min-score", "0.25", "--min-score", "0.75")
    assert shown.code == 0
    head, first, second, note = shown.out.splitlines()
    assert head.split("\t")[:3] == ["RULES", "TO THE CLOUD", "KEPT"]
    assert first.split("\t")[:2] == ["min_score 0.25", "30.0% (0.0%–60.0%)"]
    assert second.startswith("min_score 0.75\t80.0%")
    assert note.startswith("10 queries, 0 of them without a score. The ledger does not know whether")


def test_json_and_a_page(run: Run, tmp_path: Path) -> None:
    """JSON has all values; the page has the table and a figure, and loads nothing."""
    page = tmp_path / "replay.html"
    shown = run("simulate", "--task", "t", "--price", "1,2", "--outage", "0.5", "--html", str(page), "--json")
    [found] = json.loads(shown.out)
    assert found["queries"] == 5
    assert found["escalation"]["value"] == 0
    assert found["cost_usd"]["value"] == 0
    text = page.read_text()
    assert "<svg" in text
    assert "as it was" in text
    assert not re.search(r"""<script|@import|(src|href)=["'](?!#)|url\((?!#)""", text)


@pytest.mark.parametrize(
    "wrong", [("--price", "1"), ("--outage", "2"), ("--min-score", "7"), ("--since", "x"), ("--task", "none")]
)
def test_wrong_rules(run: Run, wrong: tuple[str, str]) -> None:
    """Each is a usage error in one line."""
    shown = run("simulate", *wrong)
    assert shown.code == Exit.USAGE
    assert shown.err.startswith("error: ")
