"""Audits: the game is fair, the alarm rarely false and soon enough."""

import numpy as np
import pytest

from edgeai.errors import ContractInfeasible
from edgeai.monitor.codec import decode, encode
from edgeai.monitor.contract import Certificate
from edgeai.monitor.drift import ALARM, Drift, watch


def certificate(audit_rate: float | None) -> Certificate:
    return Certificate(
        threshold=0.5, procedure="test", p_value=0.01, level=0.05, n=100, kept=80, errors=1, coverage=0.8,
        base_error=0.1, n_train=100, calibration="", audit_rate=audit_rate,
    )  # fmt: skip


def audits_to_alarm(rate: float, truth: float, random: np.random.Generator, most: int = 1000) -> int | None:
    state = Drift(rate=rate)
    for number, differs in enumerate(random.random(most) < truth, start=1):
        state = state.observe(agrees=not differs)
        if state.alarmed:
            return number
    return None


def test_false_alarms_are_rare() -> None:
    """At the promised rate the alarm rings in 5 % of all long runs at most, however often one looks."""
    random = np.random.default_rng(0)
    rang = [audits_to_alarm(0.05, 0.05, random) is not None for _ in range(400)]
    assert np.mean(rang) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(("truth", "published"), [(0.10, 109), (0.15, 49), (0.20, 31)])
def test_how_soon_it_rings(truth: float, published: int) -> None:
    """The median number of audits at α = .05 is the published one."""
    random = np.random.default_rng(1)
    found = [audits_to_alarm(0.05, truth, random) or 1000 for _ in range(600)]
    assert np.median(found) == pytest.approx(published, rel=0.2)


def test_the_expected_factor_is_one() -> None:
    """At the allowed rate the evidence neither grows nor falls on average, and it never becomes negative."""
    for rate in (0.01, 0.05, 0.2, 0.49):
        worse, better = (Drift(rate=rate).observe(agrees=agrees).evidence for agrees in (False, True))
        assert rate * worse + (1 - rate) * better == pytest.approx(1)
        assert better > 0


def test_the_alarm_stays_and_the_state_can_be_kept() -> None:
    """Good audits do not silence it; written and read again it is the same."""
    state = Drift(rate=0.05)
    for _ in range(10):
        state = state.observe(agrees=False)
    assert state.alarmed
    assert state.evidence >= ALARM
    for _ in range(300):
        state = state.observe(agrees=True)
    assert state.alarmed
    assert "no longer holds: 10 of 310" in state.in_words()
    assert decode(Drift, encode(state)) == state


def test_what_cannot_be_watched() -> None:
    """Unknown disagreement, or one of a half and more, is refused in words."""
    assert watch(certificate(0.1)) == Drift(rate=0.1)
    with pytest.raises(ContractInfeasible, match="did not ask the cloud"):
        watch(certificate(None))
    with pytest.raises(ContractInfeasible, match="50%"):
        watch(certificate(0.5))
