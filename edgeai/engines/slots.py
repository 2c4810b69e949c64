"""Who owns which sequence of the KV cache, and what is worth keeping there.

All sequences share one pool of cells. A busy slot holds cells for what it has and what it was promised, and
grows while its answer does; an idle slot keeps its tokens, so that a later prompt with the same head needs
no prefill for it, until its cells are needed: then the longest unused one is cut, from its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol

from edgeai.engines.cells import Cells

__all__ = ["Cache", "Find", "Shelf", "Slot", "Slots", "common"]

_CUT: Final = 32
"""Fewest cells that an idle slot is cut by."""

_WORTH_WAITING: Final = 32
"""Tokens of a head that another query is computing, which a newcomer rather waits for than computes, too."""

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

    It holds ``cells``: one for each token in the cache, which others may share, and those beyond for itself.
    ``adapter`` is the one under which the tokens were computed.
    """

    seq: int
    tokens: list[int] = field(default_factory=list)
    n_past: int = 0
    cells: list[int] = field(default_factory=list)
    busy: bool = False
    used: int = 0
    adapter: str | None = None


class Slots:
    """The sequences 0 … n-1 of a cache with ``n_cells`` cells.

    ``rewinds``: parts can be forgotten. ``shares``: a shared head takes no cells of its own. What no sequence
    knows is looked for on the ``shelf``.
    """

    def __init__(
        self,
        cache: Cache,
        n: int,
        n_cells: int,
        *,
        rewinds: bool = True,
        shares: bool = True,
        shelf: Shelf | None = None,
    ) -> None:
        self._cache = cache
        self._shelf = shelf
        self._slots = [Slot(seq) for seq in range(n)]
        self._cells = Cells(n_cells)
        self._rewinds = rewinds
        self._shares = shares
        self._clock = count(1)

    def acquire(
        self, tokens: Sequence[int], need: int, adapter: str | None = None, *, fresh: bool = False
    ) -> Slot | None:
        """A slot that holds the longest known head of ``tokens`` (never all of it), with room for ``need``.

        The head is that of any slot, busy or idle, that was computed under the same ``adapter``; with
        ``fresh`` nothing is taken over. None when the sequences or cells are taken: try again after a
        `release`.
        """
        idle = [slot for slot in self._slots if not slot.busy]
        source, known = self._best(() if fresh else tokens, adapter)
        if not idle or need > self._obtainable(source, known):
            return None
        target = None if fresh else self._restored(idle, tokens, need, known, adapter)
        if target is None:
            target = _target(idle, source, known)
            self._fill(target, source, known)
        target.busy, target.used = True, next(self._clock)
        self.grow(target, need)
        target.tokens, target.adapter = list(tokens), adapter
        return target

    def grow(self, slot: Slot, size: int) -> bool:
        """Make sure that the slot may hold ``size`` tokens; false when only busy slots could give way."""
        missing = size - len(slot.cells)
        if missing <= 0:
            return True
        if not self._make_room(missing):
            return False
        slot.cells += self._cells.take(missing)
        return True

    def release(self, slot: Slot) -> None:
        """The slot's query is over; what is in the cache may be reused."""
        slot.busy = False
        if slot.n_past > len(slot.tokens):  # a draft that was not checked
            self.rewind(slot, len(slot.tokens))
        self._trim(slot)
        del slot.tokens[slot.n_past :]

    def rewind(self, slot: Slot, n_past: int) -> None:
        """Forget the cells from ``n_past`` on, or all of them where the model cannot do that."""
        if n_past > 0 and self._cache.forget(slot.seq, n_past):
            slot.n_past = n_past
            return
        self._cache.forget(slot.seq)
        slot.n_past = 0

    def drop_idle(self) -> bool:
        """Forget everything that nobody is using; whether there was anything."""
        dropped = [slot for slot in self._slots if not slot.busy and slot.n_past]
        for slot in dropped:
            self._cut(slot, 0)
        return bool(dropped)

    def expects(self, tokens: Sequence[int], arriving: Sequence[Slot], adapter: str | None = None) -> bool:
        """Whether one of these busy slots is about to know a much longer head of ``tokens`` than any does."""
        arriving = [slot for slot in arriving if slot.adapter == adapter]
        if not arriving or not self._rewinds:
            return False
        coming = max(common(slot.tokens[:-1], tokens[:-1]) for slot in arriving)
        return coming > _WORTH_WAITING and coming > self._best(tokens, adapter)[1] + _WORTH_WAITING

    def _best(self, tokens: Sequence[int], adapter: str | None) -> tuple[Slot, int]:
        """The slot with the longest common head, the latest used of equals, and the head's length."""
        heads = (
            (
                common(slot.tokens[: slot.n_past], tokens[:-1]) if slot.adapter == adapter else 0,
                slot.used,
                slot,
            )
            for slot in self._slots
        )
        known, _, best = max(heads, key=lambda head: head[:2])
        return (best, known) if self._rewinds else (best, 0)

    def _restored(
        self, idle: Sequence[Slot], tokens: Sequence[int], need: int, known: int, adapter: str | None
    ) -> Slot | None:
        """The slot unused for the longest time, with what the shelf knows; None if that is not worth it."""
        room = self._cells.n - self._held()
        if self._shelf is None or len(tokens) <= known + _WORTH_RESTORING or need > room:
            return None
        find = self._shelf.find(tokens[:-1], adapter, most=room)
        if find is None or find.known < known + _WORTH_RESTORING:
            return None
        if not self._rewinds and find.known != len(find.tokens):
            return None
        target = min(idle, key=lambda slot: slot.used)
        self._cut(target, 0)
        target.busy = True  # so that it is not cut for itself
        self.grow(target, len(find.tokens))
        if find.restore(target.seq):
            target.n_past = len(find.tokens)
            if find.known < target.n_past:
                self.rewind(target, find.known)
        self._trim(target)
        return target

    def _held(self) -> int:
        return len({cell for slot in self._slots if slot.busy for cell in slot.cells})

    def _obtainable(self, source: Slot, known: int) -> int:
        """Cells that a newcomer can have if everything idle goes, with the head it shares with the source."""
        return self._cells.n - self._held() + (known if source.busy and self._shares else 0)

    def _make_room(self, missing: int) -> bool:
        """Cut idle slots, the longest unused first, until so many cells are free."""
        for slot in sorted((slot for slot in self._slots if not slot.busy), key=lambda slot: slot.used):
            while slot.n_past and (short := missing - self._cells.free) > 0:
                self._cut(slot, max(0, slot.n_past - max(short, _CUT)))
        return self._cells.free >= missing

    def _fill(self, target: Slot, source: Slot, known: int) -> None:
        if target is source:
            self._cut(target, known)
            return
        self._cut(target, 0)
        if not self._shares:  # a copy needs cells of its own, which may be those that it copies
            target.busy = True
            self._make_room(known)
            known = min(known, source.n_past, self._cells.free)
        if known:
            self._cache.share(source.seq, target.seq, known)
            if self._shares:
                target.cells = source.cells[:known]
                self._cells.share(target.cells)
            else:
                target.cells = self._cells.take(known)
            target.n_past = known

    def _cut(self, slot: Slot, n_past: int) -> None:
        """Forget what an idle slot holds from ``n_past`` on."""
        if n_past < slot.n_past or n_past == 0:
            self.rewind(slot, n_past)
        self._trim(slot)
        del slot.tokens[slot.n_past :]

    def _trim(self, slot: Slot) -> None:
        self._cells.give(slot.cells[slot.n_past :])
        del slot.cells[slot.n_past :]


def _target(idle: Sequence[Slot], source: Slot, known: int) -> Slot:
    """The best slot itself if most of what it holds is wanted, else the one unused for the longest time."""
    if not source.busy and known > 0 and 2 * known >= source.n_past:
        return source
    return min(idle, key=lambda slot: slot.used)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common head."""
    left, right = list(left), list(right)
    size = min(len(left), len(right))
    if left[:size] == right[:size]:
        return size
    low, high = 0, size  # the first `low` are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
