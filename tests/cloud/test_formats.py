"""Every format that a server of somebody else's speaks, against that server."""

import asyncio
import json
import os

import pytest

from edgeai.cloud import Cloud, CloudEnd, CloudText, Piece, open_cloud
from edgeai.cloud.bedrock import Bedrock
from edgeai.cloud.sigv4 import Credentials
from edgeai.errors import (
    CloudAuth,
    CloudError,
    CloudProtocol,
    CloudRateLimited,
    CloudTimeout,
    CloudUnavailable,
)
from edgeai.net import Retry, Timeouts, breaker
from edgeai.types import Message, Released, Sampling
from tests.cloud.conversations import LOOK, SCHEMA, TALK
from tests.servers import katan

NAMES = ("openai", "anthropic", "vertex", "bedrock", "azure")
PATHS = {"openai": "/v1", "anthropic": "/v1", "vertex": "/v1beta", "bedrock": "", "azure": ""}
ONCE = Retry(attempts=1)
HELLO = Released(messages=(Message("user", "Say hello."),), max_tokens=12, sampling=Sampling())
TOOLS = Released(messages=HELLO.messages, max_tokens=12, sampling=Sampling(), tools=(LOOK,))
each_format = pytest.mark.parametrize("name", NAMES)
# Under Bedrock's content type this server sends text where Amazon sends binary messages: see test_bedrock.
each_stream = pytest.mark.parametrize("name", [name for name in NAMES if name != "bedrock"])


@pytest.fixture(autouse=True)
def region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bedrock's region; and no keys of whoever runs the tests."""
    for variable in list(os.environ):
        if variable.startswith("AWS_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


def cloud_at(url: str, name: str, key: str = "sk-right", timeouts: Timeouts | None = None) -> Cloud:
    root = url.removesuffix("/v1")
    return open_cloud(f"{name}:any", base_url=root + PATHS[name], key=key, timeouts=timeouts, retry=ONCE)


async def collect(cloud: Cloud, released: Released) -> list[Piece]:
    return [piece async for piece in cloud.stream(released)]


def ask(cloud: Cloud, released: Released = HELLO) -> tuple[str, CloudEnd]:
    *texts, end = asyncio.run(collect(cloud, released))
    assert isinstance(end, CloudEnd)
    return "".join(piece.text for piece in texts if isinstance(piece, CloudText)), end


@each_stream
def test_streams(name: str, katan_url: str) -> None:
    """Text in pieces, token counts, the reason of the end."""
    text, end = ask(cloud_at(katan_url, name))
    assert "Say hello." in text
    assert end.finish_reason == "stop"
    assert end.usage.prompt_tokens
    assert end.usage.completion_tokens


@each_stream
def test_conversation(name: str, katan_url: str) -> None:
    """A conversation with a system message, an image, a call and its result is accepted."""
    text, _ = ask(cloud_at(katan_url, name), Released(messages=TALK, max_tokens=9, sampling=Sampling()))
    assert "Sure?" in text


@each_format
def test_tools(name: str, katan_url: str) -> None:
    """A call comes back with the arguments of the one definition, streamed or not."""
    _, end = ask(cloud_at(katan_url, name), TOOLS)
    [call] = end.tool_calls
    assert end.finish_reason == "tool_calls"
    assert call.name == "look"
    # This server looks for the older of Gemini's two fields for a schema, and finds no arguments.
    assert call.arguments == ({} if name == "vertex" else {"city": "test_city"})


@pytest.mark.parametrize(("name", "path"), [("deepseek", "/v1"), ("vertex", "/v1beta")])
def test_json(name: str, path: str, katan_url: str) -> None:
    """The field for JSON is one that the server knows: it answers in JSON."""
    root = katan_url.removesuffix("/v1")
    cloud = open_cloud(f"{name}:any", base_url=root + path, key="sk-right")
    text, _ = ask(cloud, Released(messages=HELLO.messages, max_tokens=30, sampling=Sampling(), schema=SCHEMA))
    assert "Say hello." in json.loads(text)["response"]


@each_format
def test_wrong_key(name: str, katan_url: str) -> None:
    """A wrong key is CloudAuth, and is not told although this server repeats it."""
    with pytest.raises(CloudAuth, match="HTTP 401") as caught:
        ask(cloud_at(katan_url, name, key="sk-wrong-123"))
    assert "sk-wrong-123" not in str(caught.value)


def test_signed_request(katan_url: str) -> None:
    """Without an API key the request to Bedrock is signed by the access key."""
    root = katan_url.removesuffix("/v1")
    right = Credentials(access_key="sk-right", secret_key="wJalr", token="temporary")
    _, end = ask(Bedrock("any", base_url=root, credentials=right), TOOLS)
    assert end.tool_calls
    wrong = Credentials(access_key="sk-wrong", secret_key="wJalr")
    with pytest.raises(CloudAuth):
        ask(Bedrock("any", base_url=root, credentials=wrong), TOOLS)


def test_text_is_no_binary_stream(katan_url: str) -> None:
    """Text under the content type of Amazon's binary stream is told apart from it."""
    with pytest.raises(CloudProtocol, match="not an event stream"):
        ask(cloud_at(katan_url, "bedrock"))


@pytest.mark.parametrize(
    ("options", "leaf", "told"),
    [
        (("--error-rate", "1"), CloudUnavailable, "HTTP 500.*internal server error"),
        (("--rate-limit-after", "1"), CloudRateLimited, "HTTP 429.*rate limit exceeded"),
        (("--timeout-after", "1"), CloudUnavailable, "HTTP 504.*upstream request timeout"),
        (("--latency-ms", "3000"), CloudTimeout, "first_token_s"),
    ],
)
def test_failures(options: tuple[str, str], leaf: type[CloudError], told: str) -> None:
    """Each failure that this server can simulate is its own typed error in every format."""
    quick = Timeouts(first_token_s=0.5, between_s=0.5)
    with katan(*options, "--providers", "openai,anthropic,vertexai,bedrock,azure_openai") as server:
        clouds = [cloud_at(server.url, name, timeouts=quick) for name in NAMES]
        if "after" in options[0]:
            ask(clouds[0])
        for cloud in clouds:
            breaker.forget_all()  # they share one server
            with pytest.raises(leaf, match=told):
                ask(cloud)


def test_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key no connection is tried, whoever is asked, and the message says what to set."""
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("a connection was tried"))
    for spec, variable in (("anthropic:m", "ANTHROPIC_API_KEY"), ("bedrock:m", "AWS_ACCESS_KEY_ID")):
        monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
        with pytest.raises(CloudAuth, match=variable) as caught:
            ask(open_cloud(spec))
        assert caught.value.sends == 0


def test_not_a_stream(katan_url: str) -> None:
    """A page that is no API's is told as such."""
    with pytest.raises(CloudProtocol, match="HTTP 404"):
        ask(open_cloud("anthropic:m", base_url=katan_url + "/nowhere", key="k"))
