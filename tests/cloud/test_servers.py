"""Against servers that we did not write."""

import asyncio
import json
import time
from contextlib import aclosing

import pytest

from edgeai.cloud import CloudEnd, CloudText, Piece
from edgeai.cloud.openai import OpenAI
from edgeai.errors import (
    CloudAuth,
    CloudError,
    CloudProtocol,
    CloudRateLimited,
    CloudTimeout,
    CloudUnavailable,
)
from edgeai.net import Retry, Timeouts, submit
from edgeai.types import JsonSchema, Message, Released, Sampling, Tool
from tests.servers import Child, katan

ONCE = Retry(attempts=1)


def released(question: str = "Say hello.", max_tokens: int = 12, tools: tuple[Tool, ...] = ()) -> Released:
    return Released(
        messages=(Message("user", question),), max_tokens=max_tokens, sampling=Sampling(seed=1), tools=tools
    )


async def collect(cloud: OpenAI, request: Released) -> list[Piece]:
    return [piece async for piece in cloud.stream(request)]


def ask(cloud: OpenAI, request: Released | None = None) -> tuple[str, CloudEnd]:
    *texts, end = asyncio.run(collect(cloud, request or released()))
    assert all(isinstance(piece, CloudText) and piece.text for piece in texts)
    assert isinstance(end, CloudEnd)
    return "".join(piece.text for piece in texts if isinstance(piece, CloudText)), end


def test_katan_streams(katan_url: str) -> None:
    """Text in pieces, the usage, the reason of the end."""
    text, end = ask(OpenAI("any", base_url=katan_url, key="sk-right"))
    assert "Say hello." in text
    assert end.finish_reason == "stop"
    assert end.usage.prompt_tokens
    assert end.usage.completion_tokens
    assert end.usage.cached_tokens is None


def test_katan_refuses_a_wrong_key(katan_url: str) -> None:
    """A wrong key is CloudAuth, and the key is not told although this server repeats it."""
    with pytest.raises(CloudAuth, match=r"HTTP 401.*got '\[key\]'") as caught:
        ask(OpenAI("any", base_url=katan_url, key="sk-wrong-123"))
    assert "sk-wrong-123" not in str(caught.value)


def test_katan_ignores_stream_for_tools(katan_url: str) -> None:
    """A server that answers a stream with one JSON object, as this one does for tools, is understood."""
    _, end = ask(OpenAI("any", base_url=katan_url, key="sk-right"), released(tools=(Tool(name="look"),)))
    assert [call.name for call in end.tool_calls] == ["look"]
    assert end.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("options", "leaf", "told"),
    [
        (("--error-rate", "1"), CloudUnavailable, "HTTP 500.*internal server error"),
        (("--rate-limit-after", "1"), CloudRateLimited, "HTTP 429.*rate limit exceeded"),
        (("--timeout-after", "1"), CloudUnavailable, "HTTP 504.*upstream request timeout"),
        (("--latency-ms", "3000"), CloudTimeout, "first_token_s"),
        (("--chunk-delay-ms", "3000"), CloudTimeout, "between_s"),
    ],
)
def test_katan_fails(options: tuple[str, ...], leaf: type[CloudError], told: str) -> None:
    """Each failure that this server can simulate is its own typed error, in bounded time."""
    quick = Timeouts(first_token_s=0.5, between_s=0.5)
    with katan(*options) as server:
        cloud = OpenAI("any", base_url=server.url, key="x", timeouts=quick, retry=ONCE)
        if "after" in options[0]:
            ask(cloud)
        began = time.monotonic()
        with pytest.raises(leaf, match=told):
            ask(cloud)
        assert time.monotonic() - began < 2


def test_katan_fails_sometimes() -> None:
    """With a server that fails half of the time, tries are repeated until one passes."""
    with katan("--error-rate", "0.5") as server:
        text, _ = ask(OpenAI("any", base_url=server.url, key="x", retry=Retry(attempts=40, backoff_s=0.001)))
    assert text


def test_server_killed_in_mid_answer(mortal_katan: Child) -> None:
    """A server that dies while it answers is CloudUnavailable, after the pieces that had come."""
    cloud = OpenAI("any", base_url=mortal_katan.url, key="x")
    pieces: list[Piece] = []

    async def read() -> None:
        async for piece in cloud.stream(released()):
            pieces.append(piece)
            if len(pieces) == 2:
                await asyncio.to_thread(mortal_katan.kill)

    with pytest.raises(CloudUnavailable, match="broke"):
        asyncio.run(read())
    assert len(pieces) >= 2


def test_llama_server_streams(llama_url: str) -> None:
    """The real model answers, at temperature 0 twice the same; missing counts are unknown, not zero."""
    cloud = OpenAI("local", base_url=llama_url)
    text, end = ask(cloud, released("Name the chemical symbol for gold.", 12))
    assert len(text.split()) > 1
    assert end.finish_reason in ("stop", "length")
    assert end.usage.prompt_tokens is None
    assert ask(cloud, released("Name the chemical symbol for gold.", 12))[0] == text


def test_llama_server_stops_at_max_tokens(llama_url: str) -> None:
    """The limit of tokens is understood: it has the name that this server knows."""
    text, end = ask(OpenAI("local", base_url=llama_url), released("Count from one to a hundred.", 5))
    assert end.finish_reason == "length"
    assert 0 < len(text) < 60


def test_llama_server_fails_silently(llama_url: str) -> None:
    """For a prompt beyond its context this server sends an empty stream: that is no answer."""
    with pytest.raises(CloudProtocol, match="broke off"):
        ask(OpenAI("local", base_url=llama_url), released("word " * 3000))


def test_llama_server_does_not_know_json_schema(llama_url: str) -> None:
    """A server without response_format json_schema says so, and we pass it on: no silent drop."""
    schema: JsonSchema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    request = Released(messages=(Message("user", "1"),), max_tokens=5, sampling=Sampling(), schema=schema)
    with pytest.raises(CloudError, match="json_object"):
        ask(OpenAI("local", base_url=llama_url, retry=ONCE), request)


def test_answers_in_parallel(katan_url: str) -> None:
    """Many queries at once on one loop each get their own answer."""
    cloud = OpenAI("any", base_url=katan_url, key="sk-right")

    async def both() -> list[list[Piece]]:
        return await asyncio.gather(*(collect(cloud, released(f"number {n}")) for n in range(8)))

    for n, pieces in enumerate(asyncio.run(both())):
        assert f"number {n}" in "".join(p.text for p in pieces if isinstance(p, CloudText))


def test_leaving_early_and_asking_again(katan_url: str) -> None:
    """A stream left after its first piece does not disturb the next."""
    cloud = OpenAI("any", base_url=katan_url, key="sk-right")

    async def leave() -> None:
        async with aclosing(cloud.stream(released())) as pieces:
            async for _ in pieces:
                return

    submit(leave()).result(10)
    assert isinstance(submit(collect(cloud, released())).result(10)[-1], CloudEnd)


def test_body_is_what_was_counted(katan_url: str) -> None:
    """The bytes that encode gives are JSON with the question in it, once."""
    body = OpenAI("any", base_url=katan_url).encode(released("höre"))
    assert json.loads(body)["messages"] == [{"role": "user", "content": "höre"}]
    assert body.count("höre".encode()) == 1
