"""Many queries through a bad network to other people's server; and processes killed at any point."""

import json
import random
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

import pytest

from edgeai import Answer, Edge, OpenAI, Policy
from edgeai.economics import Price
from edgeai.errors import EdgeError
from edgeai.ledger import Ledger
from edgeai.net.calls import Retry, Timeouts
from edgeai.testing import FakeEngine
from tests.servers import Child, Script, answer, katan, scripted

PRICE = Price(prompt_usd=1000.0, completion_usd=1000.0)  # a tenth of a cent a token: sums are easy to read
LIMITS = Timeouts(connect_s=5, first_token_s=5, between_s=5, total_s=20)
PLENTY_USD = 1e6
MAX_TOKENS = 64


@pytest.fixture(scope="module")
def upstream() -> Iterator[Child]:
    with katan() as server:
        yield server


def through(server: Child, chance: random.Random, passed: list[bytes]) -> Script:
    """What a bad network does to each request: delays, drops, resets, refuses, fails, cuts, or nothing."""
    host, port = urlsplit(server.url).hostname, urlsplit(server.url).port

    def forward(connection: socket.socket, request: bytes, limit: int | None = None) -> None:
        with socket.create_connection((str(host), int(port or 0)), timeout=20) as beyond:
            beyond.sendall(request.replace(b"Connection: keep-alive", b"Connection: close"))
            while data := beyond.recv(65536 if limit is None else limit):
                connection.sendall(data)
                if limit is not None:
                    return
        passed.append(request)

    def script(connection: socket.socket, request: bytes) -> None:
        die = chance.random()
        if die < 0.08:
            return  # dropped without a word
        if die < 0.16:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif die < 0.24:
            connection.sendall(answer("429 Too Many Requests", b"slow down", retry_after="0"))
        elif die < 0.34:
            connection.sendall(answer("500 Internal Server Error", b"oops"))
        elif die < 0.42:
            forward(connection, request, limit=chance.randint(1, 600))
        else:
            time.sleep(0.02 if die < 0.52 else 0)
            forward(connection, request)

    return script


