"""The clocks of the governor: what other programs leave, read from recorded and from real files."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeai.engines.cores import Cores
from edgeai.engines.pace import Pace
from edgeai.engines.threads import Governor

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' /proc")
MINE = min(os.sched_getaffinity(0)) if sys.platform == "linux" else 0


def stat(idle: int, running: int = 1, waiting: int = 0) -> str:
    """A /proc/stat of 40 processors, of which only our first has been idle."""
    lines = [f"cpu{n} 5 0 5 {idle if n == MINE else 0} {waiting if n == MINE else 0} 0" for n in range(40)]
    return "\n".join(["cpu  1 2 3 4 5 6", *lines, "intr 1 2", f"procs_running {running}", "procs_blocked 0"])


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@linux
def test_idle_time_and_our_own_are_free(tmp_path: Path) -> None:
    """Half of the time one core idles, and this thread works: as many cores as that makes."""
    file = tmp_path / "stat"
    file.write_text(stat(100))
    cores = Cores(file)
    assert cores.free(1) is None
    began, cpu = time.perf_counter(), time.thread_time()
    spin(0.2)
    file.write_text(stat(105, waiting=5))
    free = cores.free(1)
    assert free is not None
    took, own = time.perf_counter() - began, time.thread_time() - cpu
    assert free == pytest.approx((0.1 + own) / took, rel=0.2)
    assert cores.free(1) is None  # too soon


@linux
@pytest.mark.parametrize("text", [None, "", "cpu0 0 0 0 0 0 0\nprocs_running 0", "nonsense"])
def test_where_nothing_can_be_read(tmp_path: Path, text: str | None) -> None:
    """No file, or zeros as in some sandboxes: unknown."""
    if text is not None:
        (tmp_path / "stat").write_text(text)
    cores = Cores(tmp_path / "stat")
    assert cores.free_now() is None
    cores.free(1)
    time.sleep(0.13)
    assert cores.free(1) is None


@linux
def test_who_runs_now(tmp_path: Path) -> None:
    """All tasks that run but this one take a core."""
    (tmp_path / "stat").write_text(stat(1, running=3))
    assert Cores(tmp_path / "stat").free_now() == (os.cpu_count() or 1) - 2


@linux
def test_another_program_takes_from_what_is_free() -> None:
    """A process that computes beside us leaves less than all cores, on the real files."""
    cores = Cores()
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.1)
        cores.restart()
        cores.free(1)
        spin(0.3)
        free = cores.free(1)
    finally:
        hog.kill()
        hog.wait()
    assert free is not None
    assert free < len(os.sched_getaffinity(0)) - 0.2


def test_a_fixed_number_stays() -> None:
    """Without `follow_load`, and with one thread, nothing is read and nothing changes."""
    for pace in (Pace(3, follow_load=False), Pace(1, follow_load=True)):
        n = pace.n_threads
        for _ in range(5):
            assert pace.begin() == n
            pace.end(1)
        assert pace._cores is None


def test_slow_steps_cost_threads() -> None:
    """Steps of a few milliseconds, then one of a tenth of a second: fewer threads for the next."""
    pace = Pace(4, follow_load=True)
    pace.begin()
    pace._governor, pace.n_threads = Governor(4), 4  # whatever runs on this machine just now
    for seconds in (*[0.002] * 6, 0.2):
        pace.begin()
        time.sleep(seconds)
        pace.end(1)
    assert pace.begin() < 4


def test_a_step_with_other_threads_is_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the session for fewer threads is loaded, steps are not held up by looks for free cores."""
    looks = itertools.count()

    def free_now() -> float:
        next(looks)
        return 1.0

    seen = SimpleNamespace(free=lambda n: None, free_now=free_now, restart=lambda: None)
    monkeypatch.setattr("edgeai.engines.pace.Cores", lambda: seen)
    clock = itertools.count(100, 0.3)
    monkeypatch.setattr("edgeai.engines.pace.perf_counter", lambda: next(clock))
    pace = Pace(2, follow_load=True)
    assert pace.begin() == 1
    pace.end_otherwise()
    before = next(looks)
    for _ in range(10):
        pace.begin()
        pace.end_otherwise()
    assert next(looks) == before + 1


@pytest.mark.parametrize(
    ("meanwhile", "now", "threads"),
    [
        (2.0, [2], 2),
        (0.9, [2], 2),
        (0.9, [2, 2, 2, 1, 2], 1),
        (2.0, [1], 1),
        (0.9, [1], 1),
        (None, [1], 1),
        (0.9, [None], 1),
        (None, [None], 2),
    ],
)
def test_after_a_pause(
    meanwhile: float | None, now: list[float | None], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cores where they are free this moment, in several looks if they were not; unknown: no change."""
    looks = itertools.cycle(now)
    seen = SimpleNamespace(free=lambda n: meanwhile, free_now=lambda: next(looks), restart=lambda: None)
    monkeypatch.setattr("edgeai.engines.pace.Cores", lambda: seen)
    assert Pace(2, follow_load=True).begin() == threads
