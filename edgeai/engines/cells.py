"""How many cells of a KV cache are in use, when sequences share those of a common head.

The numbers stand for cells; they are not the native library's own.
"""

from collections.abc import Sequence
from typing import Final

__all__ = ["PARALLEL", "Cells", "pool"]

PARALLEL: Final = 8
"""Queries that llama.cpp answers at once, unless told otherwise."""

_FEWEST: Final = 256


def pool(n_ctx: int, parallel: int | None) -> int:
    """Cells for ``parallel`` queries with contexts of ``n_ctx`` tokens.

    One query may fill its whole context; many at once have that much together, or 256 cells each. Memory for
    a full context each would mostly lie idle. When the cells do run out, the prefixes that nobody uses go,
    and then who came last waits.
    """
    return max(n_ctx, (parallel or PARALLEL) * min(n_ctx, _FEWEST))


class Cells:
    """``n`` cells, each free or with one or more holders."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._free = list(range(n))
        self._holders = [0] * n

    @property
    def free(self) -> int:
        """How many nobody holds."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Hold ``count`` free cells, of which there are as many."""
        if count <= 0:
            return []
        taken = self._free[-count:]
        del self._free[-count:]
        for cell in taken:
            self._holders[cell] = 1
        return taken

    def share(self, cells: Sequence[int]) -> None:
        """Hold these, too."""
        for cell in cells:
            self._holders[cell] += 1

    def give(self, cells: Sequence[int]) -> None:
        """Hold these no longer."""
        for cell in cells:
            self._holders[cell] -= 1
            if not self._holders[cell]:
                self._free.append(cell)
