"""Whether an endpoint is worth asking, known from what happened last and without asking it.

A circuit breaker for each origin (scheme, host and port), shared by all of the process: closed while calls
succeed; open for a while when the last one found no connection, or three in a row failed; then half open:
one call tries and the others do not wait for it (Nygard, "Release It!", chapter 5).
"""

import threading
from collections.abc import Callable
from time import monotonic
from urllib.parse import urlsplit

__all__ = ["Breaker", "breaker_of", "forget_all", "is_reachable"]

FAILURES = 3
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 300.0
TRIAL_S = 120.0


class Breaker:
    """The memory of one endpoint. Safe from any thread; ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._wait_s = 0.0
        self._open_until: float | None = None
        self._trial_until = 0.0

    @property
    def allows(self) -> bool:
        """Whether a call may be made now; asks nobody."""
        with self._lock:
            return self._allows()

    def begin(self) -> bool:
        """Take the right to call; in the half-open state only one caller gets it."""
        with self._lock:
            if not self._allows():
                return False
            if self._open_until is not None:
                self._trial_until = self._clock() + TRIAL_S
            return True

    def succeeded(self) -> None:
        """The endpoint answered."""
        with self._lock:
            self._failures, self._wait_s = 0, 0.0
            self._open_until, self._trial_until = None, 0.0

    def failed(self, *, unconnected: bool) -> None:
        """The endpoint did not answer, or with an error of its own; ``unconnected``: nobody was there."""
        with self._lock:
            self._failures += 1
            self._trial_until = 0.0
            if unconnected or self._failures >= FAILURES:
                self._wait_s = min(max(FIRST_WAIT_S, 2 * self._wait_s), LONGEST_WAIT_S)
                self._open_until = self._clock() + self._wait_s

    def abandoned(self) -> None:
        """The call ended without telling anything of the endpoint."""
        with self._lock:
            self._trial_until = 0.0

    def _allows(self) -> bool:
        now = self._clock()
        return self._open_until is None or (now >= self._open_until and now >= self._trial_until)


_lock = threading.Lock()
_breakers: dict[str, Breaker] = {}


def breaker_of(url: str) -> Breaker:
    """The breaker of the URL's origin."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    with _lock:
        return _breakers.setdefault(origin, Breaker())


def is_reachable(url: str) -> bool:
    """Whether a call to the URL may be made now, as far as is known."""
    return breaker_of(url).allows


def forget_all() -> None:
    """Start afresh: for tests, and for an app that knows that the network has changed."""
    with _lock:
        _breakers.clear()
