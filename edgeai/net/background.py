"""One event loop on a daemon thread, for callers that have none."""

import os
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

T = TypeVar("T")


def submit(coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
    """Run the coroutine on the process's background loop, which the first call starts.

    Cancelling the future cancels the coroutine; a network call in it closes its connection at once.
    """
    import asyncio

    background = _by_pid.setdefault(os.getpid(), _Background())
    return asyncio.run_coroutine_threadsafe(coroutine, background.loop())


class _Background:
    """The loop of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> "asyncio.AbstractEventLoop":
        with self._lock:
            if self._loop is None:
                self._loop = _start()
            return self._loop


# By process: after a fork the child has the parent's loop object but not its thread. The old one must stay
# referenced there, because closing it would unregister the parent's sockets.
_by_pid: dict[int, _Background] = {}


def _start() -> "asyncio.AbstractEventLoop":
    import asyncio
    from concurrent.futures import Future

    started: Future[asyncio.AbstractEventLoop] = Future()

    async def main() -> None:
        started.set_result(asyncio.get_running_loop())
        await asyncio.Event().wait()  # for as long as the process lives

    threading.Thread(target=lambda: asyncio.run(main()), name="edgeai-net", daemon=True).start()
    return started.result()
