"""Scoring and embedding with llama.cpp, one batch a step."""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Final

from edgeai.engines import OnState
from edgeai.engines.jobs import log_total
from edgeai.engines.llamacpp.context import MAX_OUTPUTS, Context
from edgeai.engines.prefill import decode, prefill
from edgeai.engines.slots import Slot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["N_SCRATCH", "embed_steps", "score_steps", "scratch_cells"]

N_SCRATCH: Final = 8
"""Sequences for continuations that are scored side by side."""


def score_steps(
    context: Context,
    first_scratch: int,
    tails: Sequence[Sequence[int]],
    totals: list[float],
    on_state: OnState | None,
    slot: Slot,
) -> Generator[None, None, None]:
    """Put into ``totals`` the log-probability of each of ``tails`` after the slot's tokens."""
    totals[:] = [0.0] * len(tails)
    try:
        yield from prefill(context, slot, len(slot.tokens) - 1)
        row = context.add(slot.tokens[-1:], slot.n_past, slot.seq, outputs=1)
        context.set_states(on=on_state is not None)
        decode(context)
        if on_state is not None:
            on_state(context.state(row).copy())
            context.set_states(on=False)
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
        decode(context)
        _collect(context, rows, [tails[number][at + 1] for number, at in part], [n for n, _ in part], totals)
        yield


def _collect(
    context: Context, rows: Sequence[int], tokens: Sequence[int], numbers: Sequence[int], totals: list[float]
) -> None:
    """Add each token's log-probability after its row to the total of its number."""
    norms = {row: log_total(context.logits(row)) for row in set(rows)}
    for row, token, number in zip(rows, tokens, numbers, strict=True):
        totals[number] += min(0.0, float(context.logits(row)[token]) - norms[row])


def embed_steps(context: Context, sums: "NDArray[np.float64]", slot: Slot) -> Generator[None, None, None]:
    """Put into ``sums`` the sum of the last layer's hidden states of all of the slot's tokens."""
    sums[:] = 0
    context.forget(slot.seq)  # every token's state is needed, known ones too
    slot.n_past = 0
    while slot.n_past < len(slot.tokens):
        chunk = slot.tokens[slot.n_past : slot.n_past + MAX_OUTPUTS]
        last = context.add(chunk, slot.n_past, slot.seq, outputs=len(chunk))
        context.set_states(on=True)
        try:
            decode(context)
            for row in range(last + 1):
                sums += context.state(row)
        finally:
            context.set_states(on=False)
        slot.n_past += len(chunk)
        yield
