"""Who waits, who is worked on, and who has to make way."""

from collections import deque
from functools import partial
from time import perf_counter
from typing import Final

from edgeai.engines.jobs import Job
from edgeai.engines.query import Query
from edgeai.engines.slots import Slot, Slots
from edgeai.engines.turns import Turns
from edgeai.errors import QueueFull

__all__ = ["Admission"]

_PATIENCE_S: Final = 0.2
"""How long a reader may pause before its sequence makes room for what waits."""


class Admission:
    """The queue, and the ``parallel`` places. Used under the scheduler's lock, or by its thread alone.

    What a person waits for comes before what runs in the background, and takes its place. Who makes way keeps
    its tokens, waits at the head of the queue, and goes on as if nothing had happened.
    """

    def __init__(self, slots: Slots, parallel: int, max_waiting: int, turns: Turns) -> None:
        self._slots, self._turns = slots, turns
        self._parallel = parallel
        self.max_waiting = max_waiting
        self.waiting: deque[Query | Job] = deque()
        self.live: list[Query] = []
        self.jobs: list[Job] = []

    def add(self, work: Query | Job) -> None:
        """Let the work wait. Raises QueueFull."""
        if len(self.waiting) >= self.max_waiting:
            raise QueueFull(
                f"{self.max_waiting} queries wait already", remedy="Try again later, or ask less at once"
            )
        self.waiting.append(work)

    def admit(self) -> None:
        """Start waiting work in its order, what a person waits for before what runs in the background."""
        self._turns.look()
        for work in sorted(self.waiting, key=lambda work: work.background):
            if isinstance(work, Query) and not work.wanted:
                continue  # it had to leave, and its reader still pauses
            if not self._turns.begin(work.adapter, is_free=partial(self._clear_for, work)):
                continue  # its adapter's turn comes when what runs has ended
            if self._is_full(work) and not self._movable(work):
                return
            if self._slots.expects(work.prompt, self._arriving(work), work.adapter):
                continue  # it need not compute what another one computes now
            slot = self._place(work)
            if slot is None:
                return
            self.waiting.remove(work)
            work.begin(slot)
            if isinstance(work, Query):
                self.live.append(work)
            else:
                self.jobs.append(work)

    def drop_cancelled(self) -> None:
        """End the queries that nobody wants any more; jobs end themselves."""
        for query in [query for query in self.live if query.cancelled]:
            self.end(query)
        for work in [work for work in self.waiting if work.cancelled]:
            self.waiting.remove(work)

    def end(self, work: Query | Job) -> None:
        """The work is over."""
        if isinstance(work, Job):
            self.jobs.remove(work)
            self._slots.release(work.slot)
        elif work in self.live:
            self.live.remove(work)
            self._slots.release(work.leave())

    def patience(self) -> float | None:
        """Seconds to wait for news: not for ever while a paused reader may keep others out."""
        return _PATIENCE_S if self.waiting and any(not query.wanted for query in self.live) else None

    def hold(self, query: Query, size: int) -> bool:
        """Give the query cells for ``size`` tokens; those who came last leave for it, or it does itself."""
        assert query.slot is not None
        while not self._slots.grow(query.slot, size):
            last = self._last()
            if last is None:
                return False  # all have what they will ever need, so it cannot be
            self._leave(last, crowded=True)
            if last is query:
                return False
        return True

    def thin_out(self) -> bool:
        """Let one leave, if it is not the only one: the cache is fuller than was reckoned."""
        last = self._last()
        if last is None or len(self.live) + len(self.jobs) < 2:
            return False
        self._leave(last, crowded=True)
        return True

    def _last(self) -> Query | None:
        """Who makes way when cells run out; who had to before, and has got all it needs, does not again."""
        movable = [query for query in self.live if not query.crowded]
        background = [query for query in movable if query.background]
        movable = background or movable
        return movable[-1] if movable else None

    def _arriving(self, work: Query | Job) -> list[Slot]:
        """The slots with prompts that are being computed, and not after this work."""
        return [
            query.slot
            for query in self.live
            if query.slot and query.pending > 1 and query.wanted and query.background <= work.background
        ]

    def _place(self, work: Query | Job) -> Slot | None:
        while True:
            if not self._is_full(work):
                slot = self._slots.acquire(work.prompt, work.need, adapter=work.adapter, fresh=work.fresh)
                if slot is not None:
                    return slot
            if not self._make_way(work):
                return None

    def _make_way(self, work: Query | Job) -> bool:
        """Let one who is worked on wait outside; false when nobody can."""
        movable = self._movable(work)
        if movable:
            self._leave(movable[0])
        return bool(movable)

    def _clear_for(self, work: Query | Job) -> bool:
        """Whether nothing runs any more, after all have left that may: all of them, or nobody leaves."""
        running: list[Query | Job] = [*self.jobs, *self.live]
        leaving = self._movable(work)
        if any(one not in leaving for one in running):
            return False
        for one in running:
            self._leave(one)
        return True

    def _movable(self, work: Query | Job) -> list[Query | Job]:
        """Who makes way for the work: the longest paused; for a person, who came last in the background.

        Jobs come last: they begin again, while a query goes on where it was.
        """
        end = perf_counter() - _PATIENCE_S
        paused = [
            (query.paused_since, number)
            for number, query in enumerate(self.live)
            if query.paused_since is not None and query.paused_since <= end and not query.wanted
        ]
        longest_paused = [self.live[number] for _, number in sorted(paused)]
        if work.background:
            return [*longest_paused]
        queries = [query for query in reversed(self.live) if query.background]
        return [*longest_paused, *queries, *(job for job in reversed(self.jobs) if job.background)]

    def _is_full(self, work: Query | Job) -> bool:
        """Whether no place is left; jobs in the background, which stand still, take none from a person."""
        jobs = [job for job in self.jobs if work.background or not job.background]
        return len(self.live) + len(jobs) >= self._parallel

    def _leave(self, work: Query | Job, *, crowded: bool = False) -> None:
        if isinstance(work, Job):
            self.jobs.remove(work)
            self._slots.rewind(work.slot, work.slot.n_past)  # it may have written beyond that
        else:
            work.crowded = work.crowded or crowded
            self.live.remove(work)
        self._slots.release(work.leave())
        self.waiting.appendleft(work)
