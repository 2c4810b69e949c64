"""What slots take from a shelf of kept prefixes, and when."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from edgeai.engines.slots import Find, Slots

HEAD = tuple(range(100, 200))
N_CELLS = 300


class Cells:
    """A cache that forgets and shares whatever it is told to."""

    def forget(self, seq: int, start: int = 0) -> bool:
        return True

    def share(self, source: int, target: int, end: int) -> None:
        pass


@dataclass
class Book:
    tokens: tuple[int, ...]
    known: int
    is_sound: bool
    restored: list[int]

    def restore(self, seq: int) -> bool:
        self.restored.append(seq)
        return self.is_sound


@dataclass
class Shelf:
    """Holds HEAD, for one adapter."""

    adapter: str | None = None
    is_sound: bool = True
    restored: list[int] = field(default_factory=list)

    def find(self, tokens: Sequence[int], adapter: str | None, *, most: int) -> Find | None:
        if adapter != self.adapter or len(HEAD) > most:
            return None
        known = next((i for i, (a, b) in enumerate(zip(HEAD, tokens, strict=False)) if a != b), None)
        known = min(len(HEAD), len(tokens)) if known is None else known
        return Book(HEAD, known, self.is_sound, self.restored)


def acquired(shelf: Shelf, tokens: Sequence[int], *, adapter: str | None = None, rewinds: bool = True) -> int:
    """How many of the tokens a fresh cache's slot knows."""
    slot = Slots(Cells(), 2, N_CELLS, rewinds=rewinds, shelf=shelf).acquire(
        list(tokens), len(tokens) + 10, adapter=adapter
    )
    assert slot is not None
    assert slot.tokens == list(tokens)
    return slot.n_past


@pytest.mark.parametrize("n_same", [100, 60])
def test_a_prompt_that_begins_with_it_gets_it(n_same: int) -> None:
    """All of it, or as much as is the same."""
    assert acquired(Shelf(), [*HEAD[:n_same], *range(20)]) == n_same


@pytest.mark.parametrize(
    ("shelf", "tokens", "adapter"),
    [
        (Shelf(is_sound=False), [*HEAD, 1], None),
        (Shelf(adapter="a"), [*HEAD, 1], None),
        (Shelf(), [*HEAD, 1], "a"),
        (Shelf(), [*HEAD[:20], *range(50)], None),
    ],
    ids=["damaged", "of an adapter", "under an adapter", "too little"],
)
def test_otherwise_all_is_computed(shelf: Shelf, tokens: list[int], adapter: str | None) -> None:
    """A damaged find, another adapter, little in common: an empty slot, in good order."""
    assert acquired(shelf, tokens, adapter=adapter) == 0


def test_what_a_sequence_knows_is_not_restored() -> None:
    """The cache comes first."""
    shelf = Shelf()
    slots = Slots(Cells(), 2, N_CELLS, shelf=shelf)
    first = slots.acquire([*HEAD, 1], 110)
    assert first is not None
    first.n_past = 101
    slots.release(first)
    again = slots.acquire([*HEAD, 2], 110)
    assert again is not None
    assert (again.n_past, len(shelf.restored)) == (100, 1)


def test_a_model_that_cannot_rewind_takes_only_the_whole() -> None:
    """A recurrent state cannot be cut."""
    assert acquired(Shelf(), [*HEAD, 1], rewinds=False) == 100
    assert acquired(Shelf(), [*HEAD[:60], 1], rewinds=False) == 0


def test_adapters_do_not_share_what_was_computed() -> None:
    """The same tokens under another adapter are other values."""
    slots = Slots(Cells(), 2, N_CELLS)
    first = slots.acquire([1, 2, 3, 4], 8)
    assert first is not None
    first.n_past = 4
    slots.release(first)
    other = slots.acquire([1, 2, 3, 4], 8, adapter="a")
    assert other is not None
    assert other.n_past == 0
    slots.release(other)
    again = slots.acquire([1, 2, 3, 4], 8)
    assert again is not None
    assert again.n_past == 3
