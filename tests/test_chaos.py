"""Many queries through a bad network to other people's server; and processes killed at any point."""

import hashlib
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from edgeai import Answer, Edge, OpenAI, Policy, Reason
from edgeai.economics import Price
from edgeai.errors import EdgeError
from edgeai.ledger import Ledger
from edgeai.net import breaker
from edgeai.net.calls import Retry, Timeouts
from edgeai.outbox import Outbox
from edgeai.resend import send
from edgeai.testing import FakeEngine
from edgeai.types import Message, Request
from tests.servers import Child, Scripted, katan, scripted
from tests.storms import MAX_TOKENS, Result, Weather, body, relay, storm, wait_for

PRICE = Price(prompt_usd=1000.0, completion_usd=1000.0)  # a tenth of a cent a token: sums are easy to read
LIMITS = Timeouts(connect_s=5, first_token_s=5, between_s=5, total_s=20)
PLENTY_USD = 1e6
TRIES = 3
Note = Callable[[str, object], None]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Child]:
    with katan() as server:
        yield server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A breaker that looks again after a twentieth of a second and not after five."""
    monkeypatch.setattr(breaker, "FIRST_WAIT_S", 0.05)


def through(weather: Weather, path: Path, n: int, budget_usd: float) -> tuple[list[Result], Scripted]:
    """The results of ``n`` queries, and the proxy with the requests that reached the network."""
    policy = Policy(privacy="allow", prefer="cloud", budget_usd={"month": budget_usd})
    with scripted(weather.script()) as proxy:
        cloud = OpenAI(
            "echo",
            key="sk-any",
            base_url=f"{proxy.url}/v1",
            price=PRICE,
            timeouts=LIMITS,
            retry=Retry(attempts=TRIES, backoff_s=0.01),
        )
        with Edge(engine=FakeEngine("Device."), cloud=cloud, policy=policy, ledger=path) as edge:
            results = storm(edge, n, lambda: breaker.is_reachable(proxy.url))
    return results, proxy


def switches(results: list[Result]) -> tuple[int, int]:
    """How often the breaker was seen to open, and to close: the order in which queries ended tells."""
    away = [a.reason is Reason.OFFLINE for _, a in results if isinstance(a, Answer)]
    turns = [after for before, after in pairwise([False, *away]) if before != after]
    return turns.count(True), turns.count(False)


def question_of(request: bytes) -> str:
    found = re.search(r"Question <\d+>\?", body(request).decode())
    assert found
    return found[0]


def check_storm(upstream: Child, path: Path, n: int, note: Note) -> None:
    weather = Weather(upstream)
    results, proxy = through(weather, path, n, PLENTY_USD)
    assert len({question for question, _ in results}) == len(results) == n
    assert [r for _, r in results if not isinstance(r, Answer | EdgeError)] == []
    answers = [(question, r) for question, r in results if isinstance(r, Answer)]
    by_cloud = [(question, a) for question, a in answers if a.source == "cloud"]
    assert 0 < len(by_cloud) < n, [str(r) for _, r in results[:3]]
    assert all(question in a.text for question, a in by_cloud)
    assert all(a.text == "Device." for _, a in answers if a.source == "device")
    check_bill(path, results, proxy, weather)
    opened, closed = switches(results)
    assert opened > 0, "the breaker never opened"
    assert closed > 0, "the breaker never closed"
    kept_back = [a for _, a in answers if a.reason is Reason.OFFLINE]
    assert all(a.disclosed_bytes == 0 for a in kept_back)
    note("queries, answered by the cloud, kept by the breaker", f"{n}, {len(by_cloud)}, {len(kept_back)}")
    note("requests, answered in full", f"{len(proxy.requests)}, {len(weather.passed)}")
    note("the breaker opened, closed", f"{opened}, {closed} times at least")


def check_bill(path: Path, results: list[Result], proxy: Scripted, weather: Weather) -> None:
    """Every byte and cent is in the ledger once; whoever was answered in full was not asked again."""
    n = len(results)
    by_cloud = [a for _, a in results if isinstance(a, Answer) and a.source == "cloud"]
    with Ledger.open(path) as ledger:
        rows, spent, totals = ledger.rows(2 * n), ledger.spent("month"), ledger.totals()
        verdict = ledger.disclosures.verify()
    assert len(rows) == n
    assert totals.disclosed_bytes == sum(len(body(request)) for request in proxy.requests)
    assert spent == pytest.approx(totals.cost_usd)
    assert spent >= sum(a.cost_usd or 0 for a in by_cloud) > 0
    assert verdict.faults == ()
    asked = Counter(map(question_of, proxy.requests))
    assert len(asked) <= verdict.rows <= n  # the breaker may close the door on one that is on record
    assert max(asked.values()) <= TRIES
    billed = Counter(map(question_of, weather.passed))
    assert max(billed.values()) == 1, "an answered query was sent again"
    assert len(billed) >= len(by_cloud)


def check_budget(upstream: Child, path: Path, n: int, limit: float, note: Note) -> None:
    results, _ = through(Weather(upstream), path, n, limit)
    assert len(results) == n
    with Ledger.open(path) as ledger:
        spent, totals = ledger.spent("month"), ledger.totals()
    billed = sum(a.cost_usd or 0 for _, a in results if isinstance(a, Answer) and a.source == "cloud")
    assert totals.reasons.get("budget", 0) > 0
    assert billed <= spent <= limit
    note("budget, booked, billed in US dollars", f"{limit:.2f}, {spent:.2f}, {billed:.2f}")


def test_a_hundred_queries_in_bad_weather(
    upstream: Child, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each ends in its own answer or a typed error, and every byte and cent of it is in the ledger once.

    The breaker opens when all is dark, keeps queries here meanwhile, and closes again.
    """
    check_storm(upstream, tmp_path / "ledger.sqlite3", 160, record_property)


