"""The two drivers: the same scenarios give the same events, and nothing is left running."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from edgeai import (
    Answer,
    AsyncEdge,
    BothFailed,
    Cancelled,
    CloudUnavailable,
    ConfigError,
    Delta,
    Done,
    Edge,
    EdgeError,
    EngineCrashed,
    Event,
    Message,
    Policy,
    Reason,
    Replaced,
    Stream,
)
from edgeai.cloud import CloudText, Piece
from edgeai.ledger import Ledger
from edgeai.session import Session
from edgeai.testing import FakeCloud, FakeEngine
from edgeai.types import Released

OPEN = Policy(privacy="allow", min_score=0.5)
DOWN = CloudUnavailable("No connection")
CRASH = EngineCrashed("The engine died")


@dataclass(frozen=True)
class Scenario:
    """What the two sides do, and what a reader must see (adjacent Deltas joined)."""

    name: str
    sees: list[Event | type[EdgeError]]
    engine: FakeEngine = field(default_factory=FakeEngine)
    cloud: FakeCloud | None = field(default_factory=FakeCloud)
    policy: Policy = OPEN
    hold: int | None = None


SCENARIOS = [
    Scenario("kept", [Delta("A fake answer.", "device")]),
    Scenario(
        "unsure from the start",
        [Delta("A fake cloud's answer.", "cloud")],
        engine=FakeEngine(probability=0.1),
    ),
    Scenario(
        "private",
        [Delta("A fake answer.", "device")],
        engine=FakeEngine(probability=0.1),
        policy=Policy(min_score=0.5),
    ),
    Scenario("no cloud", [Delta("A fake answer.", "device")], engine=FakeEngine(probability=0.1), cloud=None),
    Scenario(
        "the cloud is down",
        [Delta("A fake answer.", "device")],
        engine=FakeEngine(probability=0.1),
        cloud=FakeCloud(error=DOWN),
    ),
    Scenario(
        "the cloud dies midway",
        [
            Delta("A fake ", "cloud"),
            Replaced(Reason.CLOUD_FAILED, "device"),
            Delta("A fake answer.", "device"),
        ],
        engine=FakeEngine(probability=0.1),
        cloud=FakeCloud(error=DOWN, fails_after=2),
    ),
    Scenario(
        "the engine fails midway",
        [
            Delta("A ", "device"),
            Replaced(Reason.ENGINE_ERROR, "cloud"),
            Delta("A fake cloud's answer.", "cloud"),
        ],
        engine=FakeEngine(error=CRASH, fails_after=1),
    ),
    Scenario("both fail", [BothFailed], engine=FakeEngine(error=CRASH), cloud=FakeCloud(error=DOWN)),
    Scenario(
        "a final text fails",
        [Delta("A ", "device"), EngineCrashed],
        engine=FakeEngine(error=CRASH, fails_after=1),
        hold=1,
    ),
    Scenario(
        "offline is an error",
        [CloudUnavailable],
        engine=FakeEngine(probability=0.1),
        cloud=FakeCloud(error=DOWN),
        policy=Policy(privacy="allow", min_score=0.5, when_offline="error"),
    ),
    Scenario(
        "the cloud first",
        [Delta("A fake cloud's answer.", "cloud")],
        policy=Policy(privacy="allow", prefer="cloud"),
    ),
    Scenario(
        "the device as the way back",
        [Delta("A fake answer.", "device")],
        cloud=FakeCloud(error=DOWN),
        policy=Policy(privacy="allow", prefer="cloud"),
    ),
    Scenario(
        "held back",
        [Delta("A fake cloud's answer.", "cloud")],
        engine=FakeEngine(probability=0.1),
        hold=2,
    ),
    Scenario(
        "too long a prompt",
        [Delta("A fake cloud's answer.", "cloud")],
        engine=FakeEngine(n_ctx=0),
        policy=replace(OPEN, when_full="escalate"),
    ),
]


def seen_by_sync(scenario: Scenario) -> list[Event | type[EdgeError]]:
    events: list[Event | type[EdgeError]] = []
    with Edge(engine=scenario.engine, cloud=scenario.cloud, policy=scenario.policy, ledger=False) as edge:
        try:
            events.extend(edge.stream("Why?", hold=scenario.hold))
        except EdgeError as error:
            events.append(type(error))
    return joined(events)


async def seen_by_async(scenario: Scenario) -> list[Event | type[EdgeError]]:
    events: list[Event | type[EdgeError]] = []
    edge = AsyncEdge(engine=scenario.engine, cloud=scenario.cloud, policy=scenario.policy, ledger=False)
    async with edge:
        try:
            async for event in edge.stream("Why?", hold=scenario.hold):
                events.append(event)  # what came before an error counts
        except EdgeError as error:
            events.append(type(error))
    return joined(events)


def joined(events: list[Event | type[EdgeError]]) -> list[Event | type[EdgeError]]:
    """Without the Done, and adjacent Deltas as one: how text is cut depends on the threads' timing."""
    result: list[Event | type[EdgeError]] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Delta) and isinstance(last, Delta) and last.source == event.source:
            result[-1] = Delta(last.text + event.text, event.source)
        elif not isinstance(event, Done):
            result.append(event)
    return result


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_both_drivers_show_the_same(scenario: Scenario) -> None:
    """Each scenario gives the expected events on the sync and on the async driver."""
    assert seen_by_sync(scenario) == scenario.sees
    assert asyncio.run(seen_by_async(scenario)) == scenario.sees


