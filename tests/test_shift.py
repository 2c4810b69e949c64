"""A conversation longer than the context: an error, a shorter one, or the cloud, as the policy says."""

from itertools import pairwise
from pathlib import Path

import pytest

from edgeai import Edge, Message, Policy
from edgeai.errors import ContextOverflow
from edgeai.shift import shifted
from edgeai.testing import FakeCloud, FakeEngine
from edgeai.types import Reason, Request

SYSTEM = Message("system", "one two three")


def talk(n: int, last: str = "the last question") -> tuple[Message, ...]:
    """A system message, ``n`` exchanges of six words, and a question."""
    turns = [
        turn
        for i in range(n)
        for turn in (Message("user", f"question {i} here"), Message("assistant", f"answer {i} here"))
    ]
    return (SYSTEM, *turns, Message("user", last))


def cut(n_ctx: int, messages: tuple[Message, ...], max_tokens: int = 8) -> tuple[tuple[Message, ...], int]:
    request, dropped = shifted(FakeEngine(n_ctx=n_ctx), Request(messages=messages, max_tokens=max_tokens))
    return request.messages, dropped


def test_what_fits_stays_whole() -> None:
    """Nothing is dropped before it must be."""
    messages = talk(10)
    assert cut(74, messages) == (messages, 0)


def test_the_oldest_exchanges_go() -> None:
    """System message and question stay, whole exchanges go, and what is left fits with an answer."""
    messages = talk(10)
    kept, dropped = cut(73, messages)
    assert dropped == 4
    assert kept == (SYSTEM, *messages[1 + 2 * dropped :])


def test_the_cut_rests() -> None:
    """The device is told the same beginning for some turns, so that it stays cached."""
    starts = [cut(60, talk(n))[0][1] for n in range(20, 40)]
    changes = sum(a != b for a, b in pairwise(starts))
    assert changes <= 20 / 4


def test_a_question_too_long_alone_is_not_cut() -> None:
    """The engine says that it does not fit, with its numbers."""
    messages = talk(3, last="word " * 100)
    assert cut(60, messages) == (messages, 0)


def test_a_question_that_leaves_little_room_is_asked_alone() -> None:
    """It fits, and the answer has what is left."""
    kept, dropped = cut(60, talk(3, last="word " * 55))
    assert (len(kept), dropped) == (2, 3)


def test_by_default_it_is_an_error() -> None:
    """Also where the cloud might be asked: nobody asked for that."""
    engine, cloud = FakeEngine(n_ctx=40), FakeCloud("Cloud.")
    with Edge(engine=engine, cloud=cloud, policy=Policy(privacy="allow"), ledger=False) as edge:
        with pytest.raises(ContextOverflow):
            edge.ask(talk(10))
        answer = edge.ask(talk(10), policy=Policy(privacy="allow", when_full="escalate"))
    assert (answer.source, answer.reason) == ("cloud", Reason.CONTEXT_OVERFLOW)


def test_escalation_keeps_to_privacy() -> None:
    """What may not leave does not leave for want of room."""
    policy = Policy(privacy="local", when_full="escalate")
    engine, cloud = FakeEngine(n_ctx=40), FakeCloud("Cloud.")
    edge = Edge(engine=engine, cloud=cloud, policy=policy, ledger=False)
    with edge, pytest.raises(ContextOverflow):
        edge.ask(talk(10))
    assert cloud.received == []


def test_a_shift_is_told() -> None:
    """In the answer's field, and in words."""
    policy = Policy(when_full="shift")
    with Edge(engine=FakeEngine(n_ctx=73), policy=policy, ledger=False) as edge:
        answer = edge.ask(talk(10), max_tokens=8)
        short = edge.ask(talk(1), max_tokens=8)
    assert answer.dropped_turns == 4
    assert "4 exchanges were left out" in answer.explanation
    assert (short.dropped_turns, "left out" in short.explanation) == (0, False)


def test_the_cloud_is_told_everything() -> None:
    """Only the device's context is full."""
    cloud = FakeCloud("Cloud.")
    policy = Policy(privacy="allow", when_full="shift", min_score=1.0)
    with Edge(engine=FakeEngine(n_ctx=73), cloud=cloud, policy=policy, ledger=False) as edge:
        answer = edge.ask(talk(10), max_tokens=8)
    assert (answer.source, answer.dropped_turns) == ("cloud", 0)
    assert len(cloud.received[0].messages) == len(talk(10))


@pytest.mark.parametrize("kind", ["llamacpp", "onnx"])
def test_a_chat_goes_on_for_ever(kind: str, model_path: Path, onnx_package: Path) -> None:
    """On both engines: more turns than fit, an answer to each, and the system message always in force."""
    path = model_path if kind == "llamacpp" else onnx_package
    with Edge(path, n_ctx=160, policy=Policy(when_full="shift"), ledger=False) as edge:
        chat = edge.chat("You are a guide.")
        answers = [chat.ask(f"What is in room {n}?", max_tokens=8) for n in range(12)]
    assert answers[0].dropped_turns == 0
    assert answers[-1].dropped_turns >= 4
    assert len(chat.messages) == 25
    assert all(answer.text for answer in answers)
