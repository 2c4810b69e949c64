"""How many threads to compute with, between two steps: a state machine, fed with what each step took.

Threads that compute one step wait for one another some hundred times. When another program takes the core
of one, all wait, spinning, until the system has given it back: on two cores a token of 8 ms takes up to
3.5 s, where one thread would take 10. So threads are given up at once, and taken again only where cores are
idle, for a trial of some steps, rarer and rarer while trials fail.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

__all__ = ["Governor"]

_KEPT: Final = 32  # steps of which the median is what a step usually takes
_FEWEST: Final = 3  # steps that make such a median
_PROMPT: Final = 8  # tokens; steps with as many or more are alike, by the token
_TRIAL: Final = 8  # steps with more threads
_LOOK: Final = 4  # steps with fewer
_BETTER: Final = 0.95  # of the time with fewer threads: more must give at least that

_IDLE: Final = 0.8  # of a core; the rest is what a quiet system does by itself
_PARTLY_IDLE: Final = 0.3
_TAKEN: Final = 0.5

_SOON_S: Final = 0.25
_LATE_S: Final = 32.0
_RARER: Final = 8  # times as long to wait where cores are only partly idle, or nobody knows
_FIRST_LOOK_S: Final = 2.0
_LAST_LOOK_S: Final = 64.0
_GOOD_STAY_S: Final = 1.0
_COLD: Final = 0.9  # of a step: what the first one after a pause may lose at most, its caches being cold

_log = logging.getLogger("edgeai.engines")


@dataclass(slots=True)
class _Trial:
    """Some steps with another count: ``ratios`` of their time to what is usual with ``home`` threads."""

    home: int
    ratios: list[float] = field(default_factory=list)
    steps: int = 0


class Governor:
    """Between 1 and ``most`` threads; ``n_threads`` are to be used for the next step. There are ``top``.

    Its time is that of the steps. Free cores are those which idle, and those which this engine keeps busy.
    """

    def __init__(self, most: int) -> None:
        self.top = self.most = self.n_threads = most
        self._times: defaultdict[tuple[int, int], deque[float]] = defaultdict(lambda: deque(maxlen=_KEPT))
        self._trial: _Trial | None = None
        self._free: float | None = None
        self._now = self._since = self._lost = 0.0
        self._wait_s, self._fell = _SOON_S, 0.0
        self._cold = False
        self._look_s, self._looked = _FIRST_LOOK_S, 0.0

    def resume(self, free: float | None, pause_s: float = 0.0) -> None:
        """Before the first step, and after a pause: what is known of the past is no longer so.

        To wait for another trial one may as well pause.
        """
        self._cold = True
        if free is None or self.most == 1:
            return
        self._now += pause_s
        self._since += pause_s
        self._free = free
        may = self.most if self._now >= self._fell + self._wait_s or not self._now else self.n_threads
        self._trial = None
        self._become(min(may, _whole(free)), f"{free:.1f} cores are free after a pause")

    def limit(self, most: int) -> None:
        """At most so many from now on; when they become more again, those are tried as ever."""
        self.most = max(1, min(most, self.top))
        if self._trial is not None:  # it would go back to what may be more
            self._return(self._trial)
        if self.n_threads > self.most:
            self._become(self.most, f"{self.most} are allowed")

    def note(self, seconds: float, n_tokens: int, free: float | None = None) -> None:
        """A step of ``n_tokens`` took ``seconds``; ``free`` cores were seen lately, None for no news."""
        if self.most == 1:
            return
        self._now += seconds
        self._free = self._free if free is None else free
        kind, cost = min(n_tokens, _PROMPT), seconds / n_tokens
        if self._trial is not None:
            self._go_on(self._trial, kind, cost)
        elif self._loses(kind, cost):
            self._retreat("steps are slow")
        else:
            self._times[self.n_threads, kind].append(cost)
            self._consider(kind, free)

    def pass_over(self, seconds: float, free: float | None = None) -> None:
        """A step had all threads, as ``n_threads`` cannot be had yet: a look at fewer can wait.

        Fewer are still wanted, until more cores are free.
        """
        if self._trial is not None:
            self._looked, self._look_s = self._now, min(2 * self._look_s, _LAST_LOOK_S)
            self._return(self._trial)
        if free is None:
            self._now += seconds
        else:
            self.resume(free, seconds)

    # with the present count

    def _loses(self, kind: int, cost: float) -> bool:
        """Whether steps have lost the time of a whole step against what fewer threads would take."""
        own = self._usual(self.n_threads, kind)
        if own is None or self.n_threads == 1:
            return False
        fewer = self._usual(_fewer(self.n_threads), kind) or 1.5 * own
        bar = min(max(fewer, 1.15 * own), 1.5 * own)
        lost = cost / bar - 1
        self._lost = max(0.0, self._lost + (min(lost, _COLD) if self._cold else lost))
        self._cold = False
        return self._lost > 1

    def _retreat(self, why: str) -> None:
        stayed = self._now - self._since
        self._wait_s = _SOON_S if stayed > max(_GOOD_STAY_S, self._wait_s) else self._rarer()
        self._fell = self._now
        n, free = self.n_threads, self._free
        is_known = free is not None and free < n - _TAKEN
        target = min(_whole(free), n - 1) if free is not None and is_known else _fewer(n)
        for count, kind in tuple(self._times):  # measured among fewer neighbours
            if count > target:
                del self._times[count, kind]
        self._become(target, why)

    def _consider(self, kind: int, free: float | None) -> None:
        n = self.n_threads
        if free is not None and n > 1 and free < n - _TAKEN:
            self._retreat(f"{free:.1f} cores are free")
        elif len(self._times[n, kind]) < _FEWEST:
            return
        elif n < self.most and self._may_rise(free):
            more = n + 1 if self._free is None else max(n + 1, min(self.most, _whole(self._free)))
            self._try(more)
        elif n > 1 and self._now >= self._looked + self._look_s:
            self._try(_fewer(n))

    def _may_rise(self, free: float | None) -> bool:
        waited = self._now - self._fell
        if free is None:  # no news; or nobody ever knows
            return self._free is None and waited >= _RARER * self._wait_s
        spare = free - self.n_threads
        patience = 1 if spare >= _IDLE else _RARER
        return spare >= _PARTLY_IDLE and waited >= patience * self._wait_s

    # with another count, for some steps

    def _try(self, n_threads: int) -> None:
        self._trial = _Trial(self.n_threads)
        self.n_threads = n_threads

    def _go_on(self, trial: _Trial, kind: int, cost: float) -> None:
        trial.steps += 1
        self._times[self.n_threads, kind].append(cost)
        usual = self._usual(trial.home, kind)
        if usual is not None:
            trial.ratios.append(cost / usual)
        if self.n_threads > trial.home:
            self._end_rise(trial)
        elif len(trial.ratios) >= _LOOK or trial.steps >= 4 * _LOOK:
            self._end_look(trial)

    def _end_rise(self, trial: _Trial) -> None:
        """More threads stay if the steps were shorter; they go as soon as the time of a step is lost."""
        lost = sum(max(0.0, ratio - 1) for ratio in trial.ratios)
        if lost <= 1 and len(trial.ratios) < _TRIAL and trial.steps < 4 * _TRIAL:
            return
        if lost <= 1 and _is_below(trial.ratios, _BETTER):
            self._settle(trial, "more threads are faster")
            return
        self._wait_s, self._fell = self._rarer(), self._now
        self._return(trial)

    def _end_look(self, trial: _Trial) -> None:
        """Fewer threads stay if the steps were not longer."""
        self._looked = self._now
        if _is_below(trial.ratios, 1.0):
            self._look_s = _FIRST_LOOK_S
            self._wait_s, self._fell = self._rarer(), self._now
            self._settle(trial, "fewer threads are as fast")
            return
        self._look_s = min(2 * self._look_s, _LAST_LOOK_S)
        self._return(trial)

    def _settle(self, trial: _Trial, why: str) -> None:
        count, self.n_threads, self._trial = self.n_threads, trial.home, None
        self._become(count, why)

    def _return(self, trial: _Trial) -> None:
        if self.n_threads > trial.home:
            for key in [key for key in self._times if key[0] == self.n_threads]:
                del self._times[key]
        self.n_threads, self._trial = trial.home, None

    # what is common

    def _become(self, n_threads: int, why: str) -> None:
        n_threads = min(max(n_threads, 1), self.most)
        if n_threads != self.n_threads:
            _log.debug("from %d to %d threads: %s", self.n_threads, n_threads, why)
            self._since = self._now
        self.n_threads, self._lost = n_threads, 0.0

    def _usual(self, n_threads: int, kind: int) -> float | None:
        """Seconds a token of such steps, the median of the last."""
        times = self._times.get((n_threads, kind))
        return median(times) if times is not None and len(times) >= _FEWEST else None

    def _rarer(self) -> float:
        return min(2 * self._wait_s, _LATE_S)


def _fewer(n_threads: int) -> int:
    return n_threads - max(1, n_threads // 4)


def _whole(free: float) -> int:
    """Cores that may be counted on."""
    return max(1, int(free + 1 - _IDLE))


def _is_below(ratios: Sequence[float], bar: float) -> bool:
    return len(ratios) >= _FEWEST and median(ratios) < bar
