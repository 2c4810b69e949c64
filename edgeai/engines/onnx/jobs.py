"""Scoring and embedding with ONNX Runtime, one batch a step."""

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from edgeai.engines import OnState
from edgeai.engines.jobs import log_total
from edgeai.engines.onnx.context import MAX_OUTPUTS, Context
from edgeai.engines.prefill import decode, prefill
from edgeai.engines.slots import Slot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["embed_steps", "score_cells", "score_steps"]


def score_steps(
    context: Context,
    tails: Sequence[Sequence[int]],
    totals: list[float],
    on_state: OnState | None,
    slot: Slot,
) -> Generator[None, None, None]:
    """Put into ``totals`` the log-probability of each of ``tails`` after the slot's tokens.

    Every tail is written over the one before: what the slot holds stays, and nothing is copied.
    """
    totals[:] = [0.0] * len(tails)
    yield from prefill(context, slot, len(slot.tokens) - 1)
    row = context.add(slot.tokens[-1:], slot.n_past, slot.seq, outputs=1)
    context.set_states(on=on_state is not None)
    decode(context)
    if on_state is not None and (state := context.state(row)) is not None:
        on_state(state.copy())
    context.set_states(on=False)
    slot.n_past += 1
    logits = context.logits(row)
    norm = log_total(logits)
    for number, tail in enumerate(tails):
        totals[number] += min(0.0, float(logits[tail[0]]) - norm)
    yield
    for number, tail in enumerate(tails):
        for at in range(0, len(tail) - 1, MAX_OUTPUTS):
            totals[number] += _score(context, slot, tail, at)
            yield


def _score(context: Context, slot: Slot, tail: Sequence[int], at: int) -> float:
    """The log-probability of up to MAX_OUTPUTS tokens after ``tail[at]``."""
    part = tail[at : min(at + MAX_OUTPUTS, len(tail) - 1)]
    last = context.add(part, slot.n_past + at, slot.seq, outputs=len(part))
    decode(context)
    total = 0.0
    for row, token in enumerate(tail[at + 1 : at + 1 + len(part)], start=last + 1 - len(part)):
        logits = context.logits(row)
        total += min(0.0, float(logits[token]) - log_total(logits))
    return total


def score_cells(tails: Sequence[Sequence[int]]) -> int:
    """KV cells that scoring ``tails`` takes beyond those of what comes before."""
    return max(len(tail) - 1 for tail in tails)


def embed_steps(context: Context, sums: "NDArray[np.float64]", slot: Slot) -> Generator[None, None, None]:
    """Put into ``sums`` the sum of the last layer's hidden states of all of the slot's tokens."""
    sums[:] = 0
    context.forget(slot.seq)  # every token's state is needed, known ones too
    slot.n_past = 0
    while slot.n_past < len(slot.tokens):
        chunk = slot.tokens[slot.n_past : slot.n_past + MAX_OUTPUTS]
        last = context.add(chunk, slot.n_past, slot.seq, outputs=len(chunk))
        context.set_embeddings(on=True)
        try:
            decode(context)
            for row in range(last + 1):
                sums += context.logits(row)
        finally:
            context.set_embeddings(on=False)
        slot.n_past += len(chunk)
        yield
