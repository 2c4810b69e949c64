"""Questions that wait for the network: nothing lost, nothing twice, nothing readable without the key."""

import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from edgeai import (
    BothFailed,
    CloudUnavailable,
    ConfigError,
    Edge,
    EngineCrashed,
    LedgerError,
    Message,
    OpenAI,
    Policy,
    Price,
    Reason,
    Text,
)
from edgeai.cloud import Piece
from edgeai.ledger import Ledger
from edgeai.net import Retry, breaker
from edgeai.outbox import KEY_VARIABLE, Outbox, new_key
from edgeai.paths import data_dir
from edgeai.resend import QueuedAnswer, send
from edgeai.testing import FakeCloud, FakeEngine
from edgeai.types import Released, Request
from tests.servers import Child, katan
from tests.storms import wait_for

POLICY = Policy(privacy="allow", min_score=0.9, when_offline="queue")
QUESTIONS = ["Why is the sky blue?", "And the sea?", "What is the secret word, Schwertlilie?"]


def asked(text: str, *, private: bool = False) -> Request:
    return Request(messages=(Message("user", text, private=private),), max_tokens=20)


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    with Outbox() as opened:
        yield opened


def states(outbox: Outbox) -> list[str]:
    return [item.state for item in outbox.all()]


def nowhere() -> OpenAI:
    """A cloud that nobody runs."""
    return OpenAI("model", base_url="http://127.0.0.1:9/v1", key="sk-x", retry=Retry(attempts=1))


@pytest.fixture(scope="module")
def server() -> Iterator[Child]:
    with katan() as running:
        yield running


def test_offline_questions_wait_and_are_answered_later(server: Child) -> None:
    """The device's answer comes at once; the cloud's, oldest first, when the network is back."""
    late: list[QueuedAnswer] = []
    with Edge(engine=FakeEngine(probability=0.1), cloud=nowhere(), policy=POLICY) as edge:
        for text in QUESTIONS:
            answer = edge.ask(text)
            assert (answer.source, answer.certified) == ("device", False)
            assert answer.reason in (Reason.CLOUD_FAILED, Reason.OFFLINE)
        assert edge.send_queued() == 0
    breaker.forget_all()
    cloud = OpenAI("model", base_url=server.url, key="sk-x")
    with Edge(engine=FakeEngine(probability=0.1), cloud=cloud, policy=POLICY) as edge:
        edge.on_queued(late.append)
        assert edge.send_queued() == len(QUESTIONS)
        assert edge.send_queued() == 0
    assert [item.question.request.messages[0].text for item in late if item.question.request] == QUESTIONS
    assert all(item.text for item in late)
    with Outbox() as outbox:
        assert states(outbox) == ["delivered"] * 3
        assert all(item.request is None and item.answer is None for item in outbox.all())


def test_it_sends_by_itself(server: Child, monkeypatch: pytest.MonkeyPatch, outbox: Outbox) -> None:
    """An open Edge needs no telling."""
    monkeypatch.setattr("edgeai.waiting.LOOK_S", 0.05)
    outbox.add(asked("Why?"))
    cloud = OpenAI("model", base_url=server.url, key="sk-x")
    late: list[QueuedAnswer] = []
    with Edge(engine=FakeEngine(), cloud=cloud, policy=POLICY) as edge:
        edge.on_queued(late.append)
        end = time.monotonic() + 10
        while not late and time.monotonic() < end:
            time.sleep(0.02)
    assert len(late) == 1


class Blip(OpenAI):
    """A cloud that takes the question and is gone."""

    async def stream(self, released: Released) -> AsyncGenerator[Piece, None]:
        error = CloudUnavailable("It broke off")
        error.sends = 1
        raise error
        yield


def test_without_any_answer_a_question_waits_all_the_same(outbox: Outbox) -> None:
    """When the device fails, too, the error is raised and the question is kept."""
    dead = FakeEngine(error=EngineCrashed("The engine died"))
    with Edge(engine=dead, cloud=nowhere(), policy=POLICY, ledger=False) as edge:
        for expected in (BothFailed, EngineCrashed):  # the second one finds the breaker open
            with pytest.raises(expected):
                edge.ask("Why?")
    assert states(outbox) == ["waiting"] * 2


def test_what_had_left_is_not_sent_again_by_itself(outbox: Outbox) -> None:
    """A connection that broke after the bytes had left may have been billed: a person decides."""
    blip = Blip("model", base_url="http://127.0.0.1:9/v1", key="sk-x")
    with Edge(engine=FakeEngine(probability=0.1), cloud=blip, policy=POLICY, ledger=False) as edge:
        assert edge.ask("Why?").source == "device"
    (kept,) = outbox.all()
    assert kept.state == "unknown"
    assert "It broke off" in str(kept.note)


