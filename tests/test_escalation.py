"""Escalation end to end: the real model on the device, other people's servers as the cloud."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeai import (
    Answer,
    AsyncEdge,
    BothFailed,
    CloudUnavailable,
    Delta,
    Done,
    Edge,
    Event,
    Message,
    OpenAI,
    Policy,
    Reason,
    Replaced,
)
from edgeai.errors import ContextOverflow
from edgeai.net.calls import Retry, Timeouts
from edgeai.testing import forbid_network
from tests.servers import Child, katan, llama_server

OPEN = Policy(privacy="allow", min_score=1.0)  # a score of 1.0 is out of reach: every answer is doubted
QUESTION = "Name the chemical symbol for gold."
QUICK = Timeouts(connect_s=2, first_token_s=2, between_s=2, total_s=10)
ONCE = Retry(attempts=1)


def cloud_at(url: str, *, key: str = "sk-right", retry: Retry = ONCE, timeouts: Timeouts = QUICK) -> OpenAI:
    return OpenAI("echo", key=key, base_url=url, retry=retry, timeouts=timeouts)


@pytest.fixture(scope="module")
def katan_url() -> Iterator[str]:
    with katan("--validate-keys", "--api-keys", "openai=sk-right") as server:
        yield server.url


@pytest.fixture
def dead_url() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def ask(model: Path, cloud: OpenAI | None, policy: Policy = OPEN, question: str = QUESTION) -> Answer:
    with Edge(model, n_ctx=512, cloud=cloud, policy=policy, ledger=False) as edge:
        return edge.ask(question, max_tokens=24)


def test_a_doubtful_answer_ends_in_the_cloud(model_path: Path, katan_url: str) -> None:
    """llm-katan's echo answers in place of the device, with usage, an endpoint and the bytes disclosed."""
    answer = ask(model_path, cloud_at(katan_url))
    assert (answer.source, answer.reason) == ("cloud", Reason.LOW_CONFIDENCE)
    assert (answer.model, answer.engine, answer.endpoint) == ("echo", None, f"{katan_url}/chat/completions")
    assert QUESTION in answer.text
    assert answer.usage.prompt_tokens
    assert answer.disclosed_bytes > len(QUESTION)
    assert answer.score is not None
    assert "below 1.00" in answer.explanation


def test_a_real_model_is_the_cloud(model_path: Path) -> None:
    """llama-cpp-python's server, over loopback, streams the replacement."""
    with (
        llama_server(model_path) as server,
        Edge(model_path, n_ctx=512, cloud=cloud_at(server.url), policy=OPEN, ledger=False) as edge,
    ):
        events = list(edge.stream(QUESTION, max_tokens=16))
    done = events[-1]
    assert isinstance(done, Done)
    assert done.answer.source == "cloud"
    assert "Au" in done.answer.text
    assert len([event for event in events if isinstance(event, Delta) and event.source == "cloud"]) > 1


def test_both_drivers_show_the_same_change_of_mind(model_path: Path, katan_url: str) -> None:
    """Text that was shown is withdrawn and replaced, equally in both colours."""
    policy = Policy(privacy="allow", min_score=0.5)
    question = "Which planet is closest to the sun?"  # the model is sure of its first token, then not

    def sync() -> list[Event]:
        with Edge(model_path, n_ctx=512, cloud=cloud_at(katan_url), policy=policy, ledger=False) as edge:
            return list(edge.stream(question, max_tokens=24))

    async def colour() -> list[Event]:
        edge = AsyncEdge(model_path, n_ctx=512, cloud=cloud_at(katan_url), policy=policy, ledger=False)
        async with edge:
            return [event async for event in edge.stream(question, max_tokens=24)]

    for events in (sync(), asyncio.run(colour())):
        replaced = events.index(Replaced(Reason.LOW_CONFIDENCE, "cloud"))
        before, after = events[:replaced], events[replaced + 1 : -1]
        assert before
        assert after
        assert all(isinstance(event, Delta) and event.source == "device" for event in before)
        assert all(isinstance(event, Delta) and event.source == "cloud" for event in after)


def test_a_server_killed_mid_stream_gives_the_device_back(model_path: Path) -> None:
    """The cloud's half answer is withdrawn for the device's whole one, uncertified, with the reason."""
    with (
        katan("--chunk-delay-ms", "150") as server,
        Edge(model_path, n_ctx=512, cloud=cloud_at(server.url), policy=OPEN, ledger=False) as edge,
    ):
        events = list(_killing(edge, server))
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.answer.source, done.answer.reason) == ("device", Reason.CLOUD_FAILED)
    assert not done.answer.certified
    assert "cloud failed" in done.answer.explanation
    back = events.index(Replaced(Reason.CLOUD_FAILED, "device"))
    assert "".join(e.text for e in events[back:] if isinstance(e, Delta)) == done.answer.text
    assert "Au" in done.answer.text


