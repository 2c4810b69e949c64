import asyncio
import logging
import socket
import sys
import time
import tracemalloc
from contextlib import ExitStack, aclosing

import pytest

from edgeai.errors import (
    CloudAuth,
    CloudError,
    CloudProtocol,
    CloudRateLimited,
    CloudTimeout,
    CloudUnavailable,
)
from edgeai.net import HttpCall, Retry, Timeouts, stream_events
from tests.servers import Script, answer, header, scripted

QUICK = Timeouts(connect_s=1, first_token_s=0.3, between_s=0.3, total_s=2)
SOON = Retry(attempts=3, backoff_s=0.01)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def collect(
    url: str, timeouts: Timeouts = QUICK, retry: Retry = SOON, last: str | None = None
) -> list[str]:
    call = HttpCall(
        url=url, body=b"{}", headers=(("Authorization", "Bearer sk-123"),), secrets=("sk-123",), last=last
    )
    return [event.data async for event in stream_events(call, timeouts=timeouts, retry=retry)]


def ask(
    script: Script, timeouts: Timeouts = QUICK, retry: Retry = SOON, last: str | None = None
) -> list[str]:
    with scripted(script) as server:
        return asyncio.run(collect(server.url, timeouts, retry, last))


def say(*parts: bytes) -> Script:
    """Send the parts and wait until the client has gone."""

    def script(connection: socket.socket, request: bytes) -> None:
        for part in parts:
            connection.sendall(part)
        connection.recv(1)

    return script


def repeat(part: bytes, pause_s: float = 0) -> Script:
    """Send a part again and again, until the client has gone."""

    def script(connection: socket.socket, request: bytes) -> None:
        connection.sendall(HEAD)
        while True:
            connection.sendall(part)
            time.sleep(pause_s)

    return script


def test_events_and_what_was_sent() -> None:
    """The body goes out as it is, with the right headers; the events come back; comments are none."""
    with scripted(lambda c, r: c.sendall(HEAD + b": hi\n\ndata: a\n\ndata: b\n\n")) as server:
        assert asyncio.run(collect(server.url)) == ["a", "b"]
    request = server.requests[0]
    assert request.endswith(b"\r\n\r\n{}")
    assert header(request, "authorization") == "Bearer sk-123"
    assert header(request, "accept-encoding") == "identity"
    assert header(request, "content-type") == "application/json"


@pytest.mark.parametrize(
    ("script", "leaf", "told"),
    [
        (say(CHUNKED, chunk(b"data: a\n\nda")[:-2]), CloudTimeout, "between_s"),
        (say(HEAD), CloudTimeout, "first_token_s"),
        (say(), CloudTimeout, "first_token_s"),
        (repeat(b": still here\n\n", 0.02), CloudTimeout, "first_token_s"),
        (repeat(b"x", 0.02), CloudTimeout, "first_token_s"),
        (repeat(b"data: a\n\n", 0.02), CloudTimeout, "total_s"),
        (repeat(b"data: " + b"x" * 65536), CloudProtocol, "longer than"),
        (say(HEAD, b"data: a\n\ndata: \xe2\x82\n\n"), CloudProtocol, "UTF-8"),
        (
            say(answer("200 OK", b'{"choices": []}', content_type="application/json")),
            CloudProtocol,
            "choices",
        ),
        (say(answer("200 OK", b"<html>Sign in", content_type="text/html")), CloudProtocol, "web page"),
        (say(answer("200 OK", b"hello")), CloudProtocol, "no content type"),
        (
            say(answer("200 OK", b"x", content_type="text/event-stream", content_encoding="gzip")),
            CloudProtocol,
            "compressed",
        ),
        (say(answer("302 Found", location="http://elsewhere.invalid/")), CloudProtocol, "elsewhere.invalid"),
        (say(answer("401 Unauthorized", b'{"error": {"message": "bad key sk-123"}}')), CloudAuth, r"\[key\]"),
        (
            say(answer("404 Not Found", b'{"error": {"message": "no such model"}}')),
            CloudProtocol,
            "no such model",
        ),
        (say(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), CloudUnavailable, "broke"),
        (say(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 50_000), CloudUnavailable, "broke"),
        (lambda c, r: None, CloudUnavailable, "broke"),
        (lambda c, r: c.sendall(CHUNKED + chunk(b"data: a\n\n")), CloudUnavailable, "broke"),
    ],
)
def test_hostile_servers(script: Script, leaf: type[CloudError], told: str) -> None:
    """Whatever a server does, the end is a typed error that says what happened, in bounded time."""
    began = time.monotonic()
    with pytest.raises(CloudError, match=told) as caught:
        ask(script)
    assert type(caught.value) is leaf
    assert "sk-123" not in str(caught.value)
    assert time.monotonic() - began < 3


