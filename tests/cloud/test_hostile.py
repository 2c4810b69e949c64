"""Recorded streams of every format, and what a bad network or server makes of them."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from edgeai.cloud import Cloud, CloudEnd, CloudText, Piece, open_cloud
from edgeai.cloud.bedrock import Bedrock
from edgeai.errors import CloudError, CloudProtocol, CloudTimeout
from edgeai.net import Retry, Timeouts
from edgeai.types import Usage
from tests.cloud.conversations import PLAIN
from tests.cloud.frames import frame
from tests.servers import Script, answer, scripted

QUICK = Timeouts(connect_s=1, first_token_s=1, between_s=1, total_s=2)
WORDS = ("Grü", "ße, ", "世界")


def sse(data: object, event: str = "") -> bytes:
    name = f"event: {event}\r\n" if event else ""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"{name}data: {text}\r\n\r\n".encode()


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One answer as its provider streams it: events before the end, the end, and the counts after it."""

    begin: tuple[bytes, ...] = ()
    text: Callable[[str], bytes]
    finish: bytes
    usage: bytes = b""
    last: bytes = b""
    kind: str = "text/event-stream"
    base: str = "/v1"

    @property
    def events(self) -> list[bytes]:
        return [*self.begin, *map(self.text, WORDS), self.finish, self.usage, self.last]


def chat(**choice: Any) -> bytes:  # noqa: ANN401  # JSON
    return sse({"choices": [{"index": 0, "delta": {}, "finish_reason": None} | choice]})


def typed(type: str, **fields: Any) -> bytes:  # noqa: ANN401  # JSON
    return sse({"type": type} | fields, type)


