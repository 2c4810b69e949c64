"""The one thread that owns the context: it batches, decodes, and hands out tokens.

A loop step decodes the next tokens of every sequence whose reader keeps up, and prefills the prompts that are
new. Readers only ever touch the queue, under ``_changed``; the context is never shared.
"""

import logging
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Final

from edgeai.engines.admission import Admission
from edgeai.engines.batch import Asked, Filler, Step
from edgeai.engines.context import ABORTED, FULL, Context
from edgeai.engines.draft import Drafter
from edgeai.engines.failures import failure_of
from edgeai.engines.generation import Generation
from edgeai.engines.jobs import Job
from edgeai.engines.query import Query
from edgeai.engines.slots import Slots
from edgeai.engines.speculate import Costs, Speculation
from edgeai.engines.turns import Turns
from edgeai.errors import EngineClosed, EngineCrashed, EngineError

__all__ = ["MAX_WAITING", "Scheduler"]

MAX_WAITING: Final = 256
"""Queries that may wait for a sequence."""

_logger = logging.getLogger("edgeai.engines")


class Scheduler:
    """Starts its thread, named after the engine; ``close`` ends it, which frees the context.

    ``parallel`` queries and jobs are worked on at once. ``speculates``: tokens may be guessed ahead, also by
    the ``drafter``, whose memory the engine gives back. ``at_end`` is called when the context is gone.
    ``carry`` makes the context carry another adapter, of which it can have one at a time: see `Turns`.
    """

    def __init__(
        self,
        context: Context,
        slots: Slots,
        at_end: Callable[[], None] = lambda: None,
        *,
        name: str,
        parallel: int,
        speculates: bool = False,
        drafter: Drafter | None = None,
        max_waiting: int = MAX_WAITING,
        carry: Callable[[str | None], None] = lambda adapter: None,
    ) -> None:
        self._context = context
        self._at_end = at_end
        self._slots = slots
        self._untold: list[Generation] = []
        self._changed = threading.Condition()  # re-entrant: a dying Generation may call `wake` anywhere
        self._admission = Admission(slots, parallel, max_waiting, Turns(carry))
        self._waiting = self._admission.waiting
        self._live = self._admission.live
        self._jobs = self._admission.jobs
        costs = Costs() if drafter is None else drafter.costs
        speculation = Speculation(costs) if speculates else None
        self._filler = Filler(context, slots, self._admission, costs, speculation, drafter)
        self._decoding: list[Query] = []
        self._closing = False
        self._idle = True
        self.pulse: float | None = None
        """When the step began that is being computed, None while none is."""
        self._news = False
        self._thread = threading.Thread(target=self._main, name=f"edgeai-{name}", daemon=True)
        self._thread.start()

    # from any thread

    def submit(self, work: Query | Job) -> None:
        """Queue the work. Raises QueueFull, or EngineCrashed when the thread is gone.

        What a person waits for does not wait for a batch in the background: that is done again.
        """
        with self._changed:
            if self._closing:
                raise EngineClosed("The engine is closed", remedy="Open the model again")
            if not self._thread.is_alive():
                raise EngineCrashed(
                    "The engine's thread is not here",
                    why="It died, or this process was forked from the one that opened the model",
                    remedy="Open the model again, after a fork in each process",
                )
            self._admission.add(work)
            if not work.background and self._decoding and all(query.background for query in self._decoding):
                self._context.abort()
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
            while (step := self._next()) is not None:
                jobs = self._filler.jobs()
                self._tell()
                if step.fed:
                    self.pulse = perf_counter()
                    self._run(step)
                for job in jobs:
                    self._tell()
                    self.pulse = perf_counter()
                    self._advance(job)
                self.pulse = None
                self._idle = not step.fed and not jobs
        finally:
            self._bury()

    def _next(self) -> Step | None:
        self.pulse = perf_counter()
        self._filler.think()
        self.pulse = None
        return self._prepare()

    def _prepare(self) -> Step | None:
        """The next batch, after waiting for news if there is nothing to do; None at the end.

        Who leaves before is not in it; who leaves later finds itself in ``_decoding`` and aborts it.
        """
        with self._changed:
            while self._idle and not self._news and not self._closing:
                if not self._changed.wait(self._admission.patience()):
                    break
            if self._closing:
                return None
            if self._news:
                self._news = False
                self._admission.drop_cancelled()
            if self._waiting:
                self._admission.admit()
            step = self._filler.fill()
            self._decoding = [query for query, _ in step.fed]
            self._context.proceed()
            return step

    def _tell(self) -> None:
        """Wake the readers of new tokens: just before a decode, when this thread lets others run anyway.

        Woken earlier, they would wait for the interpreter's lock, and each wait costs a switch of threads.
        """
        for generation in self._untold:
            generation.wake()
        self._untold.clear()

    def _run(self, step: Step) -> None:
        self._context.set_states(on=step.states)
        began = perf_counter()
        code = self._context.decode()
        if code == 0:
            seconds = perf_counter() - began
            self._deliver(step)
            self._filler.note(step, seconds)
        else:
            self._repair(step, code)

    def _deliver(self, step: Step) -> None:
        if step.silent:
            for query, _ in step.fed:
                query.note_prefill()
        for asked in step.asked:
            try:
                step.made += self._take(asked, step.began)
            except EngineError as error:
                self._fail(asked.query, error)
            except Exception as error:  # a bug in one query must not end the others
                _logger.error("A query failed while its token was chosen", exc_info=error)
                self._fail(asked.query, failure_of("The query failed inside the engine", error))

    def _take(self, asked: Asked, since: float) -> int:
        """Let the query choose its tokens, and forget those of the draft that it did not choose."""
        query, slot = asked.query, asked.slot
        made = query.step(asked.outputs(self._context), asked.draft, since)
        slot.tokens += made.tokens
        self._filler.checked(asked, made)
        if len(made.tokens) <= len(asked.draft):
            self._slots.rewind(slot, slot.n_past - len(asked.draft) - 1 + len(made.tokens))
        if made.over:
            self._admission.end(query)
        elif (generation := query.generation()) is not None:
            self._untold.append(generation)
        return len(made.tokens)

    def _repair(self, step: Step, code: int) -> None:
        """Undo a batch that was not decoded, and fail its queries unless it can be done again."""
        for query, n_past in step.fed:
            if query.slot is not None:
                self._slots.rewind(query.slot, n_past)
        if code == ABORTED:
            return
        if code == FULL and (self._slots.drop_idle() or self._admission.thin_out()):
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
            self._slots.rewind(job.slot, job.slot.n_past)  # a batch that failed may have left something
            self._admission.end(job)

    def _fail(self, query: Query, error: EngineError) -> None:
        generation = query.generation()
        if generation is not None:
            generation.fail(error)
        self._admission.end(query)

    def _bury(self) -> None:
        """Nobody may wait for a thread that is gone."""
        with self._changed:
            clean, self._closing = self._closing, True
            works = [*self._live, *self._jobs, *self._waiting]
            self._live.clear()
            self._jobs.clear()
            self._waiting.clear()
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
