"""The engine's side of process isolation: ``python -m edgeai.engines.child PARENT``, started by the app.

Requests come in on what was stdin, answers go out on what was stdout (`edgeai.engines.wire`). The process
ends when the pipe does, so it never outlives its app; whatever it writes is stderr, which the app keeps to
say why it died.
"""

import ctypes
import importlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO, Final, NoReturn

from edgeai.engines import DevicePlan
from edgeai.engines.failures import failure_of, no_room
from edgeai.engines.generation import Generation
from edgeai.engines.wire import pack, read
from edgeai.errors import EdgeError
from edgeai.types import Priority, Request, Token

__all__ = ["FLAG", "freeze_support", "serve"]

FLAG: Final = "--edgeai-engine"
"""How a frozen app is started to be an engine's process."""

_CALLS: Final = ("embed", "tokenize", "count_prompt", "memory", "warm", "limit_threads")
_GOODBYE_S: Final = 1.0
_FAILED: Final = 70
_STACK: Final = 2 << 20
_PR_SET_PDEATHSIG: Final = 1
_logger = logging.getLogger("edgeai.engines")


def freeze_support() -> None:
    """The first line of a frozen app's main: it does nothing, unless the app was started as an engine."""
    if sys.argv[1:2] == [FLAG]:
        serve(int(sys.argv[2]))


def serve(parent: int) -> NoReturn:
    """Be the engine of the process ``parent`` until it closes the pipe; ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the app's to decide
    threading.excepthook = _die_of
    _end_with(parent)
    reading, writing = _pipes()
    server = _Server(writing)
    with suppress(EOFError, OSError):
        while True:
            server.take(read(reading))
    server.end()


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two ends of ours; what a library prints on stdout goes to stderr."""
    reading, writing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return reading, writing


def _end_with(parent: int) -> None:
    """Also where this process is stuck in native code, and so does not see that the pipe has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_FAILED)
    elif sys.platform != "win32":
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(_FAILED)


def _die_of(failure: threading.ExceptHookArgs) -> None:
    """A thread that dies takes the process with it: the app starts another one."""
    if failure.exc_value is not None:
        traceback.print_exception(failure.exc_value)
    os._exit(_FAILED)


def _limit_memory(limit: int) -> None:
    """Refuse this process more private memory than ``limit`` bytes; mapped weights are not counted."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


class _Server:
    """One engine, and the calls under way. Reading, working and writing have threads of their own."""

    def __init__(self, writing: BinaryIO) -> None:
        self._writing = writing
        self._engine: Any = None
        self._calls: dict[int, threading.Event] = {}
        self._streams: dict[int, Generation] = {}
        # What is to be written: whole messages, and the numbers of streams that have something new.
        self._out: SimpleQueue[list[object] | int] = SimpleQueue()
        threading.Thread(target=self._write, name="edgeai-pipe", daemon=True).start()

    def take(self, message: Any) -> None:  # noqa: ANN401  # from the app, whom we trust
        """Do what a message says; what takes time is done in a thread."""
        match message:
            case ["open", *arguments]:
                self._begin(self._open, *arguments)
            case ["cancel", number]:
                self._cancel(number)
            case ["pause", number, paused]:
                if (generation := self._streams.get(number)) is not None:
                    (generation.pause if paused else generation.resume)()
            case [str(what), int(number), *arguments]:
                self._calls[number] = threading.Event()
                self._begin(self._answer, what, number, arguments)

    def end(self) -> NoReturn:
        """The app has closed the pipe, or is gone."""
        hurry = threading.Timer(_GOODBYE_S, os._exit, (0,))
        hurry.daemon = True
        hurry.start()
        if self._engine is not None:
            self._engine.close()
        os._exit(0)

    def _begin(self, work: Any, *arguments: object) -> None:  # noqa: ANN401  # any of our methods
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _open(
        self, engine: str, path: str, plan: DevicePlan, name: str, memory_bytes: int | None, beat_s: float
    ) -> None:
        try:
            package = importlib.import_module(f"edgeai.engines.{engine}")
            if memory_bytes is not None:
                _limit_memory(memory_bytes)
            self._engine = package.open_engine(Path(path), plan, name=name)
        except EdgeError as error:
            self._out.put(["failed", error])
        except MemoryError as error:
            self._out.put(["failed", no_room(error)])
        else:
            if memory_bytes is not None:
                threading.stack_size(_STACK)  # all of a thread's stack counts from its start
            self._out.put(["opened", self._engine.info, self._engine.memory()])
            self._begin(self._beat, beat_s)

    def _beat(self, beat_s: float) -> None:
        """Say that work goes on, unless it is still the same step as at the last look."""
        last: float | None = None
        while True:
            time.sleep(beat_s)
            if not self._calls:
                continue
            pulse = self._engine.pulse
            if pulse is None or pulse != last:
                self._out.put(["beat"])
            last = pulse

    def _answer(self, what: str, number: int, arguments: list[Any]) -> None:
        try:
            result = self._result(what, number, arguments)
        except EdgeError as error:
            result = error
        except Exception as error:  # a bug in one call must not end the others
            if not isinstance(error, MemoryError):
                _logger.error("A call failed", exc_info=error)  # on stderr
            result = failure_of("The call failed inside the engine", error)
        self._out.put(["reply", number, result])
        generation = self._streams.get(number)
        if generation is None:
            del self._calls[number]
        else:
            generation.on_ready(partial(self._out.put, number))

    def _result(self, what: str, number: int, arguments: list[Any]) -> object:
        if what == "stream":
            self._stream(number, *arguments)
            return None
        if what == "score":
            return self._score(number, *arguments)
        if what not in _CALLS:
            raise ValueError(f"there is no call {what}")
        positional, keywords = arguments
        return getattr(self._engine, what)(*positional, **keywords)

    def _stream(self, number: int, request: Request) -> None:
        self._streams[number] = generation = self._engine.stream(request)
        if self._calls[number].is_set():  # it was cancelled meanwhile
            generation.cancel()

    def _score(
        self,
        number: int,
        prompt: str,
        continuations: list[str],
        with_state: object,
        adapter: str | None,
        priority: Priority,
    ) -> tuple[object, object]:
        states: list[object] = []
        totals = self._engine.score(
            prompt,
            continuations,
            cancelled=self._calls[number].is_set,
            on_state=states.append if with_state else None,
            adapter=adapter,
            priority=priority,
        )
        return totals, (states[0] if states else None)

    def _cancel(self, number: int) -> None:
        if (call := self._calls.get(number)) is not None:
            call.set()
        if (generation := self._streams.get(number)) is not None:
            generation.cancel()

    def _write(self) -> None:
        """Everything that waits at once: a reader that is behind gets several tokens in one message."""
        while True:
            waiting = [self._out.get()]
            with suppress(Empty):
                while True:
                    waiting.append(self._out.get_nowait())
            frames = [pack(message) for message in waiting if not isinstance(message, int)]
            ready = dict.fromkeys(number for number in waiting if isinstance(number, int))
            if news := [[number, items] for number in ready if (items := self._new(number))]:
                frames.append(pack(["tokens", news]))
            try:
                self._writing.write(b"".join(frames))
                self._writing.flush()
            except OSError:  # nobody listens any more
                os._exit(0)

    def _new(self, number: int) -> list[object]:
        generation = self._streams.get(number)
        items: list[Any] = [] if generation is None else generation.take()
        if items and not isinstance(items[-1], Token):
            del self._streams[number], self._calls[number]
        return items


if __name__ == "__main__":
    serve(int(sys.argv[1]))
