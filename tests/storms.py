"""A bad network before somebody else's server, and many queries through it."""

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from urllib.parse import urlsplit

from edgeai import Answer, Edge, Reason
from tests.servers import Child, Script, answer

MAX_TOKENS = 64
PATIENCE_S = 10.0
"""How long a user waits at most for the cloud, once told that it is away."""
_RESET = struct.pack("ii", 1, 0)


def relay(upstream: Child, connection: socket.socket, request: bytes, limit: int | None = None) -> None:
    """Pass a request on, and the answer back: all of it, or its first bytes."""
    place = urlsplit(upstream.url)
    with socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=20) as beyond:
        beyond.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
        while data := beyond.recv(65536 if limit is None else limit):
            connection.sendall(data)
            if limit is not None:
                return


def body(request: bytes) -> bytes:
    """What a request says, without its head."""
    return request.partition(b"\r\n\r\n")[2]


@dataclass
class Weather:
    """What a bad network does to each request: delays, drops, resets, refuses, fails, cuts, or nothing.

    Every ``between`` requests all is dark for the next ``outage`` ones. ``passed`` are those that were
    answered in full.
    """

    upstream: Child
    seed: int = 7
    between: int = 70
    outage: int = 14
    passed: list[bytes] = field(default_factory=list)

    def script(self) -> Script:
        """The weather, for `tests.servers.scripted`."""
        chance, lock, came = random.Random(self.seed), threading.Lock(), [0]

        def script(connection: socket.socket, request: bytes) -> None:
            with lock:
                came[0] += 1
                dark = came[0] % (self.between + self.outage) >= self.between
                die, limit = chance.random(), chance.randint(1, 600)
            if dark or die < 0.08:
                return  # dropped without a word
            if die < 0.16:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            elif die < 0.24:
                connection.sendall(answer("429 Too Many Requests", b"slow down", retry_after="0"))
            elif die < 0.34:
                connection.sendall(answer("500 Internal Server Error", b"oops"))
            elif die < 0.42:
                relay(self.upstream, connection, request, limit)
            else:
                time.sleep(0.02 if die < 0.52 else 0)
                relay(self.upstream, connection, request)
                self.passed.append(request)

        return script


Result = tuple[str, Answer | BaseException]


def storm(edge: Edge, n: int, reachable: Callable[[], bool], threads: int = 4) -> list[Result]:
    """``n`` different questions from some threads, each with what came back, in that order.

    Who was told that the cloud is away asks again when it is ``reachable``: however slow the machine is, an
    outage does not use up the questions.
    """
    results: SimpleQueue[Result] = SimpleQueue()

    def work(own: range) -> None:
        for number in own:
            question = f"Question <{number}>?"
            try:
                came = edge.ask(question, max_tokens=MAX_TOKENS)
            except BaseException as error:  # noqa: BLE001  # the parent judges it
                results.put((question, error))
                continue
            results.put((question, came))
            if came.reason is Reason.OFFLINE:
                wait_for(reachable, PATIENCE_S)

    workers = [threading.Thread(target=work, args=(range(i, n, threads),)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [results.get() for _ in range(results.qsize())]


def wait_for(ready: Callable[[], bool], limit_s: float = 60) -> None:
    """Wait until it is so."""
    end = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)
