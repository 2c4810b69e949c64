"""How many cores other programs leave to this thread's work: cheap, read some times a second."""

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Final

__all__ = ["Cores"]

_WINDOW_S: Final = 0.12  # systems count idle time in steps of 10 ms
_CHEAP: Final = 200  # times as long between two readings as one takes
_STAT: Final = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    idle_s: float
    process_s: float
    thread_s: float


class Cores:
    """Belongs to the thread that computes. ``stat`` is Linux' file of idle times."""

    def __init__(self, stat: Path = _STAT) -> None:
        self._idle_s = _idle_of(stat)
        self._count = len(_mine())
        self._stat = stat
        self._last: _Reading | None = None
        self._pause_s = _WINDOW_S

    def restart(self) -> None:
        """Measure from now on: the number of threads changes."""
        self._last = self._read(perf_counter())

    def free(self, n_threads: int) -> float | None:
        """Cores that idled or worked for us since the last reading; None when that is too short ago.

        ``n_threads`` compute, of which the calling one is the first; other threads of this process are
        neighbours like any others.
        """
        now, last = perf_counter(), self._last
        if last is not None and now - last.at < self._pause_s:
            return None
        self._last = reading = self._read(now)
        if last is None or reading is None:
            return None
        own = min(reading.process_s - last.process_s, n_threads * (reading.thread_s - last.thread_s))
        return (reading.idle_s - last.idle_s + own) / (reading.at - last.at)

    def others(self) -> float | None:
        """Cores that other programs used since the last reading; None where that cannot be read."""
        last, reading = self._last, self._read(perf_counter())
        if last is None or reading is None or reading.at == last.at:
            return None
        ours = reading.idle_s - last.idle_s + reading.process_s - last.process_s
        return max(0.0, self._count - ours / (reading.at - last.at))

    def free_now(self) -> float | None:
        """Cores on which nothing runs this moment, ours included; None where the system does not tell.

        One look: it knows nothing of who sleeps just now.
        """
        running = _running(self._stat)
        return None if running is None else (os.cpu_count() or 1) - max(0, running - 1)

    def _read(self, now: float) -> _Reading | None:
        idle_s = self._idle_s()
        self._pause_s = max(_WINDOW_S, _CHEAP * (perf_counter() - now))
        return None if idle_s is None else _Reading(now, idle_s, process_time(), thread_time())


def _mine() -> Collection[int]:
    """The processors that this process may use."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else range(os.cpu_count() or 1)


def _idle_of(stat: Path) -> Callable[[], float | None]:
    """How to read the seconds that all cores together have been idle."""
    if sys.platform == "linux":
        tick = os.sysconf("SC_CLK_TCK")
        names = frozenset(b"cpu%d" % cpu for cpu in _mine())
        return lambda: _idle_ticks(stat, names, tick)
    import psutil  # here, as Linux needs none of it

    return lambda: float(psutil.cpu_times().idle)


def _idle_ticks(stat: Path, names: frozenset[bytes], tick: int) -> float | None:
    total = 0
    for line in _lines(stat):
        if not line.startswith(b"cpu"):
            break
        name, *numbers = line.split()
        if name in names:
            total += int(numbers[3]) + int(numbers[4])  # idle, and waiting for a disk
    return total / tick if total else None  # a sandbox may show zeros


def _running(stat: Path) -> int | None:
    """Tasks that run or want to, this one among them."""
    for line in reversed(_lines(stat)):
        if line.startswith(b"procs_running"):
            return int(line.split()[1]) or None
    return None


def _lines(stat: Path) -> list[bytes]:
    try:
        return stat.read_bytes().splitlines()
    except OSError:
        return []
