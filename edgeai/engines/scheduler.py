"""The one thread that owns the context: it admits, batches, decodes, and hands out tokens.

A loop step decodes one token of every sequence whose reader keeps up, and prefills the prompts that are new.
Readers only ever touch the queue, under ``_changed``; the context is never shared.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final, Protocol

from edgeai.engines.generation import Generation
from edgeai.engines.jobs import Job
from edgeai.engines.query import Query
from edgeai.engines.slots import Cache, Slots
from edgeai.engines.turns import Turns
from edgeai.errors import EngineCrashed, EngineError, QueueFull

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ABORTED", "MAX_WAITING", "Context", "Scheduler"]

ABORTED: Final = 2
"""What `Context.decode` returns after `Context.abort`."""

MAX_WAITING: Final = 256
"""Queries that may wait for a sequence."""

_POLITE_PREFILL: Final = 64
"""Tokens of new prompts in one step while others are being answered, so that those go on smoothly."""


class Context(Cache, Protocol):
    """One native context: a batch, the KV cache of its sequences, and the outputs of the last decode.

    It belongs to the scheduler's thread, except for `abort` and `proceed`. A batch holds ``n_batch`` tokens.
    """

    n_batch: int
    n_tokens: int

    def add(self, tokens: Sequence[int], start: int, seq: int, *, outputs: int = 0) -> int:
        """Append ``tokens`` of sequence ``seq`` from position ``start``; the last ``outputs`` give logits.

        Returns the row of the last one.
        """
        ...

    def decode(self) -> int:
        """Run the batch and empty it: 0 is success, `ABORTED`, or something else that has failed."""
        ...

    def failure(self, code: int) -> EngineError:
        """What that something was."""
        ...

    def logits(self, row: int) -> "NDArray[np.float32]":
        """The raw logits of ``row``, valid until the next decode."""
        ...

    def set_states(self, *, on: bool) -> None:
        """With it, `decode` gives the hidden states, too; every token of the batch may then be an output."""
        ...

    def state(self, row: int) -> "NDArray[np.float32] | None":
        """The last layer's state of ``row``, valid until the next decode; None if the model gives none."""
        ...

    def abort(self) -> None:
        """Stop the running decode, and later ones, until `proceed`. Safe from any thread."""
        ...

    def proceed(self) -> None:
        """Let decodes run again."""
        ...

    def free(self) -> None:
        """Give the memory back; the context is unusable afterwards."""
        ...


_PATIENCE_S: Final = 0.2
"""How long a reader may pause before its sequence makes room for what waits."""

_logger = logging.getLogger("edgeai.engines")


@dataclass(slots=True)
class _Step:
    """A batch in the making: whose tokens it holds, and where their logits will be."""

    began: float = field(default_factory=perf_counter)
    rows: list[tuple[Query, int]] = field(default_factory=list)
    fed: list[tuple[Query, int]] = field(default_factory=list)
    states: bool = False


