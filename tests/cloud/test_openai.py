import asyncio
import json
import socket
import subprocess
import sys
from typing import Any

import pytest

from edgeai.cloud import CloudEnd, CloudText, open_cloud
from edgeai.cloud.chat import is_strict
from edgeai.cloud.openai import OpenAI
from edgeai.economics import Price
from edgeai.errors import CloudAuth, CloudProtocol, ConfigError
from edgeai.net import Retry, Timeouts
from edgeai.types import Image, JsonSchema, Message, Released, Sampling, Text, Tool, ToolCall
from tests.servers import header, scripted

PLAIN = Released(messages=(Message("user", "hi"),), max_tokens=7, sampling=Sampling())
REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    b'data: {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


def body(cloud: OpenAI, released: Released = PLAIN) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(cloud.encode(released))
    return value


def ask(cloud: OpenAI, released: Released = PLAIN) -> list[CloudText | CloudEnd]:
    async def collect() -> list[CloudText | CloudEnd]:
        return [piece async for piece in cloud.stream(released)]

    return asyncio.run(collect())


def test_plain_body() -> None:
    """A question to a compatible server, field by field."""
    assert body(OpenAI("m", base_url="http://10.0.0.5/v1")) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "top_p": 1.0,
    }


def test_body_for_openai() -> None:
    """OpenAI wants max_completion_tokens, and its models that think first refuse the sampling fields."""
    ordinary, thinking = body(OpenAI("gpt-4o-mini")), body(OpenAI("gpt-5-mini"))
    assert ordinary["max_completion_tokens"] == thinking["max_completion_tokens"] == 7
    assert ordinary["temperature"] == 0.0
    assert not {"max_tokens", "temperature", "top_p"} & set(thinking)
    assert "max_tokens" not in ordinary
    assert body(OpenAI("m", token_limit="max_tokens"))["max_tokens"] == 7
    stop = Released(messages=PLAIN.messages, max_tokens=1, sampling=Sampling(), stop=("x",))
    assert body(OpenAI("gpt-4o"), stop)["stop"] == ["x"]
    with pytest.raises(CloudProtocol, match="no stop strings"):
        OpenAI("o3").encode(stop)


def test_full_body() -> None:
    """Everything that a request can hold has its place in the body."""
    released = Released(
        messages=(
            Message("system", "Be brief."),
            Message("user", [Text("What is this?"), Image(data=b"\x89PNG", media_type="image/png")]),
            Message("assistant", tool_calls=(ToolCall(name="look", arguments={"at": "ü"}, id="c1"),)),
            Message("tool", "a cat", tool_call_id="c1"),
        ),
        max_tokens=5,
        sampling=Sampling(temperature=0.5, top_p=0.9, seed=3),
        stop=("END",),
        tools=(Tool(name="look", description="Look."),),
    )
    made = body(OpenAI("m", base_url="http://h/v1"), released)
    assert made["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "ü"}'}}
            ],
        },
        {"role": "tool", "content": "a cat", "tool_call_id": "c1"},
    ]
    assert (made["temperature"], made["top_p"], made["seed"], made["stop"]) == (0.5, 0.9, 3, ["END"])
    function = {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}
    assert made["tools"] == [{"type": "function", "function": function}]


CLOSED = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (CLOSED, True),
        ({"type": "array", "items": CLOSED}, True),
        ({"type": "object", "properties": {"n": {"type": "integer"}}}, False),
        ({**CLOSED, "required": []}, False),
        ({**CLOSED, "properties": {"n": {"type": "object"}}}, False),
        ({"anyOf": [CLOSED, {"type": "object"}]}, False),
    ],
)
def test_schema(schema: JsonSchema, strict: bool) -> None:  # noqa: FBT001  # a parameter of the test
    """A schema goes along as it is, and as strict where strict mode can take it."""
    released = Released(messages=PLAIN.messages, max_tokens=7, sampling=Sampling(), schema=schema)
    made = body(OpenAI("m", base_url="http://h/v1"), released)["response_format"]
    assert made == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema, "strict": strict},
    }
    assert is_strict(schema) is strict


def test_text_that_is_no_unicode() -> None:
    """Half a surrogate pair becomes a question mark instead of a crash or invalid UTF-8."""
    broken = Released(messages=(Message("user", "a\ud800b"),), max_tokens=1, sampling=Sampling())
    assert body(OpenAI("m"), broken)["messages"][0]["content"] == "a?b"


def test_key_is_sent_and_never_shown() -> None:
    """The key is in the header and nowhere else: not in repr, endpoint or body."""
    with scripted(lambda c, r: c.sendall(REPLY)) as server:
        cloud = OpenAI("m", base_url=server.url + "/v1/", key=" sk-secret\n")
        assert ask(cloud) == [CloudText("yes"), CloudEnd(finish_reason="stop")]
    request = server.requests[0]
    assert request.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert header(request, "authorization") == "Bearer sk-secret"
    assert "sk-secret" not in f"{cloud!r} {cloud!s} {cloud.endpoint} {cloud.encode(PLAIN)!r}"