def test_the_budget_holds_in_bad_weather(
    upstream: Child, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Spending never passes the budget, although tries that fail are booked, and four threads ask at once."""
    check_budget(upstream, tmp_path / "ledger.sqlite3", 60, 3.0, record_property)


@pytest.mark.soak
def test_a_thousand_queries_in_bad_weather(
    upstream: Child, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same, a thousand queries long."""
    check_storm(upstream, tmp_path / "ledger.sqlite3", 1000, record_property)


@pytest.mark.soak
def test_the_budget_holds_over_a_thousand_queries(
    upstream: Child, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same limit, while a thousand queries try."""
    check_budget(upstream, tmp_path / "ledger.sqlite3", 1000, 30.0, record_property)


ASKING = """
import sys
from itertools import count
from edgeai import Edge, OpenAI, Policy
from edgeai.economics import Price
from edgeai.testing import FakeEngine

url, path, name = sys.argv[1:]
cloud = OpenAI("m", key="sk-any", base_url=url, price=Price(prompt_usd=1000.0, completion_usd=1000.0))
policy = Policy(privacy="allow", prefer="cloud", budget_usd={"month": 1e6})
with Edge(engine=FakeEngine("x"), cloud=cloud, policy=policy, ledger=path) as edge:
    for number in count():
        edge.ask(f"{name}-{number}", max_tokens=64)
"""
QUEUED = """
import sys
from pathlib import Path
from edgeai import OpenAI, Policy
from edgeai.ledger import Ledger
from edgeai.outbox import Outbox
from edgeai.resend import send

url, ledger, queue = sys.argv[1:]
cloud = OpenAI("m", key="sk-any", base_url=url)
with Ledger.open(Path(ledger)) as book, Outbox(Path(queue)) as outbox:
    send(outbox, cloud, Policy(privacy="allow"), book, lambda answer: True)
"""


def killed(
    child_code: str, server: Scripted, after: int, arguments: list[str], chance: random.Random
) -> None:
    """Run a child, and kill it at a random moment around its ``after``-th request from now on."""
    want = len(server.requests) + after
    child = subprocess.Popen([sys.executable, "-c", child_code, f"{server.url}/v1", *arguments])
    try:
        wait_for(lambda: len(server.requests) >= want or child.poll() is not None)
        time.sleep(chance.uniform(0, 0.03))
    finally:
        child.kill()
        child.wait(10)


def check_record(path: Path, requests: list[bytes]) -> None:
    """No body twice, each in the record, and the chain unbroken."""
    bodies = [hashlib.sha256(body(request)).hexdigest() for request in requests]
    assert len(set(bodies)) == len(bodies), "something was sent twice"
    with Ledger.open(path) as ledger:
        recorded = [row.sha256 for row in ledger.disclosures.rows(10 * len(bodies))]
        assert ledger.disclosures.verify().faults == ()
    assert set(bodies) <= set(recorded)
    assert len(set(recorded)) == len(recorded)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def kill_asking(upstream: Child, path: Path, rounds: int, chance: random.Random, note: Note) -> None:
    with scripted(lambda connection, request: relay(upstream, connection, request)) as server:
        for number in range(rounds):
            killed(ASKING, server, chance.randint(1, 6), [str(path), f"round-{number}"], chance)
        requests = list(server.requests)
    check_record(path, requests)
    with Ledger.open(path) as ledger:
        rows, spent = ledger.rows(10 * len(requests)), ledger.spent("month")
    assert len(requests) - rounds <= len(rows) <= len(requests)
    assert all(row.source == "cloud" for row in rows)
    answered = sum(row.cost_usd or 0 for row in rows)
    assert spent >= answered > 0
    lost = len(requests) - len(rows)
    assert spent > answered or not lost
    note("kills, requests, without an answer on record", f"{rounds}, {len(requests)}, {lost}")


def kill_queue(upstream: Child, folder: Path, rounds: int, chance: random.Random, note: Note) -> None:
    path, queue, n = folder / "ledger.sqlite3", folder / "queue.sqlite", 4 * rounds
    with Outbox(queue) as outbox, Ledger.open(path) as ledger:
        for number in range(n):
            question = Message("user", f"Queued {number}")
            outbox.add(Request(messages=(question,), max_tokens=MAX_TOKENS))
        with scripted(lambda connection, request: relay(upstream, connection, request)) as server:
            for _ in range(rounds):
                killed(QUEUED, server, chance.randint(1, 4), [str(path), str(queue)], chance)
            cloud = OpenAI("m", key="sk-any", base_url=f"{server.url}/v1")
            send(outbox, cloud, Policy(privacy="allow"), ledger, lambda answer: True)
            requests = list(server.requests)
        counts = outbox.counts()
    check_record(path, requests)
    assert counts["waiting"] == counts["sending"] == counts["refused"] == 0
    assert counts["delivered"] + counts["answered"] + counts["unknown"] == n
    assert counts["unknown"] + counts["answered"] <= rounds, "only what was under way when it was killed"
    note("kills, questions, of unknown fate", f"{rounds}, {n}, {counts['unknown']}")


def test_killed_while_sending(
    upstream: Child, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """What reached the server is booked and on record, no query is sent twice, and the chain verifies."""
    kill_asking(upstream, tmp_path / "ledger.sqlite3", 2, random.Random(3), record_property)


def test_killed_while_emptying_the_queue(
    upstream: Child, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each question that waited leaves once at most, is answered or marked, and none is lost."""
    kill_queue(upstream, tmp_path, 2, random.Random(5), record_property)


@pytest.mark.soak
def test_killed_while_sending_often(
    upstream: Child, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same at forty random moments, all into one ledger."""
    kill_asking(upstream, tmp_path / "ledger.sqlite3", 40, random.Random(4), record_property)


@pytest.mark.soak
def test_killed_while_emptying_the_queue_often(
    upstream: Child, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The same at thirty random moments."""
    kill_queue(upstream, tmp_path, 30, random.Random(6), record_property)