class Scheduler:
    """Starts its thread, named after the engine; ``close`` ends it, which frees the context.

    ``at_end`` is called when the context is gone. ``carry`` makes the context carry another adapter, of which
    it can have one at a time: see `Turns`.
    """

    def __init__(
        self,
        context: Context,
        slots: Slots,
        at_end: Callable[[], None] = lambda: None,
        *,
        name: str,
        max_waiting: int = MAX_WAITING,
        carry: Callable[[str | None], None] = lambda adapter: None,
    ) -> None:
        self._turns = Turns(carry)
        self._context = context
        self._at_end = at_end
        self._slots = slots
        self._untold: list[Generation] = []
        self._max_waiting = max_waiting
        self._changed = threading.Condition()  # re-entrant: a dying Generation may call `wake` anywhere
        self._waiting: deque[Query | Job] = deque()
        self._live: list[Query] = []
        self._jobs: list[Job] = []
        self._decoding: list[Query] = []
        self._closing = False
        self._idle = True
        self._news = False
        self._thread = threading.Thread(target=self._main, name=f"edgeai-{name}", daemon=True)
        self._thread.start()

    # from any thread

    def submit(self, work: Query | Job) -> None:
        """Queue the work. Raises QueueFull, or EngineCrashed when the thread is gone."""
        with self._changed:
            if self._closing or not self._thread.is_alive():
                raise EngineCrashed("The engine is closed", remedy="Open the model again")
            if len(self._waiting) >= self._max_waiting:
                raise QueueFull(
                    f"{self._max_waiting} queries wait already", remedy="Try again later, or ask less at once"
                )
            self._waiting.append(work)
            self._news = True
            self._changed.notify()

    def wake(self, query: Query | Job) -> None:
        """The work was cancelled, or its reader reads again."""
        with self._changed:
            if query in self._decoding and query.cancelled:
                self._context.abort()
            self._news = True
            self._changed.notify()

    def close(self) -> None:
        """Cancel everything, end the thread and wait for it. May be called again."""
        with self._changed:
            self._closing = True
            self._context.abort()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # the owner thread

    def _main(self) -> None:
        try:
            while (step := self._prepare()) is not None:
                jobs = tuple(self._jobs)
                self._tell()
                if step.fed:
                    self._run(step)
                for job in jobs:
                    self._tell()
                    self._advance(job)
                self._idle = not step.fed and not jobs
        finally:
            self._bury()

    def _prepare(self) -> _Step | None:
        """The next batch, after waiting for news if there is nothing to do; None at the end.

        Who leaves before is not in it; who leaves later finds itself in ``_decoding`` and aborts it.
        """
        with self._changed:
            while self._idle and not self._news and not self._closing:
                if not self._changed.wait(self._patience()):
                    break
            if self._closing:
                return None
            if self._news:
                self._news = False
                self._drop_cancelled()
            if self._waiting:
                self._admit()
            step = self._fill()
            self._decoding = [query for query, _ in step.fed]
            self._context.proceed()
            return step

    def _drop_cancelled(self) -> None:
        for query in [query for query in self._live if query.cancelled]:
            self._end(query)
        if any(work.cancelled for work in self._waiting):
            self._waiting = deque(work for work in self._waiting if not work.cancelled)

    def _admit(self) -> None:
        """Start waiting work in its order, what a person waits for before what runs in the background."""
        self._turns.look()
        for work in sorted(self._waiting, key=lambda work: work.background):
            if isinstance(work, Query) and not work.wanted:
                continue  # it had to leave, and its reader still pauses
            if not self._turns.begin(work.adapter, is_free=partial(self._make_way, work)):
                continue
            slot = self._slots.acquire(work.prompt, work.need, work.adapter)
            while slot is None and self._evict():
                slot = self._slots.acquire(work.prompt, work.need, work.adapter)
            if slot is None:
                return
            work.begin(slot)
            self._waiting.remove(work)
            if isinstance(work, Query):
                self._live.append(work)
            else:
                self._jobs.append(work)

    def _make_way(self, work: Query | Job) -> bool:
        """Whether nothing runs any more, after what is paused has left, and the background for a person."""
        staying = [query for query in self._live if not self._may_leave(query, work)]
        if staying or self._jobs:
            return False
        for query in list(self._live):
            self._step_out(query)
            self._waiting.appendleft(query)
        return True

    def _may_leave(self, query: Query, work: Query | Job) -> bool:
        if query.background and not work.background:
            return True
        since = query.paused_since
        return since is not None and since <= perf_counter() - _PATIENCE_S and not query.wanted

    def _patience(self) -> float | None:
        """Seconds to wait for news: not for ever while a paused reader may keep others out."""
        return _PATIENCE_S if self._waiting and any(not query.wanted for query in self._live) else None

    def _evict(self) -> bool:
        """Let the longest paused sequence wait outside until its reader reads again."""
        end = perf_counter() - _PATIENCE_S
        paused = [
            (query.paused_since, number)
            for number, query in enumerate(self._live)
            if query.paused_since is not None and query.paused_since <= end and not query.wanted
        ]
        if not paused:
            return False
        query = self._live[min(paused)[1]]
        self._step_out(query)
        self._waiting.appendleft(query)
        return True

    def _step_out(self, query: Query) -> None:
        """Take the query's slot; it keeps what it has come to, and begins again later."""
        self._live.remove(query)
        self._slots.release(query.leave())

    def _tell(self) -> None:
        """Wake the readers of new tokens: just before a decode, when this thread lets others run anyway.

        Woken earlier, they would wait for the interpreter's lock, and each wait costs a switch of threads.
        """
        for generation in self._untold:
            generation.wake()
        self._untold.clear()

    def _run(self, step: _Step) -> None:
        self._context.set_states(on=step.states)
        code = self._context.decode()
        if code == 0:
            self._deliver(step)
        else:
            self._repair(step, code)

    def _fill(self) -> _Step:
        """One token of each sequence that is being answered, then as much of new prompts as is polite."""
        step = _Step()
        for query in self._live:
            query.note_pause(step.began)
        answering = [query for query in self._live if query.pending == 1 and query.wanted]
        for query in answering:
            row = self._feed(step, query, 1, outputs=1)
            step.rows.append((query, row))
            step.states = step.states or query.hidden
        # Where states are wanted, every token of the batch is an output, and those are few.
        outputs = len(answering) if step.states else 0
        room = _POLITE_PREFILL - outputs if answering else self._context.n_batch
        for query in self._live:
            size = min(room, query.pending - 1, self._context.n_batch - self._context.n_tokens)
            if size > 0 and query.wanted:
                self._feed(step, query, size, outputs=0)
                room -= size
        return step

    def _feed(self, step: _Step, query: Query, size: int, *, outputs: int) -> int:
        slot = query.slot
        assert slot is not None  # live queries have one
        step.fed.append((query, slot.n_past))
        tokens = slot.tokens[slot.n_past : slot.n_past + size]
        row = self._context.add(tokens, slot.n_past, slot.seq, outputs=outputs)
        slot.n_past += size
        return row

    def _deliver(self, step: _Step) -> None:
        if len(step.fed) > len(step.rows):
            for query, _ in step.fed:
                query.note_prefill()
        for query, row in step.rows:
            try:
                state = self._context.state(row) if query.hidden else None
                token = query.step(self._context.logits(row), step.began, state)
            except EngineError as error:
                self._fail(query, error)
                continue
            except Exception as error:  # a bug in one query must not end the others
                _logger.error("A query failed while its token was chosen", exc_info=error)
                crash = EngineCrashed("The query failed inside the engine", why=repr(error))
                crash.__cause__ = error
                self._fail(query, crash)
                continue
            if token is None:
                self._end(query)
                continue
            if query.slot is not None:
                query.slot.tokens.append(token)
            if (generation := query.generation()) is not None:
                self._untold.append(generation)

    def _repair(self, step: _Step, code: int) -> None:
        """Undo a batch that was not decoded, and fail its queries unless it can be done again."""
        for query, n_past in step.fed:
            if query.slot is not None:
                self._slots.rewind(query.slot, n_past)
        if code == ABORTED:
            return
        error = self._context.failure(code)
        for query, _ in step.fed:
            self._fail(query, error)
        self._slots.drop_idle()

    def _advance(self, job: Job) -> None:
        with self._changed:
            self._decoding = []  # only `close` may abort a job
            if not self._closing:
                self._context.proceed()
        self._context.set_states(on=False)
        if not job.advance():
            self._jobs.remove(job)
            self._slots.rewind(job.slot, job.slot.n_past)  # a batch that failed may have left something
            self._slots.release(job.slot)

    def _fail(self, query: Query, error: EngineError) -> None:
        generation = query.generation()
        if generation is not None:
            generation.fail(error)
        self._end(query)

    def _end(self, query: Query) -> None:
        self._live.remove(query)
        if query.slot is not None:
            self._slots.release(query.slot)
            query.slot = None

    def _bury(self) -> None:
        """Nobody may wait for a thread that is gone."""
        with self._changed:
            clean, self._closing = self._closing, True
            works = [*self._live, *self._jobs, *self._waiting]
            self._live, self._jobs, self._waiting = [], [], deque()
        try:
            for work in works:
                self._abandon(work, clean=clean)
        finally:
            self._context.free()
            self._at_end()

    def _abandon(self, work: Query | Job, *, clean: bool) -> None:
        try:
            work.abandon(None if clean else EngineCrashed("The engine's thread died", remedy="Open it again"))
        except Exception as error:  # the others must be settled too
            _logger.error("Work could not be ended in order", exc_info=error)
