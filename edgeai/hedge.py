"""How many queries may ask the cloud in parallel because the device is unusually slow: one in twenty.

Hedged requests of "The tail at scale" (Dean and Barroso 2013): they cut the slowest answers at a small and
bounded price.
"""

import threading

__all__ = ["EVERY", "QUANTILE", "Hedges"]

EVERY = 20
"""Of so many queries one may be hedged: 5 % of the traffic."""
QUANTILE = 0.95
"""A query is late when 95 % of the device's answers would be complete."""


class Hedges:
    """The allowance of one Edge. Safe from any thread."""

    def __init__(self) -> None:
        self._saved = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether the next query may hedge; it counts as hedged unless `give_back` says otherwise."""
        with self._lock:
            self._saved = min(self._saved + 1, EVERY)
            if self._saved < EVERY:
                return False
            self._saved = 0
            return True

    def give_back(self) -> None:
        """The query did not need to."""
        with self._lock:
            self._saved = EVERY
