"""Cancelling hangs up on the cloud at once, seen from the other end of the connection."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from edgeai import Answer, AsyncEdge, Delta, Done, Edge, OpenAI, Policy
from edgeai.testing import FakeEngine
from tests.servers import Child, Scripted, katan, scripted
from tests.storms import wait_for

POLICY = Policy(privacy="allow", prefer="cloud")
QUESTION = "Tell me a long story about the sea."
FIRST_S, BETWEEN_S = 0.5, 0.4
AT_ONCE_S = 0.25


@pytest.fixture(scope="module")
def slow() -> Iterator[Child]:
    """A server that thinks before its first word, and between two of them."""
    options = ("--ttft-ms", str(int(FIRST_S * 1000)), "--itl-ms", str(int(BETWEEN_S * 1000)))
    with katan(*options) as server:
        yield server


class Line:
    """A proxy that passes everything on, and knows when its client hung up, after how many bytes."""

    def __init__(self, upstream: Child) -> None:
        self._place = urlsplit(upstream.url)
        self.left_at: float | None = None
        self.passed = 0

    def __call__(self, connection: socket.socket, request: bytes) -> None:
        """One request: the answer flows in a thread of its own until the client is gone."""
        address = (str(self._place.hostname), int(self._place.port or 0))
        with socket.create_connection(address, timeout=20) as beyond:
            beyond.sendall(request)
            threading.Thread(target=self._flow, args=(beyond, connection), daemon=True).start()
            with suppress(OSError):
                while connection.recv(1):
                    pass
            self.left_at = time.monotonic()
            beyond.shutdown(socket.SHUT_RDWR)

    def _flow(self, beyond: socket.socket, connection: socket.socket) -> None:
        with suppress(OSError):
            while data := beyond.recv(65536):
                connection.sendall(data)
                self.passed += len(data)


def check_left(line: Line, cancelled_at: float) -> None:
    wait_for(lambda: line.left_at is not None, limit_s=5)
    assert line.left_at is not None
    assert line.left_at - cancelled_at < AT_ONCE_S
    passed = line.passed
    time.sleep(BETWEEN_S)
    assert line.passed == passed, "the answer went on after the line was closed"


def cloud_at(proxy: Scripted) -> OpenAI:
    return OpenAI("echo", base_url=f"{proxy.url}/v1", key="sk-any")


@pytest.mark.parametrize("n_words", [0, 2])
def test_cancelling_a_stream(slow: Child, n_words: int) -> None:
    """Before the first word and after some; what was shown is the answer."""
    line, shown, ends = Line(slow), list[str](), list[Answer]()
    with scripted(line) as proxy, Edge(engine=FakeEngine(), cloud=cloud_at(proxy), policy=POLICY) as edge:
        stream = edge.stream(QUESTION)

        def read() -> None:
            for event in stream:
                if isinstance(event, Delta):
                    shown.append(event.text)
                elif isinstance(event, Done):
                    ends.append(event.answer)

        reader = threading.Thread(target=read)
        reader.start()
        wait_for(lambda: bool(proxy.requests) and len(shown) >= n_words)
        cancelled_at = time.monotonic()
        stream.cancel()
        check_left(line, cancelled_at)
        reader.join(5)
    (answer,) = ends
    assert answer.finish_reason == "cancelled"
    assert answer.disclosed_bytes > 0
    assert answer.text == "".join(shown)
    assert (len(shown) == 0) == (n_words == 0)


def test_cancelling_a_task(slow: Child) -> None:
    """A task that waits for an answer and is cancelled hangs up, too."""
    line = Line(slow)

    async def main(proxy: Scripted) -> None:
        async with AsyncEdge(engine=FakeEngine(), cloud=cloud_at(proxy), policy=POLICY) as edge:
            task = asyncio.create_task(edge.ask(QUESTION))
            while not proxy.requests:
                await asyncio.sleep(0.01)
            cancelled_at = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(check_left, line, cancelled_at)

    with scripted(line) as proxy:
        asyncio.run(main(proxy))