def test_the_answer_is_the_streams_last_word() -> None:
    """`ask` returns the answer that `stream` ends with."""
    with Edge(engine=FakeEngine(), ledger=False) as edge:
        *_, done = edge.stream("Why?")
        assert isinstance(done, Done)
        assert edge.ask("Why?").text == done.answer.text == "A fake answer."


def poll_for_ever(stream: Stream) -> None:
    while True:
        stream.ready()


def test_the_answer_can_be_asked_for_again() -> None:
    """A stream that was read to its end gives its answer each time; a closed one has none."""
    with Edge(engine=FakeEngine("Four."), ledger=False) as edge:
        read, asked, closed = edge.stream("Count."), edge.stream("Count."), edge.stream("Count.")
        assert isinstance(list(read)[-1], Done)
        closed.close()
        assert read.answer() == read.answer()
        assert asked.answer() is asked.answer()
        with pytest.raises(Cancelled):
            closed.answer()

    async def again() -> bool:
        async with AsyncEdge(engine=FakeEngine("Four."), ledger=False) as device:
            stream = device.stream("Count.")
            return await stream.answer() is await stream.answer()

    assert asyncio.run(again())


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"policy": "allow"}, "policy is a str"),
        ({"model": None}, "model is None"),
    ],
)
def test_an_edge_of_the_wrong_things(keywords: dict[str, Any], said: str) -> None:
    """What is no policy and no model's name is a ConfigError that names it."""
    with pytest.raises(ConfigError, match=said):
        Edge(ledger=False, **({"engine": FakeEngine("Four.")} | keywords))


def test_ready_gives_what_has_arrived_without_waiting() -> None:
    """A window that looks in from time to time sees the same events, and is never held up."""
    with Edge(engine=FakeEngine(delay_s=0.02), ledger=False) as edge:
        stream = edge.stream("Why?")
        assert stream.ready() == []
        events: list[Event] = []
        while not (events and isinstance(events[-1], Done)):
            events += stream.ready()
        assert joined(list(events)) == [Delta("A fake answer.", "device")]
        assert stream.ready() == []
    with Edge(engine=FakeEngine(error=CRASH), ledger=False) as edge, pytest.raises(EngineCrashed):
        poll_for_ever(edge.stream("Why?"))


def test_cancel_from_another_thread_ends_the_stream() -> None:
    """The last event is a Done with what was shown, soon after the cancel."""
    with Edge(engine=FakeEngine("word " * 10_000, delay_s=0.002), ledger=False) as edge:
        stream = edge.stream("Why?", max_tokens=10_000)
        first = next(stream)
        assert isinstance(first, Delta)
        threading.Timer(0.05, stream.cancel).start()
        started = time.monotonic()
        *_, done = stream
        assert time.monotonic() - started < 2
    assert isinstance(done, Done)
    assert done.answer.finish_reason == "cancelled"
    assert done.answer.text.startswith("word ")