def test_silence_after_an_error_status() -> None:
    """An error whose body never ends is still that error."""
    head = b"HTTP/1.1 401 No\r\ncontent-length: 100\r\n\r\nwrong key"
    with pytest.raises(CloudAuth, match="wrong key"):
        ask(say(head), Timeouts(first_token_s=5), Retry(attempts=1))


def test_endless_line_in_bounded_memory() -> None:
    """A line without end is cut off long before it fills the memory."""
    part = b"x" * 65536
    asyncio.run(asyncio.sleep(0))
    tracemalloc.start()
    with pytest.raises(CloudProtocol, match="longer than"):
        ask(repeat(part))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("first", "tries"),
    [
        (answer("500 Oops"), 2),
        (answer("503 Busy", retry_after="0"), 2),
        (answer("429 Slow down"), 2),
        (answer("408 Too slow"), 2),
        (b"", 2),
    ],
)
def test_tried_again_before_the_first_event(first: bytes, tries: int) -> None:
    """What may pass is tried again, and then the answer is whole."""
    with scripted(
        lambda c, r: c.sendall(first if len(server.requests) == 1 else HEAD + b"data: a\n\n")
    ) as server:
        assert asyncio.run(collect(server.url)) == ["a"]
    assert len(server.requests) == tries


def test_not_tried_again_after_the_first_event() -> None:
    """Once text was shown there is no second try, which would repeat it and its price."""
    with scripted(lambda c, r: c.sendall(CHUNKED + chunk(b"data: a\n\n"))) as server:
        with pytest.raises(CloudUnavailable):
            asyncio.run(collect(server.url))
        assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "tries"), [("500 Oops", 3), ("400 Bad", 1), ("401 No", 1)])
def test_tries_are_counted(status: str, tries: int) -> None:
    """Tries are bounded, and what cannot pass is not tried again."""
    with scripted(lambda c, r: c.sendall(answer(status))) as server:
        with pytest.raises(CloudError):
            asyncio.run(collect(server.url))
        assert len(server.requests) == tries


def test_an_error_says_how_often_the_body_was_sent() -> None:
    """All tries that reached a server count, whatever ended them; without a connection there were none."""

    def busy_then(last: bytes) -> Script:
        tries: list[bytes] = []

        def script(connection: socket.socket, request: bytes) -> None:
            tries.append(request)
            connection.sendall(answer("503 Busy") if len(tries) < 3 else last)

        return script

    endings = {
        "busy": answer("503 Busy"),
        "wrong key": answer("401 No"),
        "no event": HEAD,
        "cut off": CHUNKED + chunk(b"data: a\n\n"),
    }
    for ending in endings.values():
        with pytest.raises(CloudError) as caught:
            ask(busy_then(ending))
        assert (caught.value.sends, caught.value.sent) == (3, True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CloudUnavailable) as caught:
        asyncio.run(collect(f"http://127.0.0.1:{port}/"))
    assert (caught.value.sends, caught.value.sent) == (0, False)


def test_retry_after_is_obeyed() -> None:
    """The next try comes no earlier than the server asked."""
    stamps: list[float] = []

    def script(connection: socket.socket, request: bytes) -> None:
        stamps.append(time.monotonic())
        first = len(stamps) == 1
        connection.sendall(answer("429 No", retry_after_ms="300") if first else HEAD + b"data: a\n\n")

    assert ask(script) == ["a"]
    assert stamps[1] - stamps[0] >= 0.3