RECORDINGS = {
    "openai": Recording(
        begin=(chat(delta={"role": "assistant", "content": ""}),),
        text=lambda text: chat(delta={"content": text}),
        finish=chat(finish_reason="stop"),
        usage=sse({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}),
        last=sse("[DONE]"),
    ),
    "openai-responses": Recording(
        begin=(typed("response.created", response={"status": "in_progress"}),),
        text=lambda text: typed("response.output_text.delta", delta=text),
        finish=typed(
            "response.completed",
            response={"status": "completed", "usage": {"input_tokens": 3, "output_tokens": 4}},
        ),
    ),
    "anthropic": Recording(
        begin=(
            typed("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 1}}),
            typed("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            typed("ping"),
        ),
        text=lambda text: typed("content_block_delta", index=0, delta={"type": "text_delta", "text": text}),
        finish=typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}),
        last=typed("message_stop"),
    ),
    "gemini": Recording(
        text=lambda text: sse({"candidates": [{"content": {"parts": [{"text": text}]}}]}),
        finish=sse({"candidates": [{"finishReason": "STOP"}]}),
        usage=sse({"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4}}),
    ),
    "bedrock": Recording(
        begin=(frame({"role": "assistant"}, "messageStart"),),
        text=lambda text: frame({"delta": {"text": text}, "contentBlockIndex": 0}, "contentBlockDelta"),
        finish=frame({"stopReason": "end_turn"}, "messageStop"),
        usage=frame({"usage": {"inputTokens": 3, "outputTokens": 4}}, "metadata"),
        kind="application/vnd.amazon.eventstream",
    ),
}
each = pytest.mark.parametrize("name", RECORDINGS)


def cloud_at(url: str, name: str, timeouts: Timeouts = QUICK) -> Cloud:
    if name == "bedrock":
        return Bedrock("m", region="r", base_url=url, key="k", timeouts=timeouts, retry=Retry(attempts=1))
    return open_cloud(f"{name}:m", base_url=url, key="k", timeouts=timeouts, retry=Retry(attempts=1))


async def collect(cloud: Cloud, pieces: list[Piece]) -> None:
    async for piece in cloud.stream(PLAIN):
        pieces.append(piece)


def ask(script: Script, name: str, timeouts: Timeouts = QUICK) -> tuple[str, CloudEnd | CloudError]:
    """The text that arrived, and the end or the error; nothing else may come out."""
    pieces: list[Piece] = []
    failure: CloudError | None = None
    with scripted(script) as server:
        try:
            asyncio.run(collect(cloud_at(server.url, name, timeouts), pieces))
        except CloudError as error:
            failure = error
    text = "".join(piece.text for piece in pieces if isinstance(piece, CloudText))
    ends = [piece for piece in pieces if isinstance(piece, CloudEnd)]
    assert len(ends) == (failure is None)
    return text, failure or ends[0]


def say(name: str, *parts: bytes, pause_s: float = 0) -> Script:
    """An answer in these pieces; the connection then ends."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {RECORDINGS[name].kind}\r\nconnection: close\r\n\r\n"

    def script(connection: socket.socket, request: bytes) -> None:
        connection.sendall(head.encode())
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)

    return script


@each
def test_as_recorded(name: str) -> None:
    """The text, the end and the counts."""
    text, end = ask(say(name, *RECORDINGS[name].events), name)
    assert text == "".join(WORDS)
    assert isinstance(end, CloudEnd)
    assert end.finish_reason == "stop"
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (3, 4)


@each
def test_cut_inside_a_character(name: str) -> None:
    """Bytes that arrive in pieces, each cut somewhere inside a character or an event, are the same answer."""
    data = b"".join(RECORDINGS[name].events)
    edges = [*(at + 1 for at, byte in enumerate(data) if byte >= 0xC0), len(data)]
    parts = [data[a:b] for a, b in zip([0, *edges], edges, strict=False)]
    assert len(parts) > 1 or name == "bedrock"  # whose JSON is in ASCII
    text, end = ask(say(name, *parts, pause_s=0.002), name)
    assert text == "".join(WORDS)
    assert isinstance(end, CloudEnd)


@each
def test_cut_off(name: str) -> None:
    """An answer that breaks off anywhere before its end is an error, never a shorter answer."""
    recording = RECORDINGS[name]
    data = b"".join(recording.events)
    whole = data.index(recording.finish) + len(recording.finish)
    for at in (0, 1, len(data) // 4, len(data) // 2, whole - len(recording.finish), whole - 5):
        text, end = ask(say(name, data[:at]), name)
        assert isinstance(end, CloudError), at
        assert end.sends == 1
        assert "".join(WORDS).startswith(text)


@pytest.mark.parametrize("name", [name for name, recording in RECORDINGS.items() if recording.usage])
def test_usage_missing(name: str) -> None:
    """An answer whose counts do not come is one; they are unknown."""
    recording = RECORDINGS[name]
    events = [event for event in recording.events if event != recording.usage]
    text, end = ask(say(name, *events), name)
    assert text == "".join(WORDS)
    assert isinstance(end, CloudEnd)
    assert end.usage == Usage()


@each
def test_finished_twice(name: str) -> None:
    """A second end changes nothing."""
    recording = RECORDINGS[name]
    events = [
        *recording.begin,
        *map(recording.text, WORDS),
        recording.finish,
        recording.finish,
        recording.last,
    ]
    text, end = ask(say(name, *events), name)
    assert text == "".join(WORDS)
    assert isinstance(end, CloudEnd)
    assert end.finish_reason == "stop"


@each
def test_endless(name: str) -> None:
    """An answer without an end is cut by the total time."""
    event = RECORDINGS[name].text("on and on ") * 20

    def script(connection: socket.socket, request: bytes) -> None:
        say(name)(connection, request)
        while True:
            connection.sendall(event)
            time.sleep(0.01)

    began = time.monotonic()
    text, end = ask(script, name, Timeouts(connect_s=1, first_token_s=1, between_s=1, total_s=0.2))
    assert isinstance(end, CloudTimeout)
    assert text.startswith("on and on")
    assert time.monotonic() - began < 5


@each
def test_ten_megabytes_in_one_event(name: str) -> None:
    """One event of 10 MB is refused."""
    text, end = ask(say(name, RECORDINGS[name].text("x" * 10_000_000)), name)
    assert text == ""
    assert isinstance(end, CloudError)


@each
@pytest.mark.parametrize(
    "reply",
    [
        answer("200 OK", b"<!doctype html><title>Sign in", content_type="text/html"),
        answer("200 OK", b"data: hi\n\n", content_type="text/plain"),
        answer("502 Bad Gateway", b"<html>nginx", content_type="text/html"),
        answer("200 OK", b"[]", content_type="application/json"),
        answer("200 OK", b'{"error": {"message": "no"}}', content_type="application/json"),
        answer("200 OK", b"\xff\xfe", content_type="application/json"),
        answer("200 OK", b"x" * 2_000_000, content_type="application/json"),
        answer("200 OK", content_type="application/json"),
    ],
)
def test_no_stream_at_all(name: str, reply: bytes) -> None:
    """A page, another content type, or a document that is no answer: an error that quotes little of it."""
    text, end = ask(lambda connection, request: connection.sendall(reply), name)
    assert text == ""
    assert isinstance(end, CloudError)
    assert len(str(end)) < 600


def replicate(stream: Callable[[str], str], events: bytes) -> Script:
    """Replicate's two steps; ``stream`` makes the address to listen at from our own."""

    def script(connection: socket.socket, request: bytes) -> None:
        if request.startswith(b"GET"):
            assert b"authorization: bearer r8_key" in request.lower()
            connection.sendall(answer("200 OK", events, content_type="text/event-stream"))
        else:
            host = request.lower().split(b"host: ")[1].split(b"\r\n")[0].decode()
            urls = {"urls": {"stream": stream(f"http://{host}/listen")}}
            connection.sendall(
                answer("201 Created", json.dumps(urls).encode(), content_type="application/json")
            )

    return script


def ask_replicate(script: Script) -> tuple[str, CloudEnd, list[bytes]]:
    pieces: list[Piece] = []
    with scripted(script) as server:
        cloud = open_cloud("replicate:meta/llama", base_url=server.url, key="r8_key", timeouts=QUICK)
        asyncio.run(collect(cloud, pieces))
    *texts, end = pieces
    assert isinstance(end, CloudEnd)
    return "".join(piece.text for piece in texts if isinstance(piece, CloudText)), end, server.requests


def test_replicate() -> None:
    """A prediction is begun once, then listened to."""
    events = sse("Grüße", "output") + sse(" 世界", "output") + sse("{}", "done")
    text, end, requests = ask_replicate(replicate(str, events))
    assert (text, end.sends) == ("Grüße 世界", 1)
    assert [request.split(b" ")[:2] for request in requests] == [
        [b"POST", b"/models/meta/llama/predictions"],
        [b"GET", b"/listen"],
    ]


@pytest.mark.parametrize(
    ("stream", "events", "told"),
    [
        (lambda url: "https://evil.invalid/listen", b"", "elsewhere"),
        (lambda url: "http://streaming.replicate.com/x", b"", "elsewhere"),
        (lambda url: "https://streaming.replicate.com.evil.invalid/x", b"", "elsewhere"),
        (lambda url: "", b"", "cannot stream"),
        (str, sse("a", "output"), "without a finish reason"),
        (str, sse({"detail": "out of memory r8_key"}, "error"), r"out of memory \[key\]"),
    ],
)
def test_replicate_fails(stream: Callable[[str], str], events: bytes, told: str) -> None:
    """The key is shown to no other server, and an answer that breaks off is none."""
    with pytest.raises(CloudProtocol, match=told) as caught:
        ask_replicate(replicate(stream, events))
    assert caught.value.sends == 1
