"""From each provider's events to an answer, without a network."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.cloud import CloudEnd
from edgeai.cloud.anthropic import MessagesReader
from edgeai.cloud.bedrock import ConverseReader
from edgeai.cloud.chunks import ChunkDecoder
from edgeai.cloud.gemini import GeminiReader
from edgeai.cloud.replicate import PredictionReader
from edgeai.cloud.responses import ResponsesReader
from edgeai.cloud.wire import Reader
from edgeai.errors import (
    CloudAuth,
    CloudError,
    CloudProtocol,
    CloudRateLimited,
    CloudRefused,
    CloudTimeout,
    CloudUnavailable,
)
from edgeai.types import ToolCall, Usage

KEY = "sk-123"
Event = tuple[str, Any]


def decode(reader: Reader, *events: Event) -> tuple[str, CloudEnd]:
    texts = [
        piece.text
        for event, data in events
        for piece in reader.feed(data if isinstance(data, str) else json.dumps(data), event)
    ]
    assert all(texts)
    return "".join(texts), reader.end()


def typed(*events: dict[str, Any]) -> list[Event]:
    """Events that hold their name as ``type``."""
    return [(event["type"], event) for event in events]


def unnamed(*events: dict[str, Any]) -> list[Event]:
    return [("message", event) for event in events]


def message(stop: str | None = "end_turn", *blocks: dict[str, Any]) -> list[Event]:
    usage = {
        "input_tokens": 3,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 2,
        "output_tokens": 1,
    }
    return typed(
        {"type": "message_start", "message": {"usage": usage}},
        {"type": "ping"},
        *blocks,
        {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    )


def block(at: int, **start: object) -> dict[str, Any]:
    return {"type": "content_block_start", "index": at, "content_block": start}


def delta(at: int, **delta: object) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": at, "delta": delta}


SAID = (
    block(0, type="text", text=""),
    delta(0, type="text_delta", text="Hel"),
    delta(0, type="text_delta", text="lo"),
)
CALLED = (
    block(1, type="tool_use", id="t1", name="look", input={}),
    delta(1, type="input_json_delta", partial_json='{"at"'),
    delta(1, type="input_json_delta", partial_json=': "ü"}'),
)


def test_messages() -> None:
    """Thoughts are left out; what was read from the cache or stored in it is part of the prompt."""
    thought = block(5, type="thinking", thinking=""), delta(5, type="thinking_delta", thinking="hm")
    text, end = decode(MessagesReader(), *message("end_turn", *thought, *SAID))
    assert text == "Hello"
    counts = Usage(prompt_tokens=9, completion_tokens=9, cached_tokens=4, cache_write_tokens=2)
    assert end == CloudEnd(finish_reason="stop", usage=counts)


def test_messages_call_tools() -> None:
    """A call is put together from its pieces, beside text."""
    text, end = decode(MessagesReader(), *message("tool_use", *SAID, *CALLED))
    assert (text, end.finish_reason) == ("Hello", "tool_calls")
    assert end.tool_calls == (ToolCall(name="look", arguments={"at": "ü"}, id="t1"),)


def test_whole_message() -> None:
    """A server that answers in one document is understood."""
    content = [
        {"type": "text", "text": "yes"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    document = {
        "type": "message",
        "content": content,
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1},
    }
    text, end = decode(MessagesReader(), ("whole", document))
    assert (text, end.tool_calls[0].arguments, end.usage.completion_tokens) == ("yes", {"a": 1}, None)


def response(status: str = "completed", cut: str | None = None) -> dict[str, Any]:
    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    details = {"reason": cut} if cut else None
    kind = "response.incomplete" if cut else "response.completed"
    return {"type": kind, "response": {"status": status, "usage": usage, "incomplete_details": details}}


def piece(text: object) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "delta": text}


def test_responses() -> None:
    """Text, usage with its details, and events that do not matter."""
    begun = {"type": "response.created", "response": {}}
    text, end = decode(ResponsesReader(), *typed(begun, piece("Hel"), piece("lo"), response()))
    assert text == "Hello"
    counts = Usage(prompt_tokens=9, completion_tokens=5, cached_tokens=4, reasoning_tokens=3)
    assert end == CloudEnd(finish_reason="stop", usage=counts)
    cut = decode(ResponsesReader(), *typed(piece("Hel"), response("incomplete", "max_output_tokens")))[1]
    assert cut.finish_reason == "length"


def test_responses_call_tools() -> None:
    """A call is read when its item is done."""
    item = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": "ü"}'}
    done = {"type": "response.output_item.done", "item": item}
    _, end = decode(ResponsesReader(), *typed(done, response()))
    assert end.tool_calls == (ToolCall(name="look", arguments={"at": "ü"}, id="c1"),)
    assert end.finish_reason == "tool_calls"


def candidate(*parts: dict[str, Any], finish: str | None = None, **more: object) -> dict[str, Any]:
    made = {"content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [made | ({"finishReason": finish} if finish else {})], **more}


GEMINI_USAGE = {
    "promptTokenCount": 9,
    "candidatesTokenCount": 2,
    "thoughtsTokenCount": 3,
    "cachedContentTokenCount": 4,
}


def test_gemini() -> None:
    """Thoughts are left out of the text, and part of what is paid."""
    text, end = decode(
        GeminiReader(),
        *unnamed(
            candidate({"text": "hm", "thought": True}),
            candidate({"text": "Hel"}),
            candidate({"text": "lo"}, finish="STOP", usageMetadata=GEMINI_USAGE),
        ),
    )
    assert text == "Hello"
    counts = Usage(prompt_tokens=9, completion_tokens=5, cached_tokens=4, reasoning_tokens=3)
    assert end == CloudEnd(finish_reason="stop", usage=counts)


def test_gemini_calls_tools() -> None:
    """Calls arrive whole, several in a row, and get the ids that Gemini does not give."""
    calls = [{"functionCall": {"name": "look", "args": {"at": n}}} for n in range(2)]
    _, end = decode(GeminiReader(), *unnamed(candidate(*calls, finish="STOP")))
    assert [(call.id, call.arguments) for call in end.tool_calls] == [
        ("call_0", {"at": 0}),
        ("call_1", {"at": 1}),
    ]
    assert end.finish_reason == "tool_calls"


def converse(stop: str = "end_turn", *events: Event) -> list[Event]:
    usage = {"inputTokens": 5, "outputTokens": 2, "cacheReadInputTokens": 4}
    return [
        ("messageStart", {"role": "assistant"}),
        *events,
        ("messageStop", {"stopReason": stop}),
        ("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
    ]


def said(text: object, at: int = 0) -> Event:
    return "contentBlockDelta", {"delta": {"text": text}, "contentBlockIndex": at}


def test_converse() -> None:
    """Text and counts; thoughts are left out."""
    thought = ("contentBlockDelta", {"delta": {"reasoningContent": {"text": "hm"}}, "contentBlockIndex": 0})
    text, end = decode(ConverseReader(), *converse("end_turn", thought, said("Hel", 1), said("lo", 1)))
    assert text == "Hello"
    assert end == CloudEnd(
        finish_reason="stop", usage=Usage(prompt_tokens=9, completion_tokens=2, cached_tokens=4)
    )


def test_converse_calls_tools() -> None:
    """A call is put together from its pieces."""
    start = {"start": {"toolUse": {"toolUseId": "t1", "name": "look"}}, "contentBlockIndex": 1}
    parts = [
        ("contentBlockDelta", {"delta": {"toolUse": {"input": part}}, "contentBlockIndex": 1})
        for part in ('{"at"', ': "ü"}')
    ]
    _, end = decode(ConverseReader(), *converse("tool_use", ("contentBlockStart", start), *parts))
    assert end.tool_calls == (ToolCall(name="look", arguments={"at": "ü"}, id="t1"),)


def test_predictions() -> None:
    """Text as it is, also when it is JSON; counts are not told."""
    text, end = decode(PredictionReader(), ("output", '{"a'), ("output", '": 1}\n'), ("done", "{}"))
    assert text == '{"a": 1}\n'
    assert end == CloudEnd(finish_reason="stop")


BAD: list[tuple[Callable[[], Reader], list[Event], type[CloudError], str]] = [
    (MessagesReader, [], CloudProtocol, "without a finish reason"),
    (MessagesReader, typed(*SAID), CloudProtocol, "without a finish reason"),
    (MessagesReader, message("end_turn"), CloudProtocol, "empty"),
    (MessagesReader, message("max_tokens"), CloudProtocol, "max_tokens was used up"),
    (MessagesReader, message("pause_turn", *SAID), CloudProtocol, "pause_turn"),
    (MessagesReader, message("refusal", *SAID), CloudRefused, "refusal"),
    (MessagesReader, [*message("end_turn", *SAID), *typed(*SAID)], CloudProtocol, "after its end"),
    (MessagesReader, message("tool_use", *CALLED[:2]), CloudProtocol, "not JSON"),
    (MessagesReader, typed(delta(0, type="text_delta", text=7)), CloudProtocol, "not a message"),
    (
        MessagesReader,
        [("error", {"type": "error", "error": {"type": "overloaded_error"}})],
        CloudUnavailable,
        "over",
    ),
    (
        MessagesReader,
        [("error", {"type": "error", "error": {"type": "rate_limit_error", "message": f"no {KEY}"}})],
        CloudRateLimited,
        r"no \[key\]",
    ),
    (ResponsesReader, [], CloudProtocol, "without a finish reason"),
    (ResponsesReader, typed(piece("a")), CloudProtocol, "without a finish reason"),
    (ResponsesReader, typed(response()), CloudProtocol, "empty"),
    (
        ResponsesReader,
        typed(piece("a"), response("incomplete", "content_filter")),
        CloudRefused,
        "content_filter",
    ),
    (ResponsesReader, typed({"type": "response.refusal.done", "refusal": "No."}), CloudRefused, "No"),
    (
        ResponsesReader,
        typed({"type": "response.failed", "response": {"error": {"code": "server_error", "message": KEY}}}),
        CloudUnavailable,
        r"\[key\]",
    ),
    (
        ResponsesReader,
        typed({"type": "error", "code": "rate_limit_exceeded"}),
        CloudRateLimited,
        "rate_limit",
    ),
    (ResponsesReader, [("whole", {"object": "response"})], CloudProtocol, "one document"),
    (GeminiReader, [], CloudProtocol, "without a finish reason"),
    (GeminiReader, unnamed(candidate({"text": "a"})), CloudProtocol, "without a finish reason"),
    (GeminiReader, unnamed(candidate(finish="MAX_TOKENS")), CloudProtocol, "max_tokens was used up"),
    (GeminiReader, unnamed(candidate({"text": "a"}, finish="SAFETY")), CloudRefused, "SAFETY"),
    (GeminiReader, unnamed(candidate({"text": "a"}, finish="OTHER")), CloudProtocol, "OTHER"),
    (GeminiReader, unnamed({"promptFeedback": {"blockReason": "SAFETY"}}), CloudRefused, "SAFETY"),
    (
        GeminiReader,
        unnamed({"error": {"code": 503, "status": "UNAVAILABLE", "message": f"busy {KEY}"}}),
        CloudUnavailable,
        r"busy \[key\]",
    ),
    (
        GeminiReader,
        unnamed({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}),
        CloudRateLimited,
        "429",
    ),
    (GeminiReader, unnamed({"error": {"code": 403, "status": "PERMISSION_DENIED"}}), CloudAuth, "403"),
    (GeminiReader, unnamed({"error": {"code": 504, "status": "DEADLINE_EXCEEDED"}}), CloudTimeout, "504"),
    (ConverseReader, converse("end_turn"), CloudProtocol, "empty"),
    (ConverseReader, [said("a")], CloudProtocol, "without a finish reason"),
    (ConverseReader, converse("guardrail_intervened", said("a")), CloudRefused, "guardrail"),
    (ConverseReader, converse("malformed_tool_use", said("a")), CloudProtocol, "malformed"),
    (ConverseReader, [("exception:throttlingException", {"message": "slow"})], CloudRateLimited, "slow"),
    (
        ConverseReader,
        [("exception:modelStreamErrorException", {"message": KEY})],
        CloudUnavailable,
        r"\[key\]",
    ),
    (ConverseReader, [("exception:validationException", {"message": "bad"})], CloudProtocol, "bad"),
    (PredictionReader, [("output", "a")], CloudProtocol, "without a finish reason"),
    (PredictionReader, [("done", "{}")], CloudProtocol, "empty"),
    (PredictionReader, [("output", "a"), ("done", '{"reason": "canceled"}')], CloudProtocol, "canceled"),
    (PredictionReader, [("error", json.dumps({"detail": f"oops {KEY}"}))], CloudProtocol, r"oops \[key\]"),
    *[
        (reader, [("message", data)], CloudProtocol, told)
        for reader in (MessagesReader, ResponsesReader, GeminiReader, ConverseReader)
        for data, told in (
            ("{", "not JSON"),
            ("<html>", "not JSON"),
            ("[" * 100_000, "not JSON"),
            ("[1]", "not"),
        )
    ],
]


@pytest.mark.parametrize(("make", "events", "leaf", "told"), BAD)
def test_bad_answers(
    make: Callable[..., Reader], events: list[Event], leaf: type[CloudError], told: str
) -> None:
    """Whatever is not a whole answer is the error that fits, with the reason and without the key."""
    with pytest.raises(leaf, match=told) as caught:
        decode(make((KEY,)), *events)
    assert KEY not in str(caught.value)


NAMES = [
    *("type", "index", "delta", "text", "content_block", "message", "usage", "input_tokens", "stop_reason"),
    *(
        "error",
        "partial_json",
        "candidates",
        "content",
        "parts",
        "functionCall",
        "finishReason",
        "name",
        "args",
    ),
    *("usageMetadata", "promptFeedback", "response", "item", "call_id", "arguments", "incomplete_details"),
    *("start", "toolUse", "input", "contentBlockIndex", "stopReason", "output", "urls", "detail", "reason"),
]
TYPES = [
    *("message_start", "content_block_start", "content_block_delta", "message_delta", "error", "message"),
    *(
        "text",
        "tool_use",
        "text_delta",
        "input_json_delta",
        "response.output_text.delta",
        "response.completed",
    ),
    *(
        "response.output_item.done",
        "response.failed",
        "function_call",
        "contentBlockStart",
        "contentBlockDelta",
    ),
    *("messageStop", "metadata", "whole", "output", "done", "exception:x"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(TYPES) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)
READERS = (ChunkDecoder, MessagesReader, ResponsesReader, GeminiReader, ConverseReader, PredictionReader)


@given(st.sampled_from(READERS), st.lists(st.tuples(st.sampled_from(["message", *TYPES]), JSON), max_size=6))
def test_no_json_breaks_a_reader(make: Callable[[], Reader], events: list[Event]) -> None:
    """Any JSON at all, under any name, gives pieces or a typed error."""
    reader = make()
    try:
        for name, data in events:
            assert all(piece.text for piece in reader.feed(json.dumps(data), name))
        reader.end()
    except CloudError:
        pass
