import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import pytest

from edgeai.net import HttpCall, Retry, Timeouts, stream_events, submit
from tests.servers import scripted

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


async def read(url: str) -> list[str]:
    call = HttpCall(url=url, body=b"")
    return [event.data async for event in stream_events(call, timeouts=Timeouts(), retry=Retry())]


def test_result_and_error_come_back() -> None:
    """A coroutine's result or exception is the future's."""

    async def fail() -> None:
        raise LookupError

    assert submit(asyncio.sleep(0, "done")).result(5) == "done"
    with pytest.raises(LookupError):
        submit(fail()).result(5)


def test_one_loop_for_all_threads() -> None:
    """However many threads come first at once, there is one loop, on one daemon thread."""

    async def which() -> tuple[int, threading.Thread]:
        return id(asyncio.get_running_loop()), threading.current_thread()

    seen = []
    threads = [threading.Thread(target=lambda: seen.append(submit(which()).result(5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1
    assert seen[0][1].daemon


def test_cancelling_the_future_closes_the_connection() -> None:
    """Cancelling from any thread hangs up within a second."""
    closed = threading.Event()

    def script(connection: socket.socket, request: bytes) -> None:
        connection.sendall(HEAD + b"data: a\n\n")
        if connection.recv(1) == b"":
            closed.set()

    with scripted(script) as server:
        future = submit(read(server.url))
        while not server.requests:
            time.sleep(0.005)
        began = time.monotonic()
        future.cancel()
        assert closed.wait(1)
        assert time.monotonic() - began < 1
        with pytest.raises(CancelledError):
            future.result(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork() -> None:
    """A forked child gets a loop of its own, and the parent's goes on."""
    code = """
import asyncio, os, warnings
from edgeai.net import submit
warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, which is the point
assert submit(asyncio.sleep(0, 1)).result(5) == 1
child = os.fork()
if child == 0:
    os._exit(submit(asyncio.sleep(0, 7)).result(5))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert submit(asyncio.sleep(0, 2)).result(5) == 2
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_exit_in_the_middle_is_silent_and_quick() -> None:
    """A program that ends while a call runs ends at once, without a word on stderr, and hangs up."""
    code = """
import sys
from edgeai.net import *
async def read(url):
    async for event in stream_events(HttpCall(url=url, body=b""), timeouts=Timeouts(), retry=Retry()):
        print(event.data, flush=True)
future = submit(read(sys.argv[1]))
sys.stdin.read(1)
"""
    closed = threading.Event()

    def script(connection: socket.socket, request: bytes) -> None:
        connection.sendall(HEAD + b"data: a\n\n")
        if connection.recv(1) == b"":
            closed.set()

    with scripted(script) as server:
        command, pipe = [sys.executable, "-Wd", "-c", code, server.url], subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as program:
            assert program.stdout
            assert program.stdout.readline().strip() == b"a"
            began = time.monotonic()
            assert program.communicate(b"x", timeout=10) == (b"", b"")
            assert program.returncode == 0
            assert time.monotonic() - began < 3
        assert closed.wait(1)


def test_loop_that_ends_closes_its_connections() -> None:
    """A caller's own loop leaves no open connection behind, although they are kept for the next call."""
    closed = threading.Event()
    reply = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9\r\n\r\ndata: a\n\n"

    def script(connection: socket.socket, request: bytes) -> None:
        connection.sendall(reply)
        if connection.recv(1) == b"":
            closed.set()

    async def check(url: str) -> None:
        assert await read(url) == ["a"]
        assert not closed.is_set()

    with scripted(script) as server:
        asyncio.run(check(server.url))
        assert closed.wait(1)
