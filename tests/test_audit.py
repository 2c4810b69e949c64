"""Drift: certified answers are compared with the cloud's in the background, until an alarm suspends."""

import threading
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from edgeai import Answer, CloudUnavailable, Edge, Message, Policy, Price, Reason
from edgeai.ledger import Ledger
from edgeai.standing import DriftAlarm
from edgeai.testing import FakeCloud, FakeEngine
from tests.promises import CERTIFICATE
from tests.test_contracts import QUESTION, made, opened

OTHER = "Something else."
SAME = "it is a TEST"


def ask(edge: Edge, times: int = 1) -> list[Answer]:
    """Ask one after the other, each audit ended before the next question."""
    answers = []
    for _ in range(times):
        answers.append(edge.ask(QUESTION))
        edge.wait_for_audits(10)
    return answers


def audits_under_way() -> bool:
    return any(thread.name == "edgeai-audit" for thread in threading.enumerate())


def test_disagreement_raises_the_alarm_and_suspends_the_contract(tmp_path: Path) -> None:
    """Once: the listener hears of it, queries leave, and another process knows."""
    alarms: list[DriftAlarm] = []
    path = tmp_path / "ledger.sqlite3"
    with opened(cloud=FakeCloud(OTHER), audit=1.0, ledger=path) as edge:
        edge.on_drift(alarms.append)
        answers = ask(edge, 5)
        assert [answer.certified for answer in answers] == [True] * 5
        assert [alarm.drift.disagreements for alarm in alarms] == [5]
        after = ask(edge, 2)
        assert [(a.source, a.reason, a.certified) for a in after] == [
            ("cloud", Reason.UNCERTIFIED, False),
        ] * 2  # fmt: skip
        assert len(alarms) == 1
    with opened(cloud=FakeCloud(OTHER), audit=1.0, ledger=path, on_drift="keep") as edge:
        kept = edge.ask(QUESTION)
    assert (kept.source, kept.certified, kept.confidence) == ("device", False, None)
    assert "5 of 5 audited answers differ" in kept.explanation


def test_agreement_raises_none() -> None:
    """Answers that say the same in other letters count as agreement."""
    alarms: list[DriftAlarm] = []
    with opened(cloud=FakeCloud(SAME), audit=1.0) as edge:
        edge.on_drift(alarms.append)
        assert all(answer.certified for answer in ask(edge, 12))
        live = edge._session.contracts.live(edge._session.policy)
        assert live is not None
        assert live.drift is not None
        assert (live.drift.audits, live.drift.disagreements) == (12, 0)
    assert alarms == []


def test_an_audit_is_on_record_with_what_it_disclosed_and_cost(tmp_path: Path) -> None:
    """It is no query, but its bytes and dollars are in the sums, and the budget knows of them."""
    path = tmp_path / "ledger.sqlite3"
    cloud = FakeCloud(SAME, price=Price(prompt_usd=1000.0, completion_usd=1000.0))
    with opened(cloud=cloud, audit=1.0, ledger=path, budget_usd={"day": 10.0}) as edge:
        (answer,) = ask(edge)
        assert answer.disclosed_bytes == 0
        assert edge._session.ledger is not None
        assert edge._session.ledger.spent("day") == pytest.approx(0.007)  # 3 words there, 4 back
    with Ledger.open(path) as ledger:
        totals = ledger.totals()
        assert (totals.queries, totals.cloud, totals.audits) == (1, 0, 1)
        assert totals.disclosed_bytes == len(cloud.encode(cloud.received[0]))
        assert totals.cost_usd == pytest.approx(0.007)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"privacy": "local"}, "the policy keeps everything on the device"),
        ({"audit": 0}, "the policy audits nothing"),
        (
            {"contract": made(certificate=replace(CERTIFICATE, audit_rate=None))},
            "The calibration did not ask the cloud",
        ),
    ],
)
def test_where_nobody_looks_the_answer_says_so(rules: dict[str, Any], why: str) -> None:
    """It is certified all the same, nothing is sent, and the reason is in its explanation."""
    cloud = FakeCloud(OTHER)
    with opened(cloud=cloud, **{"audit": 1.0, **rules}) as edge:
        (answer,) = ask(edge)
    assert answer.certified
    assert f"drift is not watched: {why}" in answer.explanation
    assert cloud.received == []


def test_another_cloud_than_at_calibration_does_not_audit() -> None:
    """How often it differs while all is well is not known: it is not asked, and the answer says so."""
    asked = made()
    judged = replace(asked, binding=replace(asked.binding, cloud="judge-1"))
    for name, n_asked in (("judge-2", 0), ("judge-1", 1)):
        cloud = FakeCloud(SAME)
        cloud.model = name
        with opened(cloud=cloud, audit=1.0, contract=judged) as edge:
            (answer,) = ask(edge)
        assert answer.certified
        watched = "compared with the cloud judge-1, and this one is judge-2" not in answer.explanation
        assert watched is (n_asked == 1)
        assert len(cloud.received) == n_asked