def storm(edge: Edge, n: int, threads: int = 4) -> list[tuple[str, Answer | BaseException]]:
    """``n`` different questions from some threads, each with what came back."""
    results: SimpleQueue[tuple[str, Answer | BaseException]] = SimpleQueue()

    def work(own: range) -> None:
        for number in own:
            question = f"Question <{number}>?"
            try:
                results.put((question, edge.ask(question, max_tokens=MAX_TOKENS)))
            except BaseException as error:  # noqa: BLE001  # the parent judges it
                results.put((question, error))

    workers = [threading.Thread(target=work, args=(range(i, n, threads),)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [results.get() for _ in range(results.qsize())]


def body(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


def weather(
    upstream: Child, path: Path, n: int, budget_usd: float
) -> tuple[list[tuple[str, Answer | BaseException]], list[bytes], list[bytes]]:
    """The results of ``n`` queries, the requests that reached the network, and those answered in full."""
    passed: list[bytes] = []
    policy = Policy(privacy="allow", prefer="cloud", budget_usd={"month": budget_usd})
    with scripted(through(upstream, random.Random(7), passed)) as proxy:
        cloud = OpenAI(
            "echo",
            key="sk-any",
            base_url=f"{proxy.url}/v1",
            price=PRICE,
            timeouts=LIMITS,
            retry=Retry(attempts=3, backoff_s=0.01),
        )
        with Edge(engine=FakeEngine("Device."), cloud=cloud, policy=policy, ledger=path) as edge:
            results = storm(edge, n)
    return results, proxy.requests, passed


def check_storm(upstream: Child, path: Path, n: int) -> None:
    results, requests, passed = weather(upstream, path, n, PLENTY_USD)
    assert len({question for question, _ in results}) == len(results) == n
    assert [r for _, r in results if not isinstance(r, Answer | EdgeError)] == []
    answers = [(question, r) for question, r in results if isinstance(r, Answer)]
    by_cloud = [(question, a) for question, a in answers if a.source == "cloud"]
    assert by_cloud, [str(r) for _, r in results[:3]]
    assert len(by_cloud) < n  # the weather was bad
    assert all(question in a.text for question, a in by_cloud)
    assert all(a.text == "Device." for _, a in answers if a.source == "device")
    with Ledger.open(path) as ledger:
        rows, spent = ledger.rows(2 * n), ledger.spent("month")
        totals = ledger.totals()
    assert len(rows) == n
    assert totals.disclosed_bytes == sum(len(body(request)) for request in requests)
    assert spent == pytest.approx(totals.cost_usd)
    billed = sum(a.cost_usd or 0 for _, a in by_cloud)
    assert spent >= billed > 0
    assert len(passed) >= len(by_cloud)


def test_a_hundred_queries_in_bad_weather(upstream: Child, tmp_path: Path) -> None:
    """Each ends in its own answer or a typed error, and every byte and cent of it is in the ledger once."""
    check_storm(upstream, tmp_path / "ledger.sqlite3", 100)


def test_the_budget_holds_in_bad_weather(upstream: Child, tmp_path: Path) -> None:
    """Spending never passes the budget, although tries that fail are booked, and four threads ask at once."""
    path, limit = tmp_path / "ledger.sqlite3", 3.0
    results, _, _ = weather(upstream, path, 60, limit)
    assert len(results) == 60
    with Ledger.open(path) as ledger:
        spent, reasons = ledger.spent("month"), ledger.totals().reasons
    assert reasons.get("budget", 0) > 0
    assert spent <= limit


@pytest.mark.soak
def test_a_thousand_queries_in_bad_weather(upstream: Child, tmp_path: Path) -> None:
    """The same, ten times as long."""
    check_storm(upstream, tmp_path / "ledger.sqlite3", 1000)


CHILD = """
import sys
from itertools import count
from edgeai import Edge, OpenAI, Policy
from edgeai.economics import Price
from edgeai.testing import FakeEngine

url, path, name = sys.argv[1:]
cloud = OpenAI("m", key="", base_url=url, price=Price(prompt_usd=1000.0, completion_usd=1000.0))
policy = Policy(privacy="allow", prefer="cloud", budget_usd={"month": 1e6})
with Edge(engine=FakeEngine("x"), cloud=cloud, policy=policy, ledger=path) as edge:
    for number in count():
        edge.ask(f"{name}-{number}", max_tokens=64)
"""
USED = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
USED_USD = 0.02


def tell(connection: socket.socket, request: bytes) -> None:
    """A short answer of twenty tokens."""
    choice = {"index": 0, "delta": {"content": "Yes."}, "finish_reason": "stop"}
    events = [{"choices": [choice]}, {"choices": [], "usage": USED}]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    connection.sendall(answer("200 OK", text.encode(), content_type="text/event-stream"))


def kill_rounds(path: Path, rounds: int, chance: random.Random) -> None:
    with scripted(tell) as server:
        for number in range(rounds):
            want = len(server.requests) + chance.randint(1, 6)
            arguments = [f"{server.url}/v1", str(path), f"round-{number}"]
            child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments])
            try:
                wait_for(lambda want=want: len(server.requests) >= want)  # type: ignore[misc]  # bound now
                time.sleep(chance.uniform(0, 0.03))
            finally:
                child.kill()
                child.wait(10)
        requests = list(server.requests)
    assert len({body(request) for request in requests}) == len(requests)
    with Ledger.open(path) as ledger:
        rows, spent = ledger.rows(10 * len(requests)), ledger.spent("month")
    assert len(requests) - rounds <= len(rows) <= len(requests)
    assert all(row.source == "cloud" for row in rows)
    assert spent >= len(requests) * USED_USD - 1e-9
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def wait_for(ready: Callable[[], bool], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < end, "the child asked nothing"
        time.sleep(0.002)


def test_killed_while_sending(tmp_path: Path) -> None:
    """What reached the server is booked, no query is sent twice, and the ledger opens undamaged."""
    kill_rounds(tmp_path / "ledger.sqlite3", 2, random.Random(3))


@pytest.mark.soak
def test_killed_while_sending_often(tmp_path: Path) -> None:
    """The same at forty random moments, all into one ledger."""
    kill_rounds(tmp_path / "ledger.sqlite3", 40, random.Random(4))
