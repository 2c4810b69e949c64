"""The engine's process is killed again and again under load."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from edgeai.engines import keeper
from edgeai.engines.worker import ProcessEngine, open_engine
from edgeai.errors import Cancelled, EngineCrashed
from edgeai.types import Request, Token
from tests.engines.conftest import alike, plan, request
from tests.engines.process.conftest import children, kill, wait_until

WORDS = ("hot", "cold", "big", "fast", "good", "old", "happy", "dark")
KILLS, SEED = 40, 1


@pytest.mark.soak
def test_killed_again_and_again(
    model_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Every query is answered as alone, cancelled, or ends in EngineCrashed; nothing leaks."""
    monkeypatch.setattr(keeper, "MAX_CRASHES", 10**6)
    monkeypatch.setattr(keeper, "WINDOW_S", 0.0)  # no delays: more crashes
    engine = open_engine("llamacpp", model_path, plan(1024), name="m")
    alone = {word: list(engine.stream(question(word))) for word in WORDS}
    ends: Counter[str] = Counter()
    over = threading.Event()
    process = psutil.Process()
    files, running = process.num_fds(), children()

    def ask(seed: int) -> None:
        chance = random.Random(seed)
        while not over.is_set():
            word = chance.choice(WORDS)
            ends[one(engine, word, chance, alone)] += 1

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    chance = random.Random(SEED)
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.05, 3))
        kill(engine)
    over.set()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    wait_until(lambda: engine.pid)
    assert (process.num_fds(), len(children())) == (files, len(running))
    assert not engine._keeper._pending
    engine.close()
    assert ends["whole"] > KILLS // 4
    for end, count in ends.items():
        record_property(end, count)


def question(word: str) -> Request:
    return request(f"What is the opposite of {word}?", max_tokens=24)


def one(engine: ProcessEngine, word: str, chance: random.Random, alone: dict[str, list[Token]]) -> str:
    """Ask, and perhaps cancel or score; how it ended."""
    try:
        if chance.random() < 0.2:
            scores = engine.score(f"The opposite of {word} is", [" red", " blue"])
            assert all(score < 0 for score in scores)
            return "scored"
        with engine.stream(question(word)) as generation:
            if chance.random() < 0.2:
                next(generation)
                generation.cancel()
                generation.cancel()
            tokens = list(generation)
    except Cancelled:
        return "cancelled"
    except EngineCrashed:
        return "crashed"
    alike(alone[word], tokens)
    return "whole"
