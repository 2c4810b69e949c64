"""An engine in a child process, with the same API: what kills it does not kill the app.

The process may be ended at any moment, by a model that breaks the native library or by the system. It is
then started again, with growing delays; a query of which nothing was read is asked again, once; the others
end in EngineCrashed. After some crashes in a minute all end in it at once.
"""

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from edgeai.engines import DevicePlan, EngineInfo, Generation, OnState
from edgeai.engines.keeper import Keeper, Pending
from edgeai.engines.watchdog import LIMIT_S, LOOKS
from edgeai.engines.wire import pack
from edgeai.errors import Cancelled, ConfigError, EngineCrashed, EngineError, EngineLoadFailed
from edgeai.types import Priority, Request, Warmed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ProcessEngine", "can_limit_memory", "open_engine"]

PROMPT_LIMIT_S: Final = 30.0
"""The longest that a chat template and the tokenizer may work on one prompt; they are the model's own."""

_LOOK_S: Final = 0.05
_MIN_MEMORY: Final = 64 << 20


def can_limit_memory() -> bool:
    """Whether this system can bound a process's memory (Linux's RLIMIT_DATA)."""
    return sys.platform == "linux"


def open_engine(
    engine: str,
    path: Path,
    plan: DevicePlan,
    *,
    name: str,
    memory_bytes: int | None = None,
    limit_s: float | None = None,
    hang_s: float = LIMIT_S,
) -> "ProcessEngine":
    """Start a process and load the model in it; ``engine`` names a package of `edgeai.engines`.

    ``memory_bytes`` bounds the process's private memory: all but mapped weights. Raises what the engine
    raises, ConfigError where memory cannot be bounded, EngineCrashed when loading kills the process twice,
    EngineLoadFailed when it has not come to an end after ``limit_s`` seconds. A process that gives no sign of
    life for ``hang_s`` seconds, though it has work, counts as crashed.
    """
    if memory_bytes is not None and not can_limit_memory():
        raise ConfigError("The memory of a process cannot be bounded on this system")
    if memory_bytes is not None and memory_bytes < _MIN_MEMORY:
        raise ConfigError(f"{memory_bytes} bytes are not enough for an engine", remedy=f"Give {_MIN_MEMORY}")
    opening = pack(["open", engine, str(path.absolute()), plan, name, memory_bytes, hang_s / (2 * LOOKS)])
    keeper = Keeper(opening, verbose=plan.verbose, limit_s=hang_s, load_limit_s=limit_s)
    try:
        if not wait([keeper.opened], limit_s).done:
            raise EngineLoadFailed(f"{name} was not loaded after {limit_s:.0f} s", remedy="Use another model")
        info, memory = keeper.opened.result()
    except BaseException:  # Ctrl-C, too, leaves no process behind
        keeper.close()
        raise
    return ProcessEngine(keeper, info, memory)


class ProcessEngine:
    """An `edgeai.engines.Engine`. Made by `open_engine`."""

    def __init__(self, keeper: Keeper, info: EngineInfo, memory: Mapping[str, int]) -> None:
        self.info = replace(info)
        self._keeper, self._memory = keeper, memory
        # Also at interpreter exit. The keeper knows nothing of the engine, so that it does not keep it alive.
        self._finalizer = weakref.finalize(self, keeper.close)

    @property
    def pid(self) -> int | None:
        """The number of the engine's process; None while it is being started again."""
        return self._keeper.pid

    def stream(self, request: Request) -> Generation:
        """As of the engine itself; EngineCrashed, also from the Generation, when its process has died."""
        number = self._keeper.number()
        pending = Pending(frame=pack(["stream", number, request]))
        generation = Generation(partial(self._keeper.changed, number))
        pending.attach(generation)
        self._ask(number, pending, limit_s=PROMPT_LIMIT_S)
        return generation

    def score(
        self,
        prompt: str,
        continuations: Sequence[str],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_state: OnState | None = None,
        adapter: str | None = None,
        priority: Priority = "interactive",
    ) -> tuple[float, ...]:
        """As of the engine itself; ``on_state`` is called in this thread."""
        arguments = [prompt, list(continuations), on_state is not None, adapter, priority]
        totals, state = self._call("score", *arguments, cancelled=cancelled)
        if on_state is not None and state is not None:
            on_state(state)
        return tuple(totals)

    def embed(
        self, texts: Sequence[str], *, adapter: str | None = None, priority: Priority = "interactive"
    ) -> "NDArray[np.float32]":
        """As of the engine itself."""
        keywords = {"adapter": adapter, "priority": priority}
        vectors: NDArray[np.float32] = self._call("embed", [list(texts)], keywords)
        return vectors

    def tokenize(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """As of the engine itself."""
        return tuple(self._call("tokenize", [text], {"special": special}, limit_s=PROMPT_LIMIT_S))

    def count_prompt(self, request: Request) -> int:
        """As of the engine itself."""
        count: int = self._call("count_prompt", [request], {}, limit_s=PROMPT_LIMIT_S)
        return count

    def warm(self, request: Request, *, most_bytes: int) -> Warmed:
        """As of the engine itself."""
        warmed: Warmed = self._call("warm", [request], {"most_bytes": most_bytes})
        return warmed

    def limit_threads(self, n_threads: int) -> None:
        """As of the engine itself; nobody waits for it."""
        number = self._keeper.number()
        with suppress(EngineError):  # the next query meets it, too
            self._keeper.submit(number, Pending(frame=pack(["limit_threads", number, [n_threads], {}])))

    def memory(self) -> Mapping[str, int]:
        """Where the memory of the engine's process goes, in bytes, as it was when the model was opened."""
        return dict(self._memory)

    def close(self) -> None:
        """Cancel what runs and end the process, within seconds; may be called again."""
        self._finalizer()

    def _call(
        self,
        what: str,
        *arguments: object,
        limit_s: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Any:  # noqa: ANN401  # as the call gives it
        number = self._keeper.number()
        pending = Pending(frame=pack([what, number, *arguments]))
        return self._ask(number, pending, limit_s=limit_s, cancelled=cancelled)

    def _ask(
        self,
        number: int,
        pending: Pending,
        *,
        limit_s: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Any:  # noqa: ANN401  # as the call gives it
        self._keeper.submit(number, pending)
        try:
            while not wait([pending.reply], _LOOK_S).done:
                if cancelled():
                    raise Cancelled("The work was cancelled")
                self._check_time(pending, limit_s)
            return pending.reply.result()
        except BaseException:  # also Ctrl-C: nobody waits for it
            self._keeper.drop(number)
            raise

    def _check_time(self, pending: Pending, limit_s: float | None) -> None:
        sent_at = pending.sent_at
        if limit_s is not None and sent_at is not None and monotonic() - sent_at > limit_s:
            error = EngineCrashed(
                f"The prompt was not ready after {limit_s:.0f} s, and the engine's process was ended",
                why="The model's chat template or tokenizer does not come to an end with it",
                remedy="Use another model",
            )
            self._keeper.blame(pending, error)
            pending.sent_at = None
