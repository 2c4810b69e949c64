"""Embeddings and scores from the weights that generate, while they generate."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeai.engines.local import LocalEngine
from edgeai.types import Message, Request
from tests.rounding import MOST_GAP

LONG = "The lamp in the north wing was made in 1851 by a clockmaker. " * 13
LABELS = (" yes", " no")


def story(n: int = 400) -> Request:
    return Request(messages=(Message("user", "Write a long story about a lamp."),), max_tokens=n)


def resident() -> int:
    """Bytes of memory of this process that are not shared with files, now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("there is no RssAnon")


def test_a_stream_goes_on_between_the_steps_of_a_long_job(engine: LocalEngine) -> None:
    """Embedding a text of many steps, some tokens come before it ends, and it gives what it gives alone."""
    alone, scored = engine.embed([LONG]), engine.score(LONG, LABELS)
    with engine.stream(story()) as generation, ThreadPoolExecutor(1) as pool:
        next(generation)
        job = pool.submit(engine.embed, [LONG])
        meanwhile = 0
        while not job.done():
            next(generation)
            meanwhile += 1
        beside = job.result()
        again = engine.score(LONG, LABELS)
    assert meanwhile >= 2
    assert float(alone[0] @ beside[0]) > 0.999
    assert again == pytest.approx(scored, abs=MOST_GAP)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_there_is_one_copy_of_the_weights(engine: LocalEngine) -> None:
    """Embedding and scoring beside a stream take no memory of the weights' order."""
    weights = engine.memory()["weights"]
    with engine.stream(story()) as generation:
        next(generation)
        before = resident()
        engine.embed(["A lamp.", "A clock."])
        engine.score("Is a lamp a clock?", LABELS)
        grown = resident() - before
    assert grown < weights / 4