def _killing(edge: Edge, server: Child) -> Iterator[Event]:
    for event in edge.stream(QUESTION, max_tokens=24):
        if isinstance(event, Delta) and event.source == "cloud":
            server.kill()
        yield event


def test_privacy_local_tries_no_connection(model_path: Path, dead_url: str) -> None:
    """With a cloud configured and every answer doubted, the socket guard sees nothing."""
    with forbid_network() as attempts:
        answer = ask(model_path, cloud_at(dead_url), Policy(min_score=1.0))
    assert attempts == []
    assert (answer.source, answer.reason, answer.disclosed_bytes) == ("device", Reason.PRIVATE, 0)


def test_the_socket_guard_does_see_an_open_policy(model_path: Path, dead_url: str) -> None:
    """The proof above can fail: the same query under an open policy is caught trying."""
    with forbid_network() as attempts:
        answer = ask(model_path, cloud_at(dead_url), OPEN)
    assert attempts
    assert answer.source == "device"


def test_a_private_message_tries_no_connection(model_path: Path, dead_url: str) -> None:
    """Nor does one private message under a policy that allows the cloud."""
    messages = [Message("system", "The patient is Ada.", private=True), Message("user", QUESTION)]
    with (
        forbid_network() as attempts,
        Edge(model_path, n_ctx=512, cloud=cloud_at(dead_url), policy=OPEN, ledger=False) as edge,
    ):
        assert edge.ask(messages, max_tokens=8).reason is Reason.PRIVATE
    assert attempts == []


def test_nobody_listens(model_path: Path, dead_url: str) -> None:
    """A refused connection keeps the device's answer; nothing was disclosed."""
    answer = ask(model_path, cloud_at(dead_url))
    assert (answer.source, answer.reason) == ("device", Reason.CLOUD_FAILED)
    assert "Au" in answer.text
    assert answer.disclosed_bytes == 0


@pytest.mark.parametrize(
    ("options", "key", "cause"),
    [
        ("--validate-keys --api-keys openai=sk-right", "sk-wrong", "key"),
        ("--error-rate 1.0", "sk-right", "HTTP 500"),
        ("--rate-limit-after 1", "sk-right", "HTTP 429"),
        ("--timeout-after 1", "sk-right", "HTTP 504"),
        ("--latency-ms 60000", "sk-right", "first_token_s"),
        ("--itl-ms 60000", "sk-right", "between_s"),
    ],
)
def test_each_failure_of_the_server_keeps_the_answer(
    model_path: Path, options: str, key: str, cause: str
) -> None:
    """Injected by llm-katan, some from its second request on; the reason is named, the key never."""
    with (
        katan(*options.split()) as server,
        Edge(model_path, n_ctx=512, cloud=cloud_at(server.url, key=key), policy=OPEN, ledger=False) as edge,
    ):
        if "after 1" in options:
            assert edge.ask(QUESTION, max_tokens=24).source == "cloud"
        answer = edge.ask(QUESTION, max_tokens=24)
    assert (answer.source, answer.reason, answer.certified) == ("device", Reason.CLOUD_FAILED, False)
    assert "Au" in answer.text
    assert cause in answer.explanation
    assert key not in answer.explanation


ESCALATE = Policy(privacy="allow", when_full="escalate")


def test_both_sides_fail(model_path: Path, dead_url: str) -> None:
    """A prompt too long for the device and a dead cloud raise both causes."""
    with pytest.raises(BothFailed) as caught:
        ask(model_path, cloud_at(dead_url), ESCALATE, question="word " * 2000)
    device, cloud = caught.value.exceptions
    assert isinstance(device, ContextOverflow)
    assert isinstance(cloud, CloudUnavailable)


def test_a_prompt_too_long_for_the_device_goes_to_the_cloud(model_path: Path, katan_url: str) -> None:
    """context_overflow is a reason of its own."""
    answer = ask(model_path, cloud_at(katan_url), ESCALATE, question="word " * 2000)
    assert (answer.source, answer.reason) == ("cloud", Reason.CONTEXT_OVERFLOW)


def test_offline_as_an_error(model_path: Path, dead_url: str) -> None:
    """when_offline="error" raises the cloud's typed error."""
    policy = Policy(privacy="allow", min_score=1.0, when_offline="error")
    with pytest.raises(CloudUnavailable):
        ask(model_path, cloud_at(dead_url), policy)


def test_choose_and_extract_escalate_too(model_path: Path) -> None:
    """A doubted label or value is asked of the cloud; one that does not fit is not accepted."""
    with (
        katan() as server,
        Edge(model_path, n_ctx=512, cloud=cloud_at(server.url), policy=OPEN, ledger=False) as edge,
    ):
        choice = edge.choose("I love it", ["good", "bad"])
        value = edge.extract("7", {"type": "integer"}, max_tokens=16)
    assert choice.answer.reason is Reason.CLOUD_FAILED  # an echo is none of the labels
    assert choice.label in ("good", "bad")
    assert value.answer.disclosed_bytes > 0
    assert isinstance(value.value, int)
