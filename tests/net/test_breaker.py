"""An endpoint that fails is left alone for a while, and one call at a time finds out whether it is back."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai import Edge, OpenAI, Policy, Reason
from edgeai.errors import CloudError, CloudUnavailable
from edgeai.net import HttpCall, Retry, Timeouts, breaker, stream_events
from edgeai.net.breaker import FAILURES, FIRST_WAIT_S, LONGEST_WAIT_S, Breaker
from edgeai.testing import FakeEngine
from tests.servers import Child, katan

ONCE = Retry(attempts=1)


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_three_failures_and_closes_with_a_success() -> None:
    """Errors of the server open it at the third; the wait doubles while trials fail, up to a bound."""
    clock = Clock()
    one = Breaker(clock)
    for _ in range(FAILURES):
        assert one.begin()
        one.failed(unconnected=False)
    assert not one.allows
    waits: list[float] = []
    for _ in range(10):
        before = clock.now
        while not one.allows:
            clock.now += 0.5
        waits.append(clock.now - before)
        assert one.begin()
        assert not one.begin(), "one trial at a time"
        one.failed(unconnected=False)
    assert waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert max(waits) == LONGEST_WAIT_S
    clock.now += LONGEST_WAIT_S
    assert one.begin()
    one.succeeded()
    assert one.begin()
    assert one.begin()


def test_no_connection_opens_it_at_once() -> None:
    """Being offline need not be found out three times."""
    one = Breaker(Clock())
    one.failed(unconnected=True)
    assert not one.allows


@given(st.lists(st.sampled_from(["begin", "ok", "fail", "none", "drop", "wait"])))
def test_it_never_stays_shut(steps: list[str]) -> None:
    """Whatever happened, after the longest wait a call is allowed; after a success at once."""
    clock = Clock()
    one = Breaker(clock)
    for step in steps:
        match step:
            case "begin":
                one.begin()
            case "ok":
                one.succeeded()
                assert one.allows
            case "fail" | "none":
                one.failed(unconnected=step == "none")
            case "drop":
                one.abandoned()
            case _:
                clock.now += 3.0
    clock.now += LONGEST_WAIT_S
    assert one.allows


@pytest.fixture
def broken() -> Iterator[Child]:
    """A server that answers every call with HTTP 500."""
    with katan("--error-rate", "1.0") as server:
        yield server


def ask(url: str) -> CloudError:
    """The error of one call."""

    async def call() -> None:
        body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "Why?"}]})
        headers = (("Authorization", "Bearer sk-right"),)
        http = HttpCall(url=f"{url}/chat/completions", body=body.encode(), headers=headers)
        async for _ in stream_events(http, timeouts=Timeouts(), retry=ONCE):
            pass

    with pytest.raises(CloudError) as caught:
        asyncio.run(call())
    return caught.value


def test_a_failing_server_is_left_alone(broken: Child) -> None:
    """After three errors of the server the fourth call is not made, and says so."""
    for _ in range(FAILURES):
        assert ask(broken.url).sends == 1
    refused = ask(broken.url)
    assert isinstance(refused, CloudUnavailable)
    assert refused.sends == 0
    assert "was not asked" in str(refused)


@pytest.mark.parametrize("when_offline", ["keep", "error"])
def test_an_offline_device_escalates_nothing_and_waits_for_nothing(when_offline: str) -> None:
    """Once nobody was there, the next query does not even try, and says why."""
    cloud = OpenAI("model", base_url="http://127.0.0.1:9/v1", key="sk-x", retry=ONCE)
    policy = Policy(privacy="allow", min_score=0.9)
    with Edge(engine=FakeEngine(probability=0.1), cloud=cloud, policy=policy, ledger=False) as edge:
        assert edge.ask("Why?").reason is Reason.CLOUD_FAILED
        assert not breaker.is_reachable(cloud.endpoint)
        strict = Policy(privacy="allow", min_score=0.9, when_offline=when_offline)  # type: ignore[arg-type]
        if when_offline == "error":
            with pytest.raises(CloudUnavailable, match="lately"):
                edge.ask("Why?", policy=strict)
        else:
            answer = edge.ask("Why?", policy=strict)
            assert (answer.source, answer.reason, answer.disclosed_bytes) == ("device", Reason.OFFLINE, 0)
            assert "could not be reached lately" in answer.explanation
