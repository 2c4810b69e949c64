"""Replaying a ledger whose answers are known under other rules."""

import subprocess
import sys
from dataclasses import replace

import pytest

from edgeai.calibrate.scenarios import Scenario, replay
from edgeai.economics import Price
from edgeai.errors import ConfigError
from edgeai.ledger import Entry
from edgeai.types import Reason


def entry(score: float | None, *, source: str = "device", reason: Reason = Reason.UNJUDGED) -> Entry:
    """One query: the device takes 1 s, the cloud 3 s and one cent."""
    return Entry(
        time="2026-01-01", model="m", source=source, reason=reason, score=score, score_name="s",  # type: ignore[arg-type]  # one of the two
        total_s=1.0 if source == "device" else 3.0, cost_usd=0.0 if source == "device" else 0.01,
        prompt_tokens=100, completion_tokens=10,
    )  # fmt: skip


LEFT = entry(0.3, source="cloud", reason=Reason.LOW_CONFIDENCE)
LEDGER = [*(entry(n / 10) for n in range(10)), LEFT, LEFT]


def test_as_it_was() -> None:
    """Without a threshold every query goes where it went."""
    found = replay(LEDGER, Scenario(name="as it was"))
    assert (found.queries, found.unscored) == (12, 0)
    assert found.escalation.value == pytest.approx(2 / 12)
    assert found.kept.value == pytest.approx(10 / 12)
    assert found.cost_usd is not None
    assert found.cost_usd.value == pytest.approx(1000 * 0.01 * 2 / 12)
    assert found.cost_usd.low < found.cost_usd.value < found.cost_usd.high
    assert found.median_s is not None
    assert found.median_s.value == 1.0
    assert found.unsure.value == 0


def test_another_threshold() -> None:
    """The scores decide; a query that would leave now takes its own time and then the cloud's."""
    found = replay(LEDGER, Scenario(name="", min_score=0.5))
    assert found.escalation.value == pytest.approx(7 / 12)
    assert found.p95_s is not None
    assert found.p95_s.value == 4.0
    low, high = found.escalation.low, found.escalation.high
    assert 0.25 < low < 7 / 12 < high < 0.9


def test_what_left_early_is_unsure_at_a_lower_threshold() -> None:
    """It left at 0.3 while streaming: at 0.2 nobody knows, and it counts as leaving."""
    found = replay(LEDGER, Scenario(name="", min_score=0.2))
    assert found.unsure.value == pytest.approx(2 / 12)
    assert found.escalation.value == pytest.approx(4 / 12)


def test_hard_rules_stay() -> None:
    """Private queries stay at every threshold, late ones leave, and so does one without a score."""
    rows = [
        entry(0.1, reason=Reason.PRIVATE), entry(0.9, source="cloud", reason=Reason.DEADLINE), entry(None),
        entry(0.9),
    ]  # fmt: skip
    assert replay(rows, Scenario(name="", min_score=0.5)).escalation.value == 0.5
    assert replay(rows, Scenario(name="", min_score=0.5)).private == 1
    assert replay(rows, Scenario(name="", min_score=0.0)).escalation.value == 0.5
    assert replay(rows, Scenario(name="", min_score=1.0)).escalation.value == 0.75


def test_an_outage() -> None:
    """What cannot leave stays, and is not paid."""
    found = replay(LEDGER, Scenario(name="", min_score=1.0, outage=0.25))
    assert found.escalation.value == pytest.approx(0.75)
    assert found.kept_by_outage.value == pytest.approx(0.25)
    assert found.cost_usd is not None
    assert found.cost_usd.value == pytest.approx(7.5)
    assert replay(LEDGER, Scenario(name="", outage=1.0)).escalation.value == 0


def test_another_price() -> None:
    """It is for the tokens that were counted."""
    found = replay(LEDGER, Scenario(name="", min_score=1.0, price=Price(prompt_usd=1.0, completion_usd=10.0)))
    assert found.cost_usd is not None
    assert found.cost_usd.value == pytest.approx(0.2)


def test_what_the_ledger_does_not_know_is_none() -> None:
    """Without any cloud answer there is neither a price nor a time for one."""
    found = replay(LEDGER[:10], Scenario(name="", min_score=0.5))
    assert found.cost_usd is None
    assert found.median_s is None
    kept = replay(LEDGER[:10], Scenario(name="as it was"))
    assert kept.cost_usd is not None  # where nobody was asked nothing was paid
    assert kept.cost_usd.value == kept.cost_usd.high == 0
    stays = replay(LEDGER[:10], Scenario(name="", min_score=0.0))
    assert stays.median_s is not None


def test_queries_without_the_contract_go_where_they_went() -> None:
    """A contract's threshold is for its own scores; without any of them there is nothing to replay."""
    rows = [*LEDGER, replace(entry(0.1), contract="other")]
    assert replay(rows, Scenario(name="", min_score=0.5, contract="other")).escalation.value == pytest.approx(
        3 / 13
    )
    with pytest.raises(ConfigError, match="no scores made under it"):
        replay(rows, Scenario(name="", min_score=0.5, contract="third"))


def test_nothing_to_replay() -> None:
    """An empty ledger, failed queries, and rules out of range are refused."""
    failed = replace(entry(None), source=None, error="CloudTimeout")
    with pytest.raises(ConfigError, match="no answered queries"):
        replay([failed], Scenario(name=""))
    with pytest.raises(ConfigError, match=r"min_score is 1\.5"):
        Scenario(name="", min_score=1.5)
    with pytest.raises(ConfigError, match=r"outage is -0\.1"):
        Scenario(name="", outage=-0.1)


def test_a_replay_needs_no_library_of_a_fit() -> None:
    """Who only simulates needs neither scikit-learn nor scipy nor matplotlib."""
    code = (
        "import sys, edgeai.calibrate.html; from edgeai.calibrate import Scenario, page, read_data, replay;"
        "assert callable(page) and callable(replay);"
        "print([name for name in ('sklearn', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
