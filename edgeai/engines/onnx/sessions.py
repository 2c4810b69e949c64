"""One session for each number of threads, over the same weights; others are loaded when they are wanted.

ONNX Runtime fixes a session's threads. Keys and values are the context's, so that the session can change
between two steps.
"""

import logging
import threading
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Final

from edgeai.engines import DevicePlan, Step
from edgeai.engines.onnx.packed import find_packed, open_session, pack
from edgeai.engines.onnx.session import Session, give_back
from edgeai.errors import EdgeError

__all__ = ["Sessions", "open_sessions"]

_PATIENCE_S: Final = 0.5  # a neighbour that stays as long is worth loading for
_log = logging.getLogger("edgeai.engines")


class Sessions:
    """Belongs to one thread. ``plan`` is that of the first. Raises what `Session` raises.

    Where the plan has decoding done elsewhere, there is one session, on that device.
    """

    def __init__(self, path: Path, plan: DevicePlan) -> None:
        elsewhere = next((offload for offload in plan.offloads if offload.work == "decode"), None)
        self.first = open_session(path, plan) if elsewhere is None else Session(path, plan, elsewhere)
        self._is_here = elsewhere is None
        self.n_threads = plan.n_threads
        self._path, self._plan = path, plan
        self._known: dict[int, Session | None] = {plan.n_threads: self.first}
        self._loading: threading.Thread | None = None
        self._wanted_since: float | None = None

    @property
    def follows(self) -> bool:
        """Whether the number of threads may change at all."""
        return self._is_here and self._plan.follow_load and self._plan.spare_session and self._plan.prepack

    def at(self, n_threads: int) -> Session | None:
        """The session with so many threads or the next fewer that there can be: 1/2, 1/4, … of all.

        None where there is none yet: what is there goes on. One that is wanted for half a second is loaded,
        in a thread of its own.
        """
        count = self._plan.n_threads
        while count > max(1, n_threads):
            count //= 2
        now = perf_counter()
        if count in self._known:
            self._wanted_since = None
            return self._known[count]
        self._wanted_since = self._wanted_since or now
        if now - self._wanted_since >= _PATIENCE_S:
            self.load(count)
        return None

    def load(self, n_threads: int) -> threading.Thread:
        """Begin to load the session with so many threads; what does that."""
        self.wait()
        self._known[n_threads] = None
        self._loading = threading.Thread(
            target=self._load, args=(n_threads,), name="edgeai-spare", daemon=True
        )
        self._loading.start()
        return self._loading

    def wait(self) -> None:
        """Until what is loaded now is loaded."""
        if self._loading is not None:
            self._loading.join()

    def close(self) -> None:
        """Let go of all."""
        self.wait()
        self._known.clear()

    def _load(self, n_threads: int) -> None:
        plan = replace(self._plan, n_threads=n_threads)
        try:
            self._known[n_threads] = Session(find_packed(self._path) or pack(self._path, plan), plan)
        except (EdgeError, OSError) as error:
            _log.warning("There is no session for %d threads, so more go on: %s", n_threads, error)
        give_back()


def open_sessions(path: Path, plan: DevicePlan) -> tuple[Sessions, DevicePlan]:
    """The sessions, and the plan as it has become: on the processor, where that of a device does not open.

    Raises what `Sessions` raises, for a device that must be had, too.
    """
    elsewhere = [offload for offload in plan.offloads if offload.work == "decode"]
    try:
        return Sessions(path, plan), plan
    except EdgeError as error:
        if not elsewhere or elsewhere[0].required:
            raise
        _log.warning("decode on %s is done by the processor: %s", plan.provider, error)
        failed = Step(work="decode", provider=plan.provider)
        steps = tuple(replace(step, why=str(error)) if step == failed else step for step in plan.steps)
        rest = tuple(offload for offload in plan.offloads if offload not in elsewhere)
        steps = (*steps, Step(work="decode", provider="cpu"))
        plan = replace(plan, provider="cpu", offloads=rest, steps=steps)
    return Sessions(path, plan), plan
