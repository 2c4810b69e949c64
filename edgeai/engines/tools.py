"""Tool calls on the device: one JSON object instead of text, held to the tool's schema while it is made."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeai.types import Message, Tool, ToolCall

__all__ = ["parse_tool_calls", "tool_grammar", "with_tool_text"]

_WRAPPED: Final = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


def tool_grammar(tools: Sequence[Tool]) -> str:
    """An answer that is plain text, or one call whose arguments fit its tool's schema (llguidance Lark)."""
    rules = [f"call_{i}: %json {json.dumps(_call_schema(tool))}" for i, tool in enumerate(tools)]
    calls = " | ".join(f"call_{i}" for i in range(len(tools)))
    return "\n".join([f"start: {calls} | TEXT", r"TEXT: /[^{](.|\n)*/", *rules])


def with_tool_text(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """The messages with the tools described in the system message, for templates that know no tools."""
    text = "\n".join(
        [
            "You may call one of these functions. To call it, answer only with a JSON object "
            '{"name": <function name>, "arguments": <object>}. Otherwise answer in plain text.',
            *(json.dumps(_description(tool), ensure_ascii=False) for tool in tools),
        ]
    )
    if messages and messages[0].role == "system":
        first = messages[0]
        return Message("system", f"{first.text}\n\n{text}", private=first.private), *messages[1:]
    return Message("system", text), *messages


def parse_tool_calls(text: str, tools: Sequence[Tool]) -> tuple[ToolCall, ...]:
    """The calls of known ``tools`` in an answer; none when it is plain text or not complete."""
    bodies = _WRAPPED.findall(text) or [text]
    found = [call for body in bodies if (call := _parse(body)) is not None]
    names = {tool.name for tool in tools}
    known = [call for call in found if call["name"] in names]
    return tuple(
        ToolCall(name=call["name"], arguments=call["arguments"], id=f"call_{i}")
        for i, call in enumerate(known)
    )


def _parse(body: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("arguments"), dict)
    ):
        return value
    return None


def _call_schema(tool: Tool) -> dict[str, Any]:
    parameters = {"type": "object", **tool.parameters}
    definitions: dict[str, Any] = {
        key: parameters.pop(key) for key in ("$defs", "definitions") if key in parameters
    }
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
        **definitions,  # references in a schema start at its root
    }


def _description(tool: Tool) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
