"""Long runs on the real model: `make soak`. A short one belongs to `make test`."""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import psutil
import pytest

from edgeai import Answer, Delta, Done, Edge, Event, Message
from edgeai.types import Request, Token
from tests.rounding import MOST_GAP, gap

SHARED_HEAD = "You are a kiosk guide in a museum. Answer briefly."
BEES = "Bees live in colonies, visit flowers, and turn nectar into honey. "
QUESTIONS = [
    "Where is the exit?",
    "Name three fruits.",
    "What is 2 + 2?",
    "Tell me about bees. " * 8,
    f"{BEES * 20} What do bees make?",
    "Name the chemical symbol for gold.",
]
MOST_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and how it was answered: ``pieces`` is the text token by token."""

    question: str
    max_tokens: int
    answer: Answer
    pieces: tuple[str, ...]


def one_query(edge: Edge, chance: random.Random) -> Asked:
    """A chat turn of random length, cancelled now and then; whatever happens, it has an end."""
    question, max_tokens = chance.choice(QUESTIONS), chance.randint(1, MOST_TOKENS)
    priority: Literal["interactive", "background"] = "background" if chance.random() < 0.3 else "interactive"
    stream = edge.chat(SHARED_HEAD).stream(question, max_tokens=max_tokens, priority=priority)
    cancel_after = chance.randint(0, 12) if chance.random() < 0.2 else None
    last: Event | None = None
    pieces = list[str]()
    for number, event in enumerate(stream):
        if number == cancel_after:
            stream.cancel()
        if isinstance(event, Delta):
            pieces.append(event.text)
        last = event
    assert isinstance(last, Done)
    return Asked(question, max_tokens, last.answer, tuple(pieces))


def hammer(edge: Edge, *, threads: int, queries: int, seed: int = 1) -> list[Asked | BaseException]:
    """``queries`` from ``threads`` threads; every answer or error that came back."""
    results: SimpleQueue[Asked | BaseException] = SimpleQueue()

    def work(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        for _ in range(queries // threads):
            try:
                results.put(one_query(edge, chance))
            except BaseException as error:  # noqa: BLE001  # the parent judges it
                results.put(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [results.get() for _ in range(results.qsize())]


def check(results: list[Asked | BaseException], expected: int) -> None:
    """All there, all complete or cancelled."""
    assert len(results) == expected
    assert [result for result in results if isinstance(result, BaseException)] == []
    ends = {result.answer.finish_reason for result in results if isinstance(result, Asked)}
    assert ends <= {"stop", "length", "cancelled"}


def count_others(edge: Edge, results: list[Asked | BaseException]) -> int:
    """How many complete answers are not those that the same questions get alone.

    Batches round differently: where two tokens are nearly as likely, the other one may win. Anything else is
    another's token, and fails.
    """
    engine, others = edge._session.engine, 0
    alone: dict[str, list[Token]] = {}
    for asked in results:
        assert isinstance(asked, Asked)
        if asked.answer.finish_reason == "cancelled":
            continue
        if asked.question not in alone:
            messages = (Message("system", SHARED_HEAD), Message("user", asked.question))
            alone[asked.question] = list(engine.stream(Request(messages=messages, max_tokens=MOST_TOKENS)))
        others += not _same(alone[asked.question][: asked.max_tokens], asked.pieces)
    return others


def _same(expected: list[Token], pieces: Sequence[str]) -> bool:
    """Whether they are the tokens' texts; False if they leave them where the second token was not much less
    likely.

    Tokens are compared, and not their text: "Gra|pe|fruit" and "Gra|pes" part at the second token.
    """
    said = [token for token in expected if token.text]
    for token, piece in zip_longest(said, pieces):
        if token is None or token.text != piece:
            token = token or expected[-1]
            assert gap(token) < MOST_GAP, f"{pieces!r} came instead of {token}"
            return False
    return True


def test_forty_queries_from_eight_threads(model_path: Path) -> None:
    """None is lost or mixed up, and one asked alone afterwards gives its greedy text, but for rounding."""
    with Edge(model_path, n_ctx=1024, ledger=False) as edge:
        request = Request(messages=(Message("user", "What is 2 + 2?"),), max_tokens=12)
        before = list(edge._session.engine.stream(request))
        results = hammer(edge, threads=8, queries=40)
        check(results, 40)
        assert count_others(edge, results) < 20
        after = edge.stream("What is 2 + 2?", max_tokens=12)
        _same(before, [event.text for event in after if isinstance(event, Delta)])


@pytest.mark.soak
def test_memory_stays_flat_over_two_thousand_queries(
    model_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """From 16 threads: all end well, as they would alone, and resident memory grows by less than 2 %."""
    process = psutil.Process()
    with Edge(model_path, n_ctx=2048, ledger=False) as edge:
        first = hammer(edge, threads=16, queries=1008, seed=2)
        check(first, 1008)
        half = process.memory_info().rss
        second = hammer(edge, threads=16, queries=1008, seed=3)
        check(second, 1008)
        growth = process.memory_info().rss / half - 1
        others = count_others(edge, [*first, *second])
    record_property("growth of resident memory over the second half", f"{growth:.2%}")
    record_property("answers that rounding in batches made others", f"{others} of 2016")
    assert growth < 0.02, f"resident memory grew by {growth:.1%}"
