"""The number of threads of each step of one context: the governor, and the clocks it is fed with."""

from time import perf_counter, sleep
from typing import Final, Protocol

from edgeai.engines.cores import Cores
from edgeai.engines.threads import Governor

__all__ = ["Pace", "Pacing", "SamePace"]

_PAUSE_S: Final = 0.5
_TAKEN: Final = 0.5  # of a core
_LOOKS: Final = 5
_BETWEEN_S: Final = 0.002


class Pacing(Protocol):
    """What a context asks before and after each step: see `Pace`."""

    n_threads: int

    def begin(self) -> int:
        """A step begins: how many threads it should use."""
        ...

    def end(self, n_tokens: int) -> None:
        """The step is done."""
        ...

    def end_otherwise(self) -> None:
        """The step is done, with another number of threads than was asked for."""
        ...


class SamePace:
    """As many threads as another context uses just now."""

    def __init__(self, other: Pacing) -> None:
        self._other = other
        self.n_threads = other.n_threads

    def begin(self) -> int:
        """A step begins: how many threads it should use."""
        self.n_threads = self._other.n_threads
        return self.n_threads

    def end(self, n_tokens: int) -> None:
        """Its steps say nothing of the other's."""

    def end_otherwise(self) -> None:
        """Nor these."""


class Pace:
    """Called before and after each step, by the thread that computes.

    ``follow_load``: fewer than ``n_threads`` are used while other programs are busy.
    """

    def __init__(self, n_threads: int, *, follow_load: bool) -> None:
        self.n_threads = n_threads
        self._governor = Governor(n_threads) if follow_load and n_threads > 1 else None
        self._cores: Cores | None = None
        self._began = self._ended = 0.0
        self._limit: int | None = None
        self._obeyed: int | None = None

    def limit(self, n_threads: int) -> None:
        """At most so many, from the next step on. Safe from any thread."""
        self._limit = n_threads

    def begin(self) -> int:
        """A step begins: how many threads it should use."""
        if self._governor is not None:
            self._obey(self._governor)
            self._began = perf_counter()
            if self._began - self._ended > _PAUSE_S:
                self._resume(self._governor)
        return self.n_threads

    def end(self, n_tokens: int) -> None:
        """The step is done. One that failed or was stopped says nothing, and should not be told."""
        if self._governor is None or self._cores is None:
            return
        self._ended = perf_counter()
        free = self._cores.free(self.n_threads)
        self._governor.note(self._ended - self._began, n_tokens, free)
        if self._governor.n_threads != self.n_threads:
            self._cores.restart()
            self.n_threads = self._governor.n_threads

    def end_otherwise(self) -> None:
        """The step is done, with all threads, as fewer cannot be had yet: no pause, and no news of fewer.

        Cores that are free meanwhile are.
        """
        if self._governor is None or self._cores is None:
            return
        before, self._ended = self._ended, perf_counter()
        self._governor.pass_over(self._ended - before, self._cores.free(self._governor.top))
        self.n_threads = self._governor.n_threads

    def _obey(self, governor: Governor) -> None:
        if self._limit is None or self._limit == self._obeyed:
            return
        self._obeyed = self._limit
        governor.limit(self._obeyed)
        if governor.n_threads != self.n_threads and self._cores is not None:
            self._cores.restart()
        self.n_threads = governor.n_threads

    def _resume(self, governor: Governor) -> None:
        """A neighbour that sleeps just now may have been busy during the pause, and the other way round."""
        first = self._cores is None
        if self._cores is None:
            self._cores = Cores()  # now, as its clocks are those of this thread
        free = _after_pause(self._cores, self.n_threads)
        governor.resume(free, 0.0 if first else self._began - self._ended)
        self._cores.restart()
        self.n_threads = governor.n_threads


def _after_pause(cores: Cores, n_threads: int) -> float | None:
    """Free cores. One that was taken during the pause counts if it is free in some looks, one after another.

    They take 8 ms, and only where the two differ; to compute with too few threads until the governor has
    found out costs a quarter of a second.
    """
    meanwhile, now = cores.free(n_threads), cores.free_now()
    if meanwhile is None or now is None:
        return meanwhile if now is None else now
    for _ in range(_LOOKS - 1):
        if now < meanwhile + _TAKEN:
            return min(meanwhile, now)
        sleep(_BETWEEN_S)
        now = min(now, cores.free_now() or 0.0)
    return now if now >= meanwhile + _TAKEN else min(meanwhile, now)