def test_labels_wait_along(outbox: Outbox) -> None:
    """What may leave of a message and of its parts is decided by the same labels later as now."""
    parts = (Text("My order", label="sales"), Text("my pulse", label="health", private=True))
    request = Request(messages=(Message("system", "S", label="sales"), Message("user", parts)), max_tokens=20)
    outbox.add(request)
    assert outbox.all()[0].request == request
    rules = Policy(privacy="allow", labels={"sales": "allow"})
    assert send(outbox, FakeCloud(), rules, None, None) == 0
    assert states(outbox) == ["refused"]


def test_a_listener_that_fails_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answers stay in the queue, the thread goes on, and the fault is logged."""
    monkeypatch.setattr("edgeai.waiting.LOOK_S", 0.02)
    heard: list[str] = []

    def listener(answer: QueuedAnswer) -> None:
        heard.append(answer.text)
        if len(heard) == 1:
            raise ZeroDivisionError

    outbox.add(asked("One?"))
    with Edge(engine=FakeEngine(), cloud=FakeCloud("Late"), policy=POLICY, ledger=False) as edge:
        edge.on_queued(listener)
        wait_for(lambda: states(outbox) == ["answered"])
        outbox.add(asked("Two?"))
        wait_for(lambda: states(outbox) == ["answered", "delivered"])
    assert "listener" in caplog.text


def test_without_a_queue_there_is_nothing_to_send() -> None:
    """The error says what is missing; other policies create no file."""
    with Edge(engine=FakeEngine(), cloud=FakeCloud(), ledger=False) as edge, pytest.raises(ConfigError):
        edge.send_queued()
    assert not (data_dir() / "queue.sqlite").exists()


def test_what_may_not_leave_now_is_refused(outbox: Outbox) -> None:
    """The gate is passed when sending, too; nothing private left."""
    outbox.add(asked("Mine", private=True))
    outbox.add(asked("Yours"))
    cloud = FakeCloud("Late")
    assert send(outbox, cloud, Policy(privacy="allow"), None, None) == 1
    assert states(outbox) == ["refused", "answered"]
    assert outbox.all()[1].answer == "Late"
    assert send(outbox, cloud, Policy(), None, None) == 0
    assert [sent.messages[0].text for sent in cloud.received] == ["Yours"]


def test_budgets_are_kept(outbox: Outbox, tmp_path: Path) -> None:
    """What the budget has no room for goes on waiting."""
    for text in QUESTIONS:
        outbox.add(asked(text))
    cloud = FakeCloud("Late", price=Price(prompt_usd=0.0, completion_usd=0.01e6))
    policy = Policy(privacy="allow", budget_usd={"day": 0.1})
    with Ledger.open(tmp_path / "ledger.sqlite") as ledger:
        send(outbox, cloud, policy, ledger, None)
        assert (states(outbox), cloud.received) == (["waiting"] * 3, [])
        send(outbox, cloud, Policy(privacy="allow", budget_usd={"day": 5.0}), ledger, None)
    assert states(outbox) == ["answered"] * 3


def test_a_cloud_that_breaks_off_is_not_asked_twice(outbox: Outbox) -> None:
    """It may have answered and billed: only a person says that it is sent again."""
    outbox.add(asked("Why?"))
    gone = CloudUnavailable("It broke off")
    gone.sends = 1
    broken = FakeCloud("Half an answer", fails_after=1, error=gone)
    assert send(outbox, broken, POLICY, None, None) == 0
    assert states(outbox) == ["unknown"]
    assert send(outbox, FakeCloud("Whole"), POLICY, None, None) == 0
    outbox.retry(1)
    assert send(outbox, FakeCloud("Whole"), POLICY, None, None) == 1
    with pytest.raises(LedgerError, match="sent again"):
        outbox.retry(1)


def test_old_questions_go(outbox: Outbox) -> None:
    """Nobody wants last week's answer."""
    outbox.add(asked("Why?"), life_s=-1)
    outbox.add(asked("And now?"))
    outbox.add(asked("Who knows?"), life_s=-1, unknown="It left")
    claimed = outbox.claim()
    assert claimed is not None
    assert claimed.id == 2
    assert states(outbox) == ["sending"]


def test_only_plain_questions_wait(outbox: Outbox) -> None:
    """Labels and JSON are wanted now or not at all."""
    with pytest.raises(ConfigError, match="plain"):
        outbox.add(Request(messages=(Message("user", "a"),), choices=("a", "b")))


def test_encrypted_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key no byte of question or answer is on the disk; without it they are not read, nor sent."""
    key = new_key()
    with Outbox(key=key) as outbox:
        outbox.add(asked(QUESTIONS[2]))
        outbox.answered(1, "Schwertlilie")
        outbox.add(asked(QUESTIONS[2]))
    stored = b"".join(path.read_bytes() for path in data_dir().glob("queue.sqlite*"))
    assert b"Schwertlilie" not in stored
    with Outbox() as outbox:
        assert [item.request for item in outbox.all()] == [None, None]
        with pytest.raises(ConfigError, match="encrypted"):
            outbox.claim()
    monkeypatch.setenv(KEY_VARIABLE, key)
    with Outbox() as outbox:
        assert outbox.all()[0].answer == "Schwertlilie"
    with pytest.raises(ConfigError, match="not a key"):
        Outbox(key="short")
