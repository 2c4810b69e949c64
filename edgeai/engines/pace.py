"""The number of threads of each step of one context: the governor, and the clocks it is fed with."""

from time import perf_counter
from typing import Final, Protocol

from edgeai.engines.cores import Cores
from edgeai.engines.threads import Governor

__all__ = ["Pace", "Pacing", "SamePace"]

_PAUSE_S: Final = 0.5


class Pacing(Protocol):
    """What a context asks before and after each step: see `Pace`."""

    n_threads: int

    def begin(self) -> int:
        """A step begins: how many threads it should use."""
        ...

    def end(self, n_tokens: int) -> None:
        """The step is done."""
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


class Pace:
    """Called before and after each step, by the thread that computes.

    ``follow_load``: fewer than ``n_threads`` are used while other programs are busy.
    """

    def __init__(self, n_threads: int, *, follow_load: bool) -> None:
        self.n_threads = n_threads
        self._governor = Governor(n_threads) if follow_load and n_threads > 1 else None
        self._cores: Cores | None = None
        self._began = self._ended = 0.0

    def begin(self) -> int:
        """A step begins: how many threads it should use."""
        if self._governor is not None:
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

    def _resume(self, governor: Governor) -> None:
        """A neighbour that sleeps just now may have been busy during the pause, and the other way round."""
        if self._cores is None:
            self._cores = Cores()  # now, as its clocks are those of this thread
        seen = (self._cores.free(self.n_threads), self._cores.free_now())
        governor.resume(min((free for free in seen if free is not None), default=None))
        self._cores.restart()
        self.n_threads = governor.n_threads
