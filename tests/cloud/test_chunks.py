import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.cloud import CloudEnd
from edgeai.cloud.chunks import ChunkDecoder
from edgeai.errors import (
    CloudAuth,
    CloudError,
    CloudProtocol,
    CloudRateLimited,
    CloudRefused,
    CloudUnavailable,
)
from edgeai.net.sse import EventDecoder
from edgeai.types import ToolCall, Usage


def delta(content: object = None, finish: object = None, **more: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content, **more}, "finish_reason": finish}]}


def call(index: int | None, id: str | None = None, name: str | None = None, arguments: object = None) -> Any:  # noqa: ANN401  # JSON
    return {"index": index, "id": id, "function": {"name": name, "arguments": arguments}}


def decode(*chunks: object) -> tuple[str, CloudEnd]:
    decoder = ChunkDecoder(("sk-123",))
    texts = [
        c.text
        for chunk in chunks
        for c in decoder.feed(chunk if isinstance(chunk, str) else json.dumps(chunk))
    ]
    assert all(texts)
    return "".join(texts), decoder.end()


USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}


def test_ordinary_answer() -> None:
    """Role, text, finish, usage in a chunk of its own, DONE: as OpenAI sends it."""
    text, end = decode(
        delta("", role="assistant"),
        delta("Hel"),
        delta("lo"),
        delta(finish="stop"),
        {"choices": [], "usage": USAGE},
        "[DONE]",
    )
    assert text == "Hello"
    assert end == CloudEnd(
        finish_reason="stop", usage=Usage(prompt_tokens=9, completion_tokens=2, cached_tokens=4)
    )


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({}, Usage()),
        ({"prompt_tokens": "9", "completion_tokens": True}, Usage()),
        ({"prompt_tokens": -1, "completion_tokens": 0}, Usage(completion_tokens=0)),
        ({"prompt_tokens": 1, "prompt_tokens_details": None}, Usage(prompt_tokens=1)),
        (
            {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 5}},
            Usage(prompt_tokens=1, cached_tokens=1),
        ),
        (  # DeepSeek
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_cache_hit_tokens": 3},
            Usage(prompt_tokens=5, completion_tokens=1, cached_tokens=3),
        ),
        (  # OpenAI: thoughts are part of the completion
            {
                "prompt_tokens": 5,
                "completion_tokens": 9,
                "total_tokens": 14,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            Usage(prompt_tokens=5, completion_tokens=9, reasoning_tokens=7),
        ),
        (  # xAI: they are not
            {
                "prompt_tokens": 5,
                "completion_tokens": 2,
                "total_tokens": 14,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            Usage(prompt_tokens=5, completion_tokens=9, reasoning_tokens=7),
        ),
    ],
)
def test_usage_that_is_not_there(usage: dict[str, object], expected: Usage) -> None:
    """Counts that are missing or senseless are unknown; an answer without usage is still one."""
    assert decode(delta("a", "stop"), {"choices": None, "usage": usage})[1].usage == expected
    assert decode(delta("a", "stop"))[1].usage == Usage()


@pytest.mark.parametrize(("wire", "ours"), [("stop", "stop"), ("eos", "stop"), ("length", "length")])
def test_finish_reasons(wire: str, ours: str) -> None:
    """Each reason of the protocol has ours; a second finish changes nothing."""
    assert decode(delta("a"), delta(finish=wire), delta(finish="tool_calls"))[1].finish_reason == ours


def test_tool_calls_from_deltas() -> None:
    """Calls are put together from their pieces, several at once, in order."""
    _, end = decode(
        delta(tool_calls=[call(0, "a", "look", "")]),
        delta(tool_calls=[call(0, None, None, '{"at"')]),
        delta(tool_calls=[call(1, "b", "stop", None), call(0, None, None, ': "ü"}')]),
        delta(finish="tool_calls"),
    )
    assert end.finish_reason == "tool_calls"
    assert end.tool_calls == (
        ToolCall(name="look", arguments={"at": "ü"}, id="a"),
        ToolCall(name="stop", arguments={}, id="b"),
    )


