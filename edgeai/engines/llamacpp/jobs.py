"""Work that is not a generation: scoring and embedding, done in small steps between those of the queries.

A job is a generator that decodes one batch a step, so that nobody's answer waits for a long document.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeai.engines.llamacpp.context import ABORTED, MAX_OUTPUTS, Context
from edgeai.engines.llamacpp.slots import Slot
from edgeai.errors import Cancelled, EdgeError, EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["N_SCRATCH", "Job", "embed_steps", "score_steps", "scratch_cells"]

N_SCRATCH: Final = 8
"""Sequences for continuations that are scored side by side."""

_CHUNK: Final = 64

Steps = Callable[[Slot], Generator[None, None, None]]


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """``prompt`` is where it starts (its slot may know a head of it), ``need`` the cells that it takes."""

    prompt: list[int]
    need: int
    steps: Steps
    background: bool = False
    done: Future[None] = field(default_factory=Future)
    _slot: Slot | None = None
    _running: Generator[None, None, None] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the result any more."""
        return self.done.cancelled()

    @property
    def slot(self) -> Slot:
        """The slot it works in, once it has begun."""
        assert self._slot is not None
        return self._slot

    def begin(self, slot: Slot) -> None:
        """The slot is ours."""
        self._slot, self._running = slot, self.steps(slot)

    def advance(self) -> bool:
        """Do one step; false when it was the last one."""
        assert self._running is not None
        if self.cancelled:
            self._running.close()
            return False
        try:
            next(self._running)
        except StopIteration:
            self._settle(None)
            return False
        except EdgeError as error:
            self._settle(error)
            return False
        return True

    def abandon(self, error: EngineError | None) -> None:
        """The engine ends: with an error, or because it was closed."""
        if self._running is not None:
            self._running.close()  # it cleans up in the context, which is still there
        self._settle(error or Cancelled("The engine was closed"))

    def _settle(self, error: EdgeError | None) -> None:
        if not self.done.set_running_or_notify_cancel():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def score_steps(
    context: Context, first_scratch: int, tails: Sequence[Sequence[int]], totals: list[float], slot: Slot
) -> Generator[None, None, None]:
    """Add to ``totals`` the log-probability of each of ``tails`` after the slot's tokens."""
    try:
        yield from _prefill(context, slot, len(slot.tokens) - 1)
        row = context.add(slot.tokens[-1:], slot.n_past, slot.seq, outputs=1)
        _decode(context)
        slot.n_past += 1
        _collect(context, [row] * len(tails), [tail[0] for tail in tails], range(len(tails)), totals)
        yield
        for start in range(0, len(tails), N_SCRATCH):
            group = range(start, min(start + N_SCRATCH, len(tails)))
            yield from _score_group(context, first_scratch, tails, group, totals, slot)
    finally:
        _clear(context, first_scratch)


def scratch_cells(tails: Sequence[Sequence[int]]) -> int:
    """KV cells that scoring ``tails`` takes beyond those of what comes before."""
    groups = (tails[start : start + N_SCRATCH] for start in range(0, len(tails), N_SCRATCH))
    return max(sum(len(tail) - 1 for tail in group) for group in groups)


def _clear(context: Context, first_scratch: int) -> None:
    for seq in range(first_scratch, first_scratch + N_SCRATCH):
        context.forget(seq)


def _score_group(
    context: Context,
    first_scratch: int,
    tails: Sequence[Sequence[int]],
    group: Sequence[int],
    totals: list[float],
    slot: Slot,
) -> Generator[None, None, None]:
    """Each tail of the group in a scratch sequence of its own, as many tokens a batch as may have logits."""
    todo = [(number, at) for number in group for at in range(len(tails[number]) - 1)]
    _clear(context, first_scratch)
    for number in group:
        context.share(slot.seq, first_scratch + number - group[0], slot.n_past)
    for start in range(0, len(todo), MAX_OUTPUTS):
        part = todo[start : start + MAX_OUTPUTS]
        rows = [
            context.add([tails[number][at]], slot.n_past + at, first_scratch + number - group[0], outputs=1)
            for number, at in part
        ]
        _decode(context)
        _collect(context, rows, [tails[number][at + 1] for number, at in part], [n for n, _ in part], totals)
        yield


def _collect(
    context: Context, rows: Sequence[int], tokens: Sequence[int], numbers: Sequence[int], totals: list[float]
) -> None:
    """Add each token's log-probability after its row to the total of its number."""
    norms = {row: _log_total(context.logits(row)) for row in set(rows)}
    for row, token, number in zip(rows, tokens, numbers, strict=True):
        totals[number] += min(0.0, float(context.logits(row)[token]) - norms[row])


def _log_total(logits: "NDArray[np.float32]") -> float:
    peak = float(logits.max())
    return peak + float(np.log(np.exp(logits - np.float32(peak)).sum(dtype=np.float64)))


def embed_steps(context: Context, sums: "NDArray[np.float64]", slot: Slot) -> Generator[None, None, None]:
    """Add to ``sums`` the last layer's hidden states of all of the slot's tokens."""
    context.forget(slot.seq)  # every token's state is needed, known ones too
    slot.n_past = 0
    while slot.n_past < len(slot.tokens):
        chunk = slot.tokens[slot.n_past : slot.n_past + MAX_OUTPUTS]
        last = context.add(chunk, slot.n_past, slot.seq, outputs=len(chunk))
        context.set_embeddings(on=True)
        try:
            _decode(context)
            for row in range(last + 1):
                sums += context.embedding(row)
        finally:
            context.set_embeddings(on=False)
        slot.n_past += len(chunk)
        yield


def _prefill(context: Context, slot: Slot, end: int) -> Generator[None, None, None]:
    while slot.n_past < end:
        chunk = slot.tokens[slot.n_past : min(end, slot.n_past + _CHUNK)]
        context.add(chunk, slot.n_past, slot.seq)
        _decode(context)
        slot.n_past += len(chunk)
        yield


def _decode(context: Context) -> None:
    code = context.decode()
    if code == ABORTED:
        raise Cancelled("The engine was closed")
    if code != 0:
        raise EngineError("llama.cpp could not decode", why=f"its error code is {code}")
