"""What a contract is bound to."""

from dataclasses import replace

import pytest

from edgeai.binding import binding, bound_device
from edgeai.engines import Step
from edgeai.options import read_request
from edgeai.testing import FakeEngine
from edgeai.types import Message, Prompt

ANN = [Message("user", "1+1"), Message("assistant", "2"), Message("user", "2+2")]
LATER = [*ANN[:2], Message("user", "3+3")]
OTHER = [Message("user", "1+1"), Message("assistant", "two"), Message("user", "2+2")]


def head(prompt: Prompt) -> str | None:
    return binding(FakeEngine().info, "w", read_request(prompt), "ask").head


def test_the_question_itself_is_free() -> None:
    """A contract is for all questions with the same head."""
    assert head("a") is head("b") is None
    assert head(ANN) == head(LATER) is not None


@pytest.mark.parametrize("other", [OTHER, ANN[1:], ANN[2:], [Message("system", "Add."), *ANN]])
def test_what_stands_before_the_question_is_bound(other: Prompt) -> None:
    """Other examples before it, fewer of them, or a system message: another head."""
    assert head(other) != head(ANN)


def test_the_order_of_properties_is_bound() -> None:
    """Constrained decoding writes them in that order, so that another order is another answer."""
    first, then = {"a": {"type": "integer"}}, {"b": {"type": "integer"}}
    bound = [
        binding(FakeEngine().info, "w", read_request("x", schema={"properties": properties}), "extract")
        for properties in (first | then, then | first, first | then)
    ]
    assert bound[0] == bound[2] != bound[1]
    assert "a schema with the hash" in (bound[0].matches(bound[1]) or "")


def test_an_ask_with_a_schema_is_an_extract() -> None:
    """It is the same question with the same constraint: a contract of the one holds for the other."""
    request = read_request("x", schema={"type": "object"})
    asked, extracted = (binding(FakeEngine().info, "w", request, method) for method in ("ask", "extract"))
    assert asked == extracted
    assert asked.method == "extract"
    assert asked.schema is not None


def test_the_device_is_bound() -> None:
    """Answers of another device are others'; where embeddings are made does not matter."""
    info = FakeEngine().info
    request = read_request("x")

    def on(*steps: Step) -> str:
        return binding(replace(info, steps=steps), "w", request, "ask").engine

    cuda = on(Step(work="decode", provider="hip", why="no"), Step(work="decode", provider="cuda"))
    assert cuda != on() == on(Step(work="decode", provider="cpu")) == on(Step(work="embed", provider="qnn"))
    assert [bound_device(name) for name in (cuda, on())] == ["cuda", "cpu"]
