"""Answers are read as tool calls only when they are complete calls of known tools."""

import pytest

from edgeai.engines.tools import parse_tool_calls, with_tool_text
from edgeai.types import Message, Tool

WEATHER = Tool(name="weather", description="Weather of a city")


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "weather", "arguments": {"city": "Rome"}}',
        '\n {"name":"weather","arguments":{"city":"Rome"}}\n',
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
    ],
)
def test_a_call_is_found(text: str) -> None:
    """A bare object and the common wrapped form give the same call."""
    (call,) = parse_tool_calls(text, [WEATHER])
    assert (call.name, dict(call.arguments), call.id) == ("weather", {"city": "Rome"}, "call_0")


@pytest.mark.parametrize(
    "text",
    [
        "It is sunny.",
        '{"name": "weather", "arguments": {"ci',
        '{"name": "rm", "arguments": {}}',
        '{"name": "weather"}',
        '{"name": 7, "arguments": {}}',
        "[" * 100_000,
        "",
    ],
)
def test_anything_else_is_text(text: str) -> None:
    """Plain text, cut-off calls and unknown tools are no calls, and nothing raises."""
    assert parse_tool_calls(text, [WEATHER]) == ()


def test_tools_are_described_once_in_the_system_message() -> None:
    """An existing system message is extended, and otherwise one is made."""
    (system, user) = with_tool_text([Message("user", "Hi")], [WEATHER])
    assert (system.role, user.text) == ("system", "Hi")
    assert '"weather"' in system.text
    (extended, _) = with_tool_text([Message("system", "Be kind."), Message("user", "Hi")], [WEATHER])
    assert extended.text.startswith("Be kind.")
    assert '"weather"' in extended.text
