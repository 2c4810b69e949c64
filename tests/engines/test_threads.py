"""The governor among simulated neighbours, with the times that were measured beside real ones."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles

import pytest

from edgeai.engines.threads import Governor

Times = dict[int, Callable[[random.Random], float]]
WINDOW_S = 0.12


def around(milliseconds: float, spread: float = 0.06) -> Callable[[random.Random], float]:
    """Steps of about that long."""
    return lambda rng: milliseconds / 1e3 * (1 + abs(rng.gauss(0, spread)))


def torn(usual: float, stall: float, share: float) -> Callable[[random.Random], float]:
    """Some of the steps wait until their core comes back."""
    return lambda rng: (stall * rng.uniform(0.5, 2) if rng.random() < share else usual) / 1e3


@dataclass(frozen=True)
class Neighbour:
    """What steps take beside it with one and two threads, and the cores it leaves."""

    times: Times
    free: float


NONE = Neighbour({1: around(10.4), 2: around(7.6)}, 1.95)
SPINNER = Neighbour({1: around(10.3), 2: torn(15.6, 100, 0.12)}, 1.0)
ONE_A_CORE = Neighbour({1: torn(14, 23, 0.2), 2: torn(15.6, 300, 0.12)}, 0.7)
TWO_A_CORE = Neighbour({1: around(27), 2: torn(347, 1500, 0.3)}, 0.45)
BLAS = Neighbour({1: around(17.5), 2: torn(17, 900, 0.17)}, 0.6)
STEADY = {"none": NONE, "spinner": SPINNER, "core": ONE_A_CORE, "two": TWO_A_CORE, "blas": BLAS}


@dataclass
class Run:
    """Steps on a simulated machine; `free` says what a reading tells."""

    governor: Governor
    reads: bool = True
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    now: float = 0.0
    read_at: float = 0.0
    steps: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def step(self, beside: Neighbour) -> None:
        n = self.governor.n_threads
        took = beside.times[n](self.rng)
        self.now += took
        free = None
        if self.reads and self.now - self.read_at >= WINDOW_S:
            self.read_at, free = self.now, beside.free + self.rng.uniform(-0.1, 0.1)
        self.governor.note(took, 1, free)
        if self.governor.n_threads != n:
            self.read_at = self.now
        self.steps.append(took)
        self.counts.append(n)

    def until(self, end: float, beside: Callable[[float], Neighbour]) -> "Run":
        while self.now < end:
            self.step(beside(self.now))
        return self

    @property
    def rate(self) -> float:
        return len(self.steps) / sum(self.steps)


def fixed(n: int, end: float, beside: Callable[[float], Neighbour]) -> Run:
    """The same with one count all the time."""
    governor = Governor(n)
    governor.most = 1  # never changes
    return Run(governor).until(end, beside)


def p99(run: Run) -> float:
    return quantiles(run.steps, n=100)[98]


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.parametrize("looks", [True, False])
def test_beside_each_neighbour(name: str, looks: bool) -> None:  # noqa: FBT001
    """At least 0.95 of the better fixed count's speed, and no longer tail; whether one looks first or not."""
    run = Run(Governor(2))
    if looks:
        run.governor.resume(STEADY[name].free)
    run.until(20, lambda _: STEADY[name])
    rivals = [fixed(n, 20, lambda _: STEADY[name]) for n in (1, 2)]
    best = max(rivals, key=lambda rival: rival.rate)
    assert run.rate >= (0.95 if looks else 0.85) * best.rate
    assert p99(run) <= 1.5 * p99(best)


@pytest.mark.parametrize("busy", [SPINNER, ONE_A_CORE, BLAS])
def test_a_neighbour_that_comes_and_goes(busy: Neighbour) -> None:
    """Every five seconds: better than either fixed count."""

    def beside(now: float) -> Neighbour:
        return busy if now % 10 < 5 else NONE

    run = Run(Governor(2)).until(60, beside)
    assert run.rate > 1.03 * max(fixed(n, 60, beside).rate for n in (1, 2))


def test_one_slow_step_is_enough() -> None:
    """A step of twelve times the usual costs a thread at once."""
    run = Run(Governor(2)).until(1, lambda _: NONE)
    assert run.governor.n_threads == 2
    run.step(Neighbour({2: around(90)}, 1.0))
    assert run.governor.n_threads == 1


def test_the_neighbour_leaves() -> None:
    """Half a second later all cores are used again."""
    run = Run(Governor(2))
    run.governor.resume(1.0)
    run.until(5, lambda _: SPINNER)
    assert set(run.counts) == {1}
    run.until(5.5, lambda _: NONE)
    assert run.governor.n_threads == 2


def test_waits_go_on_during_a_pause() -> None:
    """Trials that failed delay the next one; after a pause as long, idle cores are used at once."""
    run = Run(Governor(2)).until(1, lambda _: NONE)
    run.step(Neighbour({2: around(90)}, 1.0))
    run.governor.resume(2.0, pause_s=0.1)
    assert run.governor.n_threads == 1
    run.governor.resume(2.0, pause_s=1.0)
    assert run.governor.n_threads == 2