class HangingCloud(FakeCloud):
    """A cloud that never says anything, and notes when its stream was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.closed = threading.Event(), threading.Event()

    async def stream(self, released: Released) -> AsyncIterator[Piece]:
        self.asked.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.closed.set()
        async for piece in super().stream(released):
            yield piece


def test_leaving_the_stream_closes_the_cloud_at_once() -> None:
    """A stream that is dropped or closed cancels the cloud's task."""
    cloud = HangingCloud()
    with Edge(engine=FakeEngine(probability=0.1), cloud=cloud, policy=OPEN, ledger=False) as edge:
        with edge.stream("Why?") as stream:
            threading.Thread(target=lambda: list(stream), daemon=True).start()
            assert cloud.asked.wait(5)
            stream.cancel()
        assert cloud.closed.wait(5)


def test_a_cancelled_task_closes_both_sides() -> None:
    """Cancelling the task that reads raises CancelledError in it and ends the cloud's stream."""
    cloud = HangingCloud()

    async def cancelled() -> None:
        edge = AsyncEdge(engine=FakeEngine(probability=0.1), cloud=cloud, policy=OPEN, ledger=False)
        async with edge:
            task = asyncio.create_task(edge.ask("Why?"))
            await asyncio.to_thread(cloud.asked.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(cloud.closed.wait, 5)

    asyncio.run(cancelled())


def test_a_dropped_async_stream_is_not_kept_alive() -> None:
    """Nothing but its reader holds a stream, so that dropping it ends the query."""
    engine = FakeEngine("word " * 1000, delay_s=0.001)

    async def dropped() -> None:
        async with AsyncEdge(engine=engine, ledger=False) as edge:
            stream = edge.stream("Why?", max_tokens=1000)
            await anext(stream)
            generation = stream._call._generation
            assert generation is not None
            del stream
            gc.collect()
            assert generation.cancelled

    asyncio.run(dropped())


def test_an_async_edge_is_opened_once() -> None:
    """A second block would load the model again and forget the first."""

    async def twice() -> None:
        edge = AsyncEdge(engine=FakeEngine(), ledger=False)
        async with edge:
            with pytest.raises(ConfigError, match="opened already"):
                await edge.__aenter__()
            assert (await edge.ask("Why?")).text

    asyncio.run(twice())


def test_an_edge_that_cannot_be_made_leaves_no_engine_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the constructor, Ctrl-C included, the model is closed."""
    closed: list[FakeEngine] = []

    def interrupted(session: Session) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "profile", interrupted)
    monkeypatch.setattr(FakeEngine, "close", lambda engine: closed.append(engine))
    with pytest.raises(KeyboardInterrupt):
        Edge(engine=FakeEngine(), policy=Policy(deadline_s=1.0), ledger=False)
    assert len(closed) == 1


def test_closing_the_edge_sends_nothing() -> None:
    """A query that runs while its Edge is closed is cancelled, not escalated; a closed Edge asks nobody."""
    cloud = FakeCloud()
    edge = Edge(
        engine=FakeEngine("word " * 500, delay_s=0.01),
        cloud=cloud,
        policy=Policy(privacy="allow"),
        ledger=False,
    )
    stream = edge.stream("secret", max_tokens=500)
    next(stream)
    edge.close()
    with pytest.raises(Cancelled):
        list(stream)
    with pytest.raises(EngineCrashed, match="closed"):
        edge.ask("secret")
    assert cloud.received == []


def test_closing_a_stream_from_another_thread_frees_its_reader() -> None:
    """Also while only the cloud is awaited."""
    cloud, policy = HangingCloud(), Policy(privacy="allow", prefer="cloud")
    with Edge(engine=FakeEngine(), cloud=cloud, policy=policy, ledger=False) as edge:
        stream = edge.stream("Why?")
        threading.Timer(0.1, stream.close).start()
        assert list(stream) == []


class SilentCloud(FakeCloud):
    """A cloud whose stream ends without an end."""

    async def stream(self, released: Released) -> AsyncIterator[Piece]:
        yield CloudText("Half an ")


def test_a_cloud_that_breaks_off_is_a_failure() -> None:
    """The device's answer takes its place."""
    policy = Policy(privacy="allow", prefer="cloud")
    with Edge(engine=FakeEngine(), cloud=SilentCloud(), policy=policy, ledger=False) as edge:
        assert edge.ask("Why?").reason is Reason.CLOUD_FAILED


def test_a_ledger_that_cannot_be_written_keeps_the_answer(tmp_path: Path) -> None:
    """No reservation, no sending: the device's answer stands; and what was answered is not lost by it."""
    policy = Policy(privacy="allow", min_score=0.5, budget_usd={"day": 5})
    cloud = FakeCloud()
    with Edge(
        engine=FakeEngine(probability=0.1), cloud=cloud, policy=policy, ledger=tmp_path / "l.sqlite3"
    ) as edge:
        assert edge._session.ledger is not None
        edge._session.ledger._database._connection.execute("PRAGMA query_only=1")  # as a full disk
        answer = edge.ask("Why?")
    assert (answer.source, answer.reason) == ("device", Reason.CLOUD_FAILED)
    assert cloud.received == []


def test_a_stream_that_was_never_read_leaves_no_row(tmp_path: Path) -> None:
    """Nothing was asked, so nothing is recorded."""
    path = tmp_path / "l.sqlite3"

    async def unread() -> None:
        async with AsyncEdge(engine=FakeEngine(), ledger=path) as edge, edge.stream("Why?"):
            pass

    asyncio.run(unread())
    with Ledger.open(path) as ledger:
        assert ledger.rows() == ()


def test_turns_of_one_chat_at_the_same_time_are_both_remembered() -> None:
    """Each turn adds its own messages."""
    with Edge(engine=FakeEngine(), ledger=False) as edge:
        chat = edge.chat()
        first, second = chat.stream("one"), chat.stream("two")
        first.answer()
        second.answer()
        assert [turn.text for turn in chat.messages if turn.role == "user"] == ["one", "two"]


def test_what_is_said_of_something_private_is_private() -> None:
    """The device's answer in a private conversation may not leave either."""
    with Edge(engine=FakeEngine(), ledger=False) as edge:
        chat = edge.chat()
        chat.ask([Message("user", "My PIN is 1234.", private=True)])
        assert chat.messages[-1].private


def test_a_clouds_json_must_fit_the_schema() -> None:
    """For extract and for ask; what does not fit is a failure of the cloud."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    policy = Policy(privacy="allow", prefer="cloud")
    wrong = FakeCloud('{"wrong":true}')
    with Edge(engine=FakeEngine('{"n":1}'), cloud=wrong, policy=policy, ledger=False) as edge:
        assert edge.extract("x", schema).value == {"n": 1}
        assert edge.ask("x", schema=schema).reason is Reason.CLOUD_FAILED


class BuggyCloud(FakeCloud):
    """A codec with a programming mistake."""

    async def stream(self, released: Released) -> AsyncIterator[Piece]:
        raise TypeError("a bug")
        yield


def test_a_bug_stays_a_bug() -> None:
    """A TypeError inside a codec reaches the caller and leaves nobody waiting."""
    with (
        Edge(engine=FakeEngine(probability=0.1), cloud=BuggyCloud(), policy=OPEN, ledger=False) as edge,
        pytest.raises(TypeError, match="a bug"),
    ):
        edge.ask("Why?")


def test_a_deadline_is_met_by_the_cloud() -> None:
    """A device that stalls is overtaken at the last moment at which the cloud can still make it."""
    policy = Policy(privacy="allow", deadline_s=3.2)
    stalled = FakeEngine(delay_s=30.0)
    with Edge(engine=stalled, cloud=FakeCloud(), policy=policy, ledger=False) as edge:
        answer = edge.ask("Why?")
    assert (answer.source, answer.reason) == ("cloud", Reason.DEADLINE)
    assert answer.timing.total_s is not None
    assert answer.timing.total_s < 3.2


def test_many_threads_share_one_edge() -> None:
    """Eight threads get their own answers from one Edge."""
    answers: list[Answer] = []
    with Edge(engine=FakeEngine(), ledger=False) as edge:
        threads = [threading.Thread(target=lambda: answers.append(edge.ask("Why?"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert [answer.text for answer in answers] == ["A fake answer."] * 8