def test_a_private_message_is_not_audited() -> None:
    """Whatever the policy allows."""
    cloud = FakeCloud(OTHER)
    with opened(cloud=cloud, audit=1.0) as edge:
        assert edge.ask([Message("user", QUESTION, private=True)]).certified
        edge.wait_for_audits(10)
    assert cloud.received == []


def test_an_audit_that_fails_says_nothing_about_the_promise(tmp_path: Path) -> None:
    """A cloud that is down, or no money: on record, and no evidence."""
    path = tmp_path / "ledger.sqlite3"
    with opened(cloud=FakeCloud(error=CloudUnavailable("down")), audit=1.0, ledger=path) as edge:
        ask(edge)
    poor: dict[str, Any] = {"budget_usd": {"day": 1e-9}}
    with opened(cloud=FakeCloud(OTHER), audit=1.0, ledger=path, **poor) as edge:
        ask(edge)
        live = edge._session.contracts.live(edge._session.policy)
        assert live is not None
        assert live.drift is not None
        assert live.drift.audits == 0
    with Ledger.open(path) as ledger:
        found = ledger._database.read("SELECT agrees, error FROM audits ORDER BY id", {})
    assert found == [(None, "CloudUnavailable"), (None, "BudgetExceeded")]


def test_only_a_share_is_audited_and_it_delays_nothing() -> None:
    """Chance decides, whatever was asked; the answer is there while the audit still waits."""
    cloud = FakeCloud(OTHER, delay_s=0.2)
    with opened(cloud=cloud, audit=0.5) as edge:
        draws = iter([0.9, 0.1])
        edge._session.audits._chance = lambda: next(draws)
        assert edge.ask(QUESTION).certified
        assert not audits_under_way()
        assert edge.ask(QUESTION).certified
        assert audits_under_way()
        edge.wait_for_audits(10)
    assert len(cloud.received) == 1


def test_an_alarm_of_another_process_suspends_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger tells, also an Edge that audits nothing itself; its listener hears of it once."""
    monkeypatch.setattr("edgeai.standing.REFRESH_S", 0.0)
    path, alarms = tmp_path / "ledger.sqlite3", Queue[DriftAlarm]()
    cloud = FakeCloud(OTHER)
    with (
        opened(cloud=cloud, audit=0, ledger=path, on_drift="keep") as here,
        opened(cloud=cloud, audit=1.0, ledger=path) as there,
    ):
        here.on_drift(alarms.put)
        assert here.ask(QUESTION).certified
        ask(there, 5)
        answers = ask(here, 2)
        assert alarms.get(timeout=10).drift.disagreements == 5
    assert [answer.certified for answer in answers] == [False, False]
    assert "5 of 5 audited answers differ" in answers[0].explanation
    assert alarms.empty()


def test_a_listener_may_close_the_edge() -> None:
    """Even though it is called by the audit for which closing waits."""
    edge = opened(cloud=FakeCloud(OTHER), audit=1.0)
    closed = threading.Event()

    def close(alarm: DriftAlarm) -> None:
        edge.close()
        closed.set()

    edge.on_drift(close)
    ask(edge, 5)
    assert closed.wait(10)


def test_an_audit_that_cannot_begin_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system out of threads answers all the same."""

    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "edgeai-audit":
            raise RuntimeError("can't start new thread")
        start(thread)

    cloud = FakeCloud(OTHER)
    with opened(cloud=cloud, audit=1.0) as edge:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert edge.ask(QUESTION).certified
        assert cloud.received == []
        ask(edge)
    assert len(cloud.received) == 1


def test_closing_ends_an_audit() -> None:
    """It does not wait for a slow cloud."""
    edge = opened(cloud=FakeCloud(OTHER, delay_s=60), audit=1.0)
    edge.ask(QUESTION)
    edge.close()
    assert not audits_under_way()


def test_a_choice_is_audited_by_its_label() -> None:
    """The cloud's label is read as for an answer, and compared as a label."""
    from edgeai.monitor.score import Score
    from edgeai.observe import observe
    from tests.promises import column, contract

    choices = ["test.", "other"]
    with Edge(engine=FakeEngine("test."), ledger=False) as edge:
        seen = observe(edge, QUESTION, method="choose", choices=choices)
    score = Score(name="label", intercept=3.0, columns=(column("label_u", mean=0.0, weight=1.0),))
    policy = Policy(privacy="allow", contract=contract(seen.binding, score=score), audit=1.0)
    with Edge(engine=FakeEngine("test."), cloud=FakeCloud("TEST"), policy=policy, ledger=False) as edge:
        assert edge.choose(QUESTION, choices).answer.certified
        edge.wait_for_audits(10)
        live = edge._session.contracts.live(policy)
        assert live is not None
        assert live.drift is not None
        assert (live.drift.audits, live.drift.disagreements) == (1, 0)