def test_trials_become_rare_while_they_fail() -> None:
    """Cores that seem idle and are not (a quota throttles): fewer than one step in a hundred finds out."""
    liar = Neighbour({1: around(10), 2: torn(30, 90, 0.5)}, 1.95)
    run = Run(Governor(2)).until(60, lambda _: liar)
    late = run.counts[len(run.counts) // 4 :]
    assert late.count(2) < len(late) / 100
    assert late.count(2) > 0


def test_fewer_threads_where_more_gain_nothing() -> None:
    """Memory is the limit, or cores are halves of one: found by looking, and kept."""
    twins = Neighbour({1: around(10), 2: around(10.8)}, 1.95)
    run = Run(Governor(2)).until(30, lambda _: twins)
    late = run.counts[len(run.counts) // 2 :]
    assert late.count(2) < len(late) / 10


def test_what_cannot_be_had_is_not_looked_at_and_wanted_only_beside_others() -> None:
    """Where fewer threads have no session yet, a look ends at once; a neighbour is still made room for."""
    governor = Governor(2)
    governor.resume(2.0)
    wanted = 0
    for _ in range(2000):  # 20 s
        if governor.n_threads == 2:
            governor.note(0.01, 1, 2.0)
        else:
            wanted += 1
            governor.pass_over(0.01, 2.0)
    assert 0 < wanted <= 5
    while governor.n_threads == 2:
        governor.note(0.04, 1, 1.0)
    governor.pass_over(0.04, 1.0)
    assert governor.n_threads == 1
    for _ in range(100):
        governor.pass_over(0.01, 2.0)
    assert governor.n_threads == 2


def test_without_readings() -> None:
    """Where the system tells nothing, slow steps alone decide; it goes up again now and then."""
    run = Run(Governor(2), reads=False).until(10, lambda _: BLAS)
    assert run.counts[-200:].count(1) >= 180
    run.until(60, lambda _: NONE)
    assert run.governor.n_threads == 2


def test_many_cores_keep_all_but_the_busy_ones() -> None:
    """One busy core of 16 costs one thread or few, not half of them."""
    times: Times = {n: around(60 / n) for n in range(1, 16)} | {16: torn(3.8, 30, 0.3)}
    run = Run(Governor(16))
    run.until(1.9, lambda _: Neighbour({n: around(60 / n) for n in range(1, 17)}, 15.9))
    assert run.governor.n_threads == 16
    run.until(10, lambda _: Neighbour(times, 15.0))
    assert 14 <= run.governor.n_threads <= 15


def test_prompts_and_batches_are_judged_by_their_own() -> None:
    """A prompt's step takes fifty times as long, and one of four sequences twice: no reason to retreat."""
    governor = Governor(2)
    for _ in range(20):
        governor.note(0.04, 128)
        governor.note(0.008, 1)
        governor.note(0.016, 4)
        assert governor.n_threads == 2


def test_one_thread_stays_one() -> None:
    """Where there is one core there is nothing to decide."""
    governor = Governor(1)
    governor.resume(0.2)
    for seconds in (0.01, 4.0, 0.01):
        governor.note(seconds, 1, 0.1)
    assert governor.n_threads == 1


def test_a_limit_holds_until_it_is_lifted() -> None:
    """Fewer at once, whatever is free; afterwards more are tried as after any neighbour that has left."""
    governor = Governor(4)
    governor.note(0.1, 1, 4.0)
    governor.limit(2)
    assert governor.n_threads == 2
    for _ in range(200):
        governor.note(0.1, 1, 4.0)
        assert governor.n_threads <= 2
    governor.limit(100)
    assert governor.most == 4
    for _ in range(200):
        governor.note(0.05 if governor.n_threads == 4 else 0.1, 1, 4.0)
    assert governor.n_threads == 4


def test_the_first_step_after_a_pause_is_cold() -> None:
    """It may take long with nobody around, and says nothing of threads; two slow ones do."""
    governor = Governor(2)
    for _ in range(20):
        governor.note(0.007, 1, 2.0)
    governor.resume(2.0, 0.6)
    governor.note(0.030, 1, 2.0)
    assert governor.n_threads == 2
    for _ in range(20):
        governor.note(0.007, 1, 2.0)
    assert governor.n_threads == 2
    governor.resume(2.0, 0.6)
    for _ in range(2):
        governor.note(0.030, 1)
    assert governor.n_threads == 1


def test_a_limit_ends_a_look_at_fewer() -> None:
    """Which would go back, at its end, to the number that is no longer allowed."""
    governor = Governor(4)
    while governor.n_threads == 4:
        governor.note(0.1, 1, 4.0)
    governor.limit(3)
    for _ in range(40):
        governor.note(0.2, 1, 4.0)
        assert governor.n_threads <= 3
