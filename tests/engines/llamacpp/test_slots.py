"""Sequences and cells are handed out without ever taking more than there is."""

from hypothesis import given
from hypothesis import strategies as st

from edgeai.engines.slots import Slot, Slots

N_CELLS = 40


class Cells:
    """A KV cache on paper: which positions each sequence holds. The rules are llama.cpp's."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}

    def forget(self, seq: int, start: int = 0) -> bool:
        """Remove from ``start``."""
        self.held[seq] = min(self.held.get(seq, 0), start)
        return True

    def share(self, source: int, target: int, end: int) -> None:
        """Only what the source really holds can be shared."""
        assert end <= self.held.get(source, 0)
        assert self.held.get(target, 0) == 0
        self.held[target] = end


def finish(slot: Slot, slots: Slots, cells: Cells) -> None:
    """As the scheduler does: all tokens decoded, then released."""
    slot.n_past = cells.held[slot.seq] = len(slot.tokens)
    slots.release(slot)


PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=20), min_size=1, max_size=30)


@given(prompts=PROMPTS, keep=st.integers(0, 3), shares=st.booleans())
def test_cells_are_never_promised_twice(prompts: list[list[int]], keep: int, *, shares: bool) -> None:
    """Whatever comes: what is held and promised fits, and a slot holds what it says it holds."""
    cells = Cells()
    slots = Slots(cells, 4, N_CELLS, shares=shares)
    busy: list[Slot] = []
    for prompt in prompts:
        slot = slots.acquire(prompt, len(prompt) + 5)
        if slot is None:
            assert busy, "alone, everything that fits into the context is admitted"
            finish(busy.pop(0), slots, cells)
            continue
        assert slot not in busy
        assert slot.n_past < len(prompt)
        assert cells.held.get(slot.seq, 0) == slot.n_past
        busy.append(slot)
        promised = {slot.seq: slot.cells for slot in busy}
        assert all(len(promised[slot.seq]) >= slot.n_past for slot in busy)
        assert len(set().union(*promised.values())) <= N_CELLS
        if not shares:
            idle = sum(held for seq, held in cells.held.items() if seq not in promised)
            assert sum(map(len, promised.values())) + idle <= N_CELLS
        while len(busy) > keep:
            finish(busy.pop(0), slots, cells)


def test_the_longest_head_is_reused() -> None:
    """A prompt that goes on from an earlier one keeps its cells, except the last token's."""
    cells = Cells()
    slots = Slots(cells, 2, N_CELLS)
    first = slots.acquire([1, 2, 3, 4], 8)
    assert first is not None
    finish(first, slots, cells)
    again = slots.acquire([1, 2, 3, 4], 8)
    assert again is first
    assert again.n_past == 3


def test_a_short_head_is_shared_and_not_taken() -> None:
    """Of a long conversation a newcomer borrows the head and leaves the rest."""
    cells = Cells()
    slots = Slots(cells, 2, N_CELLS)
    first = slots.acquire([1, 2, 3, 4, 5, 6, 7, 8], 10)
    assert first is not None
    finish(first, slots, cells)
    other = slots.acquire([1, 2, 9], 5)
    assert other is not None
    assert other is not first
    assert other.n_past == 2
    assert first.n_past == 8


def test_a_model_that_cannot_rewind_starts_afresh() -> None:
    """Recurrent state cannot be cut, so nothing is reused."""
    cells = Cells()
    slots = Slots(cells, 1, N_CELLS, rewinds=False)
    first = slots.acquire([1, 2, 3], 5)
    assert first is not None
    finish(first, slots, cells)
    again = slots.acquire([1, 2, 3], 5)
    assert again is not None
    assert again.n_past == 0