def test_long_retry_after_fails_at_once() -> None:
    """A wish longer than we may wait is reported, not waited for."""
    began = time.monotonic()
    with pytest.raises(CloudRateLimited) as caught:
        ask(lambda c, r: c.sendall(answer("429 No", retry_after="60")), Timeouts(total_s=120))
    assert caught.value.retry_after_s == 60
    assert time.monotonic() - began < 1


def test_nobody_listens() -> None:
    """A refused connection is CloudUnavailable."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CloudUnavailable, match="Cannot connect"):
        asyncio.run(collect(f"http://127.0.0.1:{port}/"))


@pytest.mark.skipif(sys.platform != "linux", reason="fills a queue that other systems size otherwise")
def test_connection_that_is_not_accepted() -> None:
    """A server too busy to accept is a CloudTimeout that names the limit of connecting."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        address = listener.getsockname()
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(address)
        with pytest.raises(CloudTimeout, match="connect_s"):
            asyncio.run(collect(f"http://127.0.0.1:{address[1]}/", Timeouts(connect_s=0.2)))


def test_connection_is_used_again() -> None:
    """Two calls on one loop share a connection, also when the end comes a little after the last event."""

    def script(connection: socket.socket, request: bytes) -> None:
        for _ in range(2):
            connection.sendall(CHUNKED + chunk(b"data: a\n\ndata: [DONE]\n\n"))
            connection.sendall(b"0\r\n\r\n")
            connection.recv(65536)

    async def twice(url: str) -> None:
        for _ in range(2):
            assert await collect(url, last="[DONE]") == ["a", "[DONE]"]

    with scripted(script) as server:
        asyncio.run(twice(server.url))
    assert server.connections == 1


def test_server_that_does_not_end_after_the_last_event() -> None:
    """The answer is complete with its last event; a server that keeps talking is hung up on."""
    began = time.monotonic()
    assert ask(repeat(b"data: a\n\ndata: [DONE]\n\n", 0.01), last="[DONE]") == ["a", "[DONE]"]
    assert time.monotonic() - began < 1


def closing_server(closed: list[float]) -> Script:
    def script(connection: socket.socket, request: bytes) -> None:
        connection.sendall(HEAD + b"data: a\n\n")
        assert connection.recv(1) == b""  # the client closed
        closed.append(time.monotonic())

    return script


def test_close_closes_the_connection() -> None:
    """Closing the iterator hangs up at once."""
    closed: list[float] = []

    async def first_only(url: str) -> float:
        events = stream_events(HttpCall(url=url, body=b""), timeouts=Timeouts(), retry=Retry())
        async with aclosing(events):
            async for _ in events:
                break
        return time.monotonic()

    with scripted(closing_server(closed)) as server:
        left = asyncio.run(first_only(server.url))
    assert closed[0] - left < 1


def test_cancel_closes_the_connection() -> None:
    """Cancelling the task that waits for an event hangs up at once, and is a cancellation, not an error."""
    closed: list[float] = []

    async def cancel(url: str) -> float:
        task = asyncio.create_task(collect(url, Timeouts()))
        while not server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic()

    with scripted(closing_server(closed)) as server:
        left = asyncio.run(cancel(server.url))
    assert closed[0] - left < 1


def test_no_cookies() -> None:
    """A server's cookie does not come back with the next call: nobody follows our users."""
    reply = HEAD.replace(b"\r\n\r\n", b"\r\nset-cookie: id=1\r\n\r\n") + b"data: a\n\n"

    async def twice(url: str) -> None:
        await collect(url)
        await collect(url)

    with scripted(lambda c, r: c.sendall(reply)) as server:
        asyncio.run(twice(server.url))
    assert [header(request, "cookie") for request in server.requests] == ["", ""]


def test_key_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Not even the HTTP library's debug log holds the key."""
    caplog.set_level(logging.DEBUG)
    assert ask(lambda c, r: c.sendall(HEAD + b"data: a\n\n")) == ["a"]
    assert caplog.records
    assert "sk-123" not in caplog.text


def test_call_hides_its_content() -> None:
    """Neither body nor headers nor secrets are in the call's repr."""
    call = HttpCall(url="http://h", body=b"prompt", headers=(("a", "sk-123"),), secrets=("sk-123",))
    assert "sk-123" not in repr(call)
    assert "prompt" not in repr(call)
