"""The steps that all jobs share: decode, or say why not; and prefill, chunk by chunk."""

from collections.abc import Generator
from typing import Final

from edgeai.engines.context import ABORTED, Context
from edgeai.engines.slots import Slot
from edgeai.errors import Cancelled

__all__ = ["decode", "prefill"]

_CHUNK: Final = 64


def prefill(context: Context, slot: Slot, end: int) -> Generator[None, None, None]:
    """Decode the slot's tokens up to ``end``, none of which gives an output."""
    while slot.n_past < end:
        chunk = slot.tokens[slot.n_past : min(end, slot.n_past + _CHUNK)]
        context.add(chunk, slot.n_past, slot.seq)
        decode(context)
        slot.n_past += len(chunk)
        yield


def decode(context: Context) -> None:
    """Run the batch. Raises Cancelled, or what the context says of its failure."""
    code = context.decode()
    if code == ABORTED:
        raise Cancelled("The engine was closed")
    if code != 0:
        raise context.failure(code)
