"""Long runs on the real model: `make soak`. A short one belongs to `make test`."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import psutil
import pytest

from edgeai import Answer, Done, Edge, Event

SHARED_HEAD = "You are a kiosk guide in a museum. Answer briefly."
QUESTIONS = ["Where is the exit?", "Name three fruits.", "What is 2 + 2?", "Tell me about bees. " * 8]


def one_query(edge: Edge, chance: random.Random) -> Answer:
    """A chat turn of random length, cancelled now and then; whatever happens, it has an end."""
    stream = edge.chat(SHARED_HEAD).stream(chance.choice(QUESTIONS), max_tokens=chance.randint(1, 24))
    cancel_after = chance.randint(0, 12) if chance.random() < 0.2 else None
    last: Event | None = None
    for number, event in enumerate(stream):
        if number == cancel_after:
            stream.cancel()
        last = event
    assert isinstance(last, Done)
    return last.answer


def hammer(edge: Edge, *, threads: int, queries: int, seed: int = 1) -> list[Answer | BaseException]:
    """``queries`` from ``threads`` threads; every answer or error that came back."""
    results: SimpleQueue[Answer | BaseException] = SimpleQueue()

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


def check(results: list[Answer | BaseException], expected: int) -> None:
    """All there, all complete or cancelled."""
    assert len(results) == expected
    assert [result for result in results if isinstance(result, BaseException)] == []
    ends = {result.finish_reason for result in results if isinstance(result, Answer)}
    assert ends <= {"stop", "length", "cancelled"}


def test_forty_queries_from_eight_threads(model_path: Path) -> None:
    """None is lost, and one asked alone afterwards gives its greedy text as before."""
    with Edge(model_path, n_ctx=1024, ledger=False) as edge:
        before = edge.ask("What is 2 + 2?", max_tokens=12).text
        check(hammer(edge, threads=8, queries=40), 40)
        assert edge.ask("What is 2 + 2?", max_tokens=12).text == before


@pytest.mark.soak
def test_memory_stays_flat_over_a_thousand_queries(
    model_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Resident memory grows by less than 2 % over the second half."""
    process = psutil.Process()
    with Edge(model_path, n_ctx=2048, ledger=False) as edge:
        check(hammer(edge, threads=16, queries=512, seed=2), 512)
        half = process.memory_info().rss
        check(hammer(edge, threads=16, queries=512, seed=3), 512)
        growth = process.memory_info().rss / half - 1
    record_property("growth of resident memory over the second half", f"{growth:.2%}")
    assert growth < 0.02, f"resident memory grew by {growth:.1%}"
