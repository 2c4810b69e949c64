"""One at a time."""

import threading

from edgeai.engines.onnx.turnstile import Turnstile
from edgeai.types import Priority
from tests.engines.llamacpp.test_threads import wait_until


def test_the_background_comes_last() -> None:
    """Whoever a person waits for goes first, in whatever order they came; never two at once."""
    turns, order, inside = Turnstile(), list[str](), list[int]()

    def work(name: str, priority: Priority) -> None:
        with turns.take(priority):
            inside.append(1)
            assert len(inside) == 1
            order.append(name)
            inside.pop()

    with turns.take("interactive"):
        assert turns.since is not None
        threads = [
            threading.Thread(target=work, args=("slow", "background")),
            threading.Thread(target=work, args=("quick", "interactive")),
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: turns._people == 1)
    for thread in threads:
        thread.join(5)
    assert order == ["quick", "slow"]
    assert turns.since is None