def test_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is read at the call, from the variable named; OpenAI's own is not shown to other servers."""
    with scripted(lambda c, r: c.sendall(REPLY)) as server:
        ours, theirs = (
            OpenAI("m", base_url=server.url, key_variable="MY_KEY"),
            OpenAI("m", base_url=server.url),
        )
        monkeypatch.setenv("MY_KEY", "sk-mine")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
        ask(ours)
        ask(theirs)
        assert [header(request, "authorization") for request in server.requests] == ["Bearer sk-mine", ""]


@pytest.mark.parametrize(
    ("cloud", "told"),
    [
        (OpenAI("m"), "no OPENAI_API_KEY"),
        (OpenAI("m", base_url="http://192.0.2.1/v1"), "Neither key nor key_variable"),
        (OpenAI("m", base_url="http://192.0.2.1/v1", key_variable="MY_KEY"), "no MY_KEY"),
        (OpenAI("m", key="sk secret"), "holds spaces"),
        (OpenAI("m", key="sk-sécret"), "holds spaces"),
        (OpenAI("m", key="sk-secret\r\nX: y"), "holds spaces"),
    ],
)
def test_no_usable_key(cloud: OpenAI, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a usable key no connection is tried, and the message does not hold the key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def forbidden(*args: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    with pytest.raises(CloudAuth, match=told) as caught:
        ask(cloud)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: OpenAI(""),
        lambda: OpenAI("m", base_url="10.0.0.5:8000"),
        lambda: OpenAI("m", base_url="ftp://h/v1"),
        lambda: OpenAI("m", base_url="http://me:pw@h/v1"),
        lambda: OpenAI("m", base_url="http://h/v1?key=sk-1"),
        lambda: OpenAI("m", timeouts=Timeouts(total_s=float("inf"))),
        lambda: OpenAI("m", timeouts=Timeouts(connect_s=0)),
        lambda: OpenAI("m", retry=Retry(attempts=0)),
        lambda: open_cloud("openai"),
        lambda: open_cloud("openai:"),
        lambda: open_cloud("skynet:t800"),
    ],
)
def test_bad_configuration(make: Any) -> None:  # noqa: ANN401  # lambdas
    """What cannot work fails when it is made, and passwords in a URL are refused without being shown."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert "pw" not in str(caught.value)
    assert "sk-1" not in str(caught.value)


def test_open_cloud() -> None:
    """The short spelling gives OpenAI's model; an unknown provider is answered with the known ones."""
    cloud = open_cloud("openai:gpt-4o-mini")
    assert (cloud.model, cloud.endpoint) == ("gpt-4o-mini", "https://api.openai.com/v1/chat/completions")
    assert open_cloud("openai:ft:gpt-4o:me").model == "ft:gpt-4o:me"
    with pytest.raises(ConfigError, match="known providers are: openai, openai-responses, anthropic"):
        open_cloud("skynet:t800")


def test_price() -> None:
    """Own price first; the list price for OpenAI's models only; else unknown."""
    own = Price(prompt_usd=1, completion_usd=2)
    assert OpenAI("gpt-4o-mini", price=own).price == own
    assert OpenAI("gpt-4o-mini", base_url="http://h/v1", price=own).price == own
    assert OpenAI("gpt-4o-mini", base_url="http://h/v1").price is None
    assert OpenAI("no-such-model").price is None
    listed = OpenAI("gpt-4o-mini").price
    assert listed
    assert 0 < listed.prompt_usd < listed.completion_usd


def test_making_one_is_light() -> None:
    """Neither importing nor making a cloud loads the HTTP library, the price list, or reads a key."""
    code = """
import os, sys
class Closed(dict):
    def __getitem__(self, name): raise AssertionError(name)
    get = __getitem__
import edgeai.cloud.openai as o
os.environ = Closed()
o.OpenAI("gpt-4o-mini").encode
print({"httpx", "genai_prices", "ssl"} & set(sys.modules) - {"ssl"})
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_sends_are_counted() -> None:
    """The end of an answer, or its error, says how often the body was sent."""
    broken = REPLY.partition(b"data:")[0] + b"data: nonsense\n\n"

    def script(connection: socket.socket, request: bytes) -> None:
        replies = [b"HTTP/1.1 503 Busy\r\n\r\n", REPLY, b"HTTP/1.1 503 Busy\r\n\r\n", broken]
        connection.sendall(replies[len(server.requests) - 1])

    with scripted(script) as server:
        cloud = OpenAI("m", base_url=server.url, retry=Retry(backoff_s=0.01))
        end = ask(cloud)[-1]
        assert isinstance(end, CloudEnd)
        assert end.sends == 2
        with pytest.raises(CloudProtocol) as caught:
            ask(cloud)
    assert caught.value.sends == 2


def test_what_is_refused_before_sending_was_not_sent() -> None:
    """Neither a missing key nor a request the model does not take counts as sent."""
    with pytest.raises(CloudAuth) as no_key:
        ask(OpenAI("m", base_url="http://10.0.0.5/v1"))
    stop = Released(messages=PLAIN.messages, max_tokens=1, sampling=Sampling(), stop=("x",))
    with pytest.raises(CloudProtocol) as no_stop:
        ask(OpenAI("o3", key="sk-1"), stop)
    assert (no_key.value.sends, no_stop.value.sends) == (0, 0)
