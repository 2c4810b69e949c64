"""Who owns which sequence of the KV cache, and what is worth keeping there.

All sequences share one pool of cells. A busy slot has reserved all the cells it may come to need; an idle
slot keeps its tokens, so that a later prompt with the same head needs no prefill for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol

__all__ = ["Cache", "Find", "Shelf", "Slot", "Slots"]

_WORTH_RESTORING: Final = 32
"""Tokens more than any sequence knows that a kept prefix must bring: fewer are as soon computed again."""


class Cache(Protocol):
    """What slots need of a `Context`."""

    def forget(self, seq: int, start: int = 0) -> bool:
        """Remove cells from position ``start``."""
        ...

    def share(self, source: int, target: int, end: int) -> None:
        """Give ``target`` the first ``end`` cells of ``source``."""
        ...


class Find(Protocol):
    """A prefix on the shelf; the first ``known`` of its ``tokens`` are those that were looked for."""

    known: int
    tokens: tuple[int, ...]

    def restore(self, seq: int) -> bool:
        """Bring all of it into the empty sequence; False when it is damaged."""
        ...


class Shelf(Protocol):
    """Prefixes that were kept outside of the cache."""

    def find(self, tokens: Sequence[int], adapter: str | None, *, most: int) -> Find | None:
        """The prefix that knows most of ``tokens``, of those that take at most ``most`` cells."""
        ...


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence. ``tokens[:n_past]`` are in the cache, the rest waits to be decoded.

    ``adapter`` is the one under which they were computed.
    """

    seq: int
    tokens: list[int] = field(default_factory=list)
    n_past: int = 0
    reserved: int = 0
    used: int = 0
    adapter: str | None = None


class Slots:
    """The sequences 0 … n-1 of a cache with ``n_cells`` cells; ``rewinds``: parts can be forgotten.

    What no sequence knows is looked for on the ``shelf``.
    """

    def __init__(
        self, cache: Cache, n: int, n_cells: int, *, rewinds: bool = True, shelf: Shelf | None = None
    ) -> None:
        self._cache = cache
        self._shelf = shelf
        self._slots = [Slot(seq) for seq in range(n)]
        self._n_cells = n_cells
        self._rewinds = rewinds
        self._extra = 0
        self._clock = count(1)

    def acquire(self, tokens: Sequence[int], need: int, adapter: str | None = None) -> Slot | None:
        """A slot that holds the longest known head of ``tokens`` (never all of it), with room for ``need``.

        Only what was computed under the same ``adapter`` is known.
        None when the sequences or cells are taken: try again after a `release`.
        """
        idle = [slot for slot in self._slots if not slot.reserved]
        if not idle or self._busy() + need > self._n_cells:
            return None
        source, known = self._best(tokens, adapter)
        if (find := self._find(tokens, known, adapter)) is not None:
            target = self._restored(idle, find, need)
        else:
            target = _target(idle, source, known)
            self._make_room(need, [slot for slot in idle if slot is not target], last=source)
            if source.n_past < known:  # it had to go
                source, known = target, 0
            self._fill(target, source, known)
        target.tokens, target.reserved, target.used = list(tokens), need, next(self._clock)
        target.adapter = adapter
        return target

    def release(self, slot: Slot) -> None:
        """The slot's query is over; what is in the cache may be reused."""
        slot.reserved = 0
        del slot.tokens[slot.n_past :]

    def rewind(self, slot: Slot, n_past: int) -> None:
        """Forget the cells from ``n_past`` on, or all of them where the model cannot do that."""
        if n_past > 0 and self._cache.forget(slot.seq, n_past):
            slot.n_past = n_past
            return
        self._cache.forget(slot.seq)
        slot.n_past = 0

    def reserve(self, cells: int) -> bool:
        """Set cells aside for sequences that are not slots; give them back with a negative number."""
        if self._busy() + cells > self._n_cells:
            return False
        self._make_room(cells, [slot for slot in self._slots if not slot.reserved])
        self._extra += cells
        return True

    def drop_idle(self) -> None:
        """Forget everything that nobody is using."""
        for slot in self._slots:
            if not slot.reserved:
                self._drop(slot)

    def _busy(self) -> int:
        return self._extra + sum(slot.reserved for slot in self._slots)

    def _best(self, tokens: Sequence[int], adapter: str | None) -> tuple[Slot, int]:
        """The slot with the longest common head, the latest used of equals, and the head's length."""
        heads = (
            (
                _common(slot.tokens[: slot.n_past], tokens[:-1]) if slot.adapter == adapter else 0,
                slot.used,
                slot,
            )
            for slot in self._slots
        )
        known, _, best = max(heads, key=lambda head: head[:2])
        return (best, known) if self._rewinds else (best, 0)

    def _find(self, tokens: Sequence[int], known: int, adapter: str | None) -> Find | None:
        """What the shelf knows beyond the ``known`` tokens, if that is worth it."""
        if self._shelf is None or len(tokens) <= known + _WORTH_RESTORING:
            return None
        find = self._shelf.find(tokens[:-1], adapter, most=self._n_cells - self._busy())
        if find is None or find.known < known + _WORTH_RESTORING:
            return None
        return find if self._rewinds or find.known == len(find.tokens) else None

    def _restored(self, idle: Sequence[Slot], find: Find, need: int) -> Slot:
        """The slot unused for the longest time, with the find in it; or with nothing, if that is damaged."""
        target = min(idle, key=lambda slot: slot.used)
        size = len(find.tokens)
        self._make_room(max(need, size), [slot for slot in idle if slot is not target])
        self._drop(target)
        if find.restore(target.seq):
            target.n_past = size
            if find.known < size:
                self.rewind(target, find.known)
        return target

    def _make_room(self, need: int, idle: Sequence[Slot], last: Slot | None = None) -> None:
        """Drop idle slots, the longest unused first (``last`` last), until ``need`` cells are surely free."""
        held = sum(slot.n_past for slot in idle)
        for slot in sorted(idle, key=lambda slot: (slot is last, slot.used)):
            if self._busy() + need + held <= self._n_cells:
                return
            held -= slot.n_past
            self._drop(slot)

    def _fill(self, target: Slot, source: Slot, known: int) -> None:
        if target is source:
            self.rewind(target, known)
            return
        self._drop(target)
        if known:
            self._cache.share(source.seq, target.seq, known)
            target.n_past = known

    def _drop(self, slot: Slot) -> None:
        self._cache.forget(slot.seq)
        slot.n_past = 0
        slot.tokens = []


def _target(idle: Sequence[Slot], source: Slot, known: int) -> Slot:
    """The best slot itself if most of what it holds is wanted, else the one unused for the longest time."""
    if not source.reserved and known > 0 and 2 * known >= source.n_past:
        return source
    return min(idle, key=lambda slot: slot.used)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common head."""
    size = min(len(left), len(right))
    return next((i for i in range(size) if left[i] != right[i]), size)
