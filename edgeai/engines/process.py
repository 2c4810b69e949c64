"""One engine process as its app sees it: started, spoken to, ended, and why it ended."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Final

from edgeai.engines.child import FLAG
from edgeai.engines.wire import WireError, read
from edgeai.errors import EngineCrashed, EngineError, EngineLoadFailed, OutOfMemory

__all__ = ["EngineProcess"]

_MARK: Final = "_EDGEAI_ENGINE_PROCESS"
"""In the environment of every engine's process: one that would start another is a frozen app gone astray."""

_TAIL: Final = 4096  # bytes of stderr that are kept
_LINES: Final = 3
_PATIENCE_S: Final = 2.0
_MEMORY_WORDS: Final = (
    "bad_alloc",
    "memoryerror",
    "failed to allocate",
    "unable to allocate",
    "cannot allocate memory",
    "out of memory",
)


class EngineProcess:
    """A child process. It ends with the thread that makes it, which is also the one that reads `messages`.

    Raises EngineLoadFailed when it cannot be started. ``send`` never blocks and may be called anywhere.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._process = _start()
        self._verbose = verbose
        self._said = b""
        self._nonsense: str | None = None
        self._out: SimpleQueue[bytes | None] = SimpleQueue()
        self.send = self._out.put
        self._listener = self._thread(self._listen)
        self._thread(self._write)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def messages(self) -> Iterator[object]:
        """What it says, until it ends, or says what makes no sense."""
        try:
            while True:
                yield read(_pipe(self._process.stdout))
        except (EOFError, OSError):
            return
        except WireError as error:
            self._nonsense = str(error)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def end(self, patience_s: float = _PATIENCE_S) -> None:
        """Let it go, or else end it; it is gone, and nothing of it is left, when this returns."""
        self._out.put(None)  # the end of the pipe is its sign to leave
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def bury(self) -> EngineError:
        """After `messages` has ended: clean up, and say why it is dead."""
        if self._nonsense is not None:
            self._process.kill()
        self.end()
        self._listener.join(_PATIENCE_S)
        _pipe(self._process.stdout).close()
        return self._verdict()

    def _verdict(self) -> EngineError:
        code = self._process.returncode
        lines = [line.strip() for line in self._said.decode("utf-8", "replace").splitlines() if line.strip()]
        why = self._nonsense or _ending(code)
        if lines:
            why += f"; it said: {' / '.join(lines[-_LINES:])}"
        if any(word in line.lower() for line in lines for word in _MEMORY_WORDS):
            remedy = "Allow it more, or use a smaller n_ctx or model"
            return OutOfMemory("The engine's process ran out of memory", why=why, remedy=remedy)
        remedy = "Ask again: it is started anew, unless it keeps on failing"
        return EngineCrashed("The engine's process died", why=why, remedy=remedy)

    def _thread(self, work: "object") -> threading.Thread:
        assert callable(work)
        thread = threading.Thread(target=work, name="edgeai-process", daemon=True)
        thread.start()
        return thread

    def _write(self) -> None:
        pipe = _pipe(self._process.stdin)
        with suppress(OSError):  # it is dead, which `messages` finds out
            while (frame := self._out.get()) is not None:
                pipe.write(frame)
                if self._out.empty():
                    pipe.flush()
        with suppress(OSError):
            pipe.close()

    def _listen(self) -> None:
        with _pipe(self._process.stderr) as pipe:
            while said := os.read(pipe.fileno(), _TAIL):
                self._said = (self._said + said)[-_TAIL:]
                if self._verbose and sys.stderr is not None:
                    sys.stderr.write(said.decode("utf-8", "replace"))


def _start() -> "subprocess.Popen[bytes]":
    if _MARK in os.environ:
        raise EngineLoadFailed(
            "An engine's process would start an engine's process",
            why="A frozen app must call edgeai.engines.child.freeze_support() first of all",
            remedy="Call it at the top of the app's main module, or use isolation='thread'",
        )
    if not sys.executable:
        raise EngineLoadFailed(
            "This Python cannot start another", why="sys.executable is empty", remedy="Use isolation='thread'"
        )
    frozen = getattr(sys, "frozen", False)
    program = [FLAG] if frozen else ["-P", "-m", "edgeai.engines.child"]
    path = os.pathsep.join(part for part in sys.path if part)
    try:
        return subprocess.Popen(
            [sys.executable, *program, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {_MARK: "1"} | ({} if frozen else {"PYTHONPATH": path}),
            start_new_session=True,  # Ctrl-C in the terminal is for the app
            creationflags=_windows_flags(),
        )
    except OSError as error:
        raise EngineLoadFailed("The engine's process cannot be started", why=str(error)) from error


def _windows_flags() -> int:
    """No Ctrl-C of the app's console, and no console of its own."""
    if sys.platform != "win32":
        return 0
    return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # all three were asked for
    return pipe


def _ending(code: int) -> str:
    if code >= 0:
        return f"it ended with the exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"it was ended by {name}{hint}"
    return f"it was ended by signal {-code}"
