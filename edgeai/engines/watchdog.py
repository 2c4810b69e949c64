"""Ends an engine's process that has come to a stand: it lives, and nothing comes of it any more.

A native call may wait for ever, or the process may be stopped. As long as work is under way it is heard from:
tokens and results, or a beat while it computes (`edgeai.engines.child`). The silence is counted in looks, not
by the clock: an app that was itself stopped, or asleep, has not listened.
"""

import threading
from collections.abc import Callable
from typing import Final

__all__ = ["LIMIT_S", "LOOKS", "Watchdog"]

LIMIT_S: Final = 60.0
"""Seconds without a sign of life: far more than a batch takes on the slowest machine that is of use."""

LOOKS: Final = 8
"""So many looks in a row must find nothing new; as many beats are sent in that time."""


class Watchdog:
    """Calls ``end`` after ``limit_s`` without a `heard` while ``works()``. Its thread ends by `stop`."""

    def __init__(self, limit_s: float, works: Callable[[], bool], end: Callable[[], None]) -> None:
        self.limit_s = limit_s
        self._works, self._end = works, end
        self._quiet = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._main, name="edgeai-watchdog", daemon=True)
        self._thread.start()

    def heard(self) -> None:
        """There was a sign of life. From any thread."""
        self._quiet = 0

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _main(self) -> None:
        while not self._stopped.wait(self.limit_s / LOOKS):
            self._quiet = self._quiet + 1 if self._works() else 0
            if self._quiet > LOOKS:
                self._quiet = 0
                self._end()
