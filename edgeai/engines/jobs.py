"""Work that is not a generation, done in small steps between those of the queries.

A job is a generator that decodes one batch a step, so that nobody's answer waits for a long document.
"""

from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeai.engines.failures import failure_of
from edgeai.engines.slots import Slot
from edgeai.errors import Cancelled, EdgeError, EngineError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Job", "Steps", "log_total"]

Steps = Callable[[Slot], Generator[None, None, None]]


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """``prompt`` is where it starts, ``need`` the cells that it takes. It runs under ``adapter``.

    In the background it may have to leave, and then its ``steps`` are begun again. Its slot may know a head
    of the prompt, unless it must be ``fresh``.
    """

    prompt: list[int]
    need: int
    steps: Steps
    background: bool = False
    adapter: str | None = None
    fresh: bool = False
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

    def leave(self) -> Slot:
        """Give the slot back for now; what was computed is forgotten, but for what the slot keeps."""
        slot, running = self.slot, self._running
        self._slot = self._running = None
        if running is not None:
            running.close()
        return slot

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
        except Exception as error:  # noqa: BLE001  # a bug in one job must not end the others' answers
            self._settle(failure_of("The work failed inside the engine", error))
            return False
        return True

    def abandon(self, error: EngineError | None) -> None:
        """The engine ends: with an error, or because it was closed."""
        if self._running is not None:
            try:
                self._running.close()  # it cleans up in the context, which is still there
            finally:
                self._settle(error or Cancelled("The engine was closed"))
        else:
            self._settle(error or Cancelled("The engine was closed"))

    def _settle(self, error: EdgeError | None) -> None:
        if not self.done.set_running_or_notify_cancel():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def log_total(logits: "NDArray[np.float32]") -> float:
    """The logarithm of the sum of the exponentials."""
    peak = float(logits.max())
    return peak + float(np.log(np.exp(logits - np.float32(peak)).sum(dtype=np.float64)))
