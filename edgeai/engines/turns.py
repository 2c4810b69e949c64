"""Whose turn it is: a context carries one LoRA adapter at a time."""

from collections.abc import Callable
from typing import Final

__all__ = ["Turns"]

_MOST_OVERTAKEN: Final = 8
"""Work of the adapter in turn that may begin before work of another which waited earlier."""


class Turns:
    """Work of one adapter shares batches; for another's the running work drains, and then it has its turn.

    So that nobody starves, only some work of the adapter in turn may overtake what waits for another.
    ``carry`` makes the context carry an adapter; None is the plain model.
    """

    def __init__(self, carry: Callable[[str | None], None]) -> None:
        self._carry = carry
        self._adapter: str | None = None
        self._overtaken = 0
        self._is_waited_for = False

    def look(self) -> None:
        """The waiting work is gone through anew, in its order."""
        self._is_waited_for = False

    def begin(self, adapter: str | None, *, is_free: Callable[[], bool]) -> bool:
        """Whether work of this adapter may begin now, after a change of turns if ``is_free`` allows it."""
        if adapter == self._adapter:
            if self._is_waited_for:
                self._overtaken += 1
            return not self._is_waited_for or self._overtaken <= _MOST_OVERTAKEN
        if not is_free():
            self._is_waited_for = True
            return False
        self._carry(adapter)
        self._adapter, self._overtaken = adapter, 0
        return True