def test_tool_calls_of_sloppy_servers() -> None:
    """One index for all calls, no index, no id, or "stop" at the end: still the calls that were meant."""
    _, same = decode(
        delta(tool_calls=[call(0, "a", "x", "{}")]),
        delta(finish="stop", tool_calls=[call(0, "b", "y", "{}")]),
    )
    assert [c.name for c in same.tool_calls] == ["x", "y"]
    assert same.finish_reason == "tool_calls"
    _, none = decode(
        delta(tool_calls=[call(None, None, "x", "{}"), call(None, None, "y", "{}")]), delta(finish="stop")
    )
    assert [(c.name, c.id) for c in none.tool_calls] == [("x", "call_0"), ("y", "call_1")]


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([], "without a finish reason"),
        ([delta("a")], "without a finish reason"),
        ([delta(finish="stop")], "empty"),
        ([delta("", finish="length")], "max_tokens was used up"),
        ([delta(finish="tool_calls")], "empty"),
        ([delta("a", "error")], "error"),
        ([delta("a", 7)], "without a finish reason"),
        (["{"], "not JSON"),
        (["<html>"], "not JSON"),
        (["[" * 100_000], "not JSON"),
        (["[1]"], "not a chat completion"),
        ([{"choices": 3}], "not a chat completion"),
        ([{"choices": ["a"]}], "not a chat completion"),
        ([{"choices": [{"delta": "a"}]}], "not a chat completion"),
        ([delta(7)], "not a chat completion"),
        ([delta(["a"])], "not a chat completion"),
        ([delta("a", "stop"), delta("b")], "goes on after its end"),
        ([delta(tool_calls={"0": 1})], "not a chat completion"),
        ([delta(tool_calls=[call(0, "a", "x", "{")]), delta(finish="tool_calls")], "not a JSON object"),
        ([delta(tool_calls=[call(0, "a", "x", "[]")]), delta(finish="tool_calls")], "not a JSON object"),
        ([delta(tool_calls=[call(0, "a", None, "{}")]), delta(finish="tool_calls")], "no name"),
        ([delta(tool_calls=[call(0, "a", "x", "{}")])], "without a finish reason"),
        ([{"error": "plain"}], "plain"),
    ],
)
def test_bad_answers(chunks: list[object], told: str) -> None:
    """Whatever is not a whole answer is CloudProtocol, with the reason."""
    with pytest.raises(CloudProtocol, match=told):
        decode(*chunks)


@pytest.mark.parametrize(
    ("chunks", "leaf", "told"),
    [
        ([delta("a", "content_filter")], CloudRefused, "content_filter"),
        ([delta(refusal="I cannot")], CloudRefused, "refused.*I cannot"),
        ([{"error": {"message": "busy sk-123", "code": 503}}], CloudUnavailable, r"busy \[key\]"),
        ([{"error": {"message": "slow down", "type": "rate_limit_exceeded"}}], CloudRateLimited, "slow down"),
        ([{"error": {"message": "no", "code": "invalid_api_key"}}], CloudAuth, "no"),
    ],
)
def test_errors_of_the_provider(chunks: list[object], leaf: type[CloudError], told: str) -> None:
    """What a provider reports inside a stream is the leaf that fits, without the key."""
    with pytest.raises(leaf, match=told):
        decode(delta("a"), *chunks)


def test_whole_answer() -> None:
    """A server that answers a stream with one document is understood, tool calls too."""
    message = {"content": "yes", "tool_calls": [call(None, "a", "look", "{}")]}
    document = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    text, end = decode(document)
    assert (text, [made.name for made in end.tool_calls], end.usage.prompt_tokens) == ("yes", ["look"], 9)


def test_thoughts_are_not_the_answer() -> None:
    """What a model thinks aloud, in a field or a part of its own, is not part of its text."""
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "B"},
    ]
    assert decode(delta(None, reasoning_content="hm"), delta(parts, "stop"))[0] == "B"


def test_other_choices_are_ignored() -> None:
    """We ask for one answer; what a server adds as a second is not mixed into it."""
    second = {"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]}
    assert decode(delta("yes"), second, delta(finish="stop"))[0] == "yes"


NAMES = [
    "choices",
    "delta",
    "content",
    "index",
    "finish_reason",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "id",
    "usage",
    "error",
    "message",
    "prompt_tokens_details",
    "refusal",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.lists(JSON | JSON.map(lambda j: {"choices": [{"delta": j}]}) | JSON.map(lambda j: {"choices": [j]}))
)
def test_no_json_breaks_the_decoder(chunks: list[Any]) -> None:
    """Any JSON at all gives pieces or a typed error."""
    decoder = ChunkDecoder()
    try:
        for chunk in chunks:
            decoder.feed(json.dumps(chunk))
        decoder.end()
    except CloudError:
        pass


@given(st.lists(st.text(min_size=1)), st.lists(st.integers(0, 100_000)), st.booleans())
def test_cuts_do_not_matter(texts: list[str], cuts: list[int], ascii_only: bool) -> None:  # noqa: FBT001  # drawn
    """From bytes to the answer: the same text and end, wherever the network cuts the stream."""
    chunks = [
        *(delta(text) for text in texts),
        delta("."),
        delta(finish="stop"),
        {"choices": [], "usage": USAGE},
    ]
    events = [json.dumps(chunk, ensure_ascii=ascii_only) for chunk in chunks]
    stream = "".join(f": note\r\ndata: {event}\r\n\r\n" for event in [*events, "[DONE]"])
    data = stream.encode("utf-8", "replace")
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    lines, decoder = EventDecoder(), ChunkDecoder()
    parts = [data[a:b] for a, b in pairwise(edges)]
    text = "".join(p.text for part in parts for event in lines.feed(part) for p in decoder.feed(event.data))
    assert text == "".join(texts) + "."
    assert decoder.end().usage.prompt_tokens == 9
