"""Keeps an engine's process alive: starts it, hears it, starts it again, and settles what was under way."""

import copy
import itertools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from edgeai.engines import EngineInfo, Generation
from edgeai.engines.generation import Finished
from edgeai.engines.process import EngineProcess
from edgeai.engines.watchdog import LIMIT_S, Watchdog
from edgeai.engines.wire import WireError, pack
from edgeai.errors import Cancelled, EdgeError, EngineClosed, EngineCrashed, EngineError, QueueFull
from edgeai.types import Token

__all__ = ["Keeper", "Pending"]

MAX_CRASHES: Final = 5
"""After so many within `WINDOW_S` it is not started again, until the first of them is older than that."""
WINDOW_S: Final = 60.0
MAX_TRIES: Final = 2
"""A query that was there when the process died as often as this may be the reason."""
MAX_PENDING: Final = 1024
_FIRST_DELAY_S: Final = 0.1
_PATIENCE_S: Final = 2.0

_logger = logging.getLogger("edgeai.engines")


@dataclass(slots=True, kw_only=True, eq=False)
class Pending:
    """A call under way: its ``frame``, so that it can be sent again, and where its results go."""

    frame: bytes
    reply: Future[Any] = field(default_factory=Future)
    generation: Callable[[], Generation | None] | None = None
    sent_at: float | None = None
    deaths: int = 0
    blame: EngineError | None = None
    held: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def attach(self, generation: Generation) -> None:
        """Its tokens go there; the reader owns it."""
        self.generation = weakref.ref(generation)

    def settle(self, result: object) -> None:
        """The reply has come: a value or an error."""
        if not self.reply.done():
            if isinstance(result, EdgeError):
                self.reply.set_exception(result)
            else:
                self.reply.set_result(result)
        elif isinstance(result, EngineError):
            self._fail(result)
        elif isinstance(result, EdgeError):
            self._fail(EngineCrashed("The query could not be asked again", why=str(result)))

    def survives(self) -> bool:
        """Whether it may be sent to the next process: nothing was read, and it is not under suspicion."""
        self.deaths += self.sent_at is not None
        self.sent_at, self.held = None, False
        if self.blame is not None or self.deaths >= MAX_TRIES:
            return False
        if self.generation is None:
            return True
        generation = self.generation()
        return generation is not None and generation.renew()

    def _fail(self, error: EngineError) -> None:
        generation = self.generation and self.generation()
        if generation is not None:
            generation.fail(error)


class Keeper:
    """One process after another for the same engine; its thread starts them and hears them.

    ``opening`` is the frame that opens the engine. ``opened`` has what it is, or the first start's error.
    A process of which nothing is heard for ``limit_s`` although it has work is ended, as is one that has not
    opened the engine again after ``load_limit_s``.
    """

    def __init__(
        self,
        opening: bytes,
        *,
        verbose: bool = False,
        limit_s: float = LIMIT_S,
        load_limit_s: float | None = None,
    ) -> None:
        self._opening, self._verbose = opening, verbose
        self.opened: Future[tuple[EngineInfo, Mapping[str, int]]] = Future()
        self._changed = threading.Condition()  # re-entrant: garbage collection may call `close` anywhere
        self._numbers = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._process: EngineProcess | None = None  # alive
        self._ready: EngineProcess | None = None  # alive, and the engine is open
        self._refusal: EngineError | None = None
        self._broken: EngineError | None = None
        self._crashes: deque[float] = deque(maxlen=MAX_CRASHES)
        self._closing = False
        self._hangs: str | None = None
        self._load_limit_s, self._born = load_limit_s, monotonic()
        self._watchdog = Watchdog(limit_s, self._works, self._end_hung)
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._main, name="edgeai-keeper", daemon=True)
        self._thread.start()

    # from any thread

    @property
    def pid(self) -> int | None:
        """The number of the process whose engine is open; None between two of them."""
        return None if self._ready is None else self._ready.pid

    def number(self) -> int:
        """A new call's number."""
        return next(self._numbers)

    def submit(self, number: int, pending: Pending) -> None:
        """Send the call now, or as soon as there is a process. Raises EngineCrashed and QueueFull."""
        self._check_owner()
        with self._changed:
            if self._closing:
                raise EngineClosed("The engine is closed", remedy="Open the model again")
            if self._broken is not None:
                if self._recent() >= MAX_CRASHES:
                    raise copy.copy(self._broken)
                self._broken = None
                self._changed.notify_all()
            if len(self._pending) >= MAX_PENDING:
                raise QueueFull(f"{MAX_PENDING} queries wait already", remedy="Ask less at once")
            self._pending[number] = pending
            if self._ready is not None:
                self._send(self._ready, pending)

    def changed(self, number: int) -> None:
        """The reader of a stream has left, or reads again, or pauses. May be called from anywhere."""
        pending = self._pending.get(number)
        if pending is None or pending.generation is None:
            return
        generation = pending.generation()
        if generation is None or generation.cancelled:
            self.drop(number)
        else:
            self._steer(number, pending, generation)

    def drop(self, number: int) -> None:
        """Nobody wants the call's result any more. May be called from anywhere."""
        if self._pending.pop(number, None) is not None and (process := self._ready) is not None:
            process.send(pack(["cancel", number]))

    def blame(self, pending: Pending, error: EngineError) -> None:
        """End the process for what this call does to it; the others are asked again."""
        with self._changed:
            pending.blame = error
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End everything, within seconds. May be called again."""
        if os.getpid() != self._owner:  # in a fork: the process is not ours
            return
        with self._changed:
            self._closing = True
            process = self._process
            self._changed.notify_all()
        self._watchdog.stop()
        self._fail_all(Cancelled("The engine was closed"))
        if threading.current_thread() is not self._thread:
            if process is not None:
                process.end()
            self._thread.join(_PATIENCE_S)
        elif process is not None:
            process.kill()  # it is us who would hear it leave

    # the watchdog's thread

    def _works(self) -> bool:
        """Whether a sign of life is due."""
        if self._ready is not None:
            return bool(self._pending)
        limit_s = self._load_limit_s
        return self._process is not None and limit_s is not None and monotonic() - self._born > limit_s

    def _end_hung(self) -> None:
        with self._changed:
            if self._process is not None:
                self._hangs = f"Nothing was heard of it for {self._watchdog.limit_s:g} s, and it was ended"
                self._process.kill()

    # the thread

    def _main(self) -> None:
        while self._wait():
            self._after(self._life())
        self._fail_all(Cancelled("The engine was closed"))

    def _wait(self) -> bool:
        """Until a process should be started; false at the end."""
        with self._changed:
            start = monotonic() + self._delay()
            while not self._closing:
                if self._broken is not None:
                    self._changed.wait()
                elif (rest := start - monotonic()) > 0:
                    self._changed.wait(rest)
                else:
                    return True
        return False

    def _delay(self) -> float:
        """Seconds before the next start: none after a first crash, then twice as many each time."""
        recent = self._recent()
        return _FIRST_DELAY_S * 2.0 ** (recent - 2) if recent > 1 else 0.0

    def _recent(self) -> int:
        since = monotonic() - WINDOW_S
        return sum(crash >= since for crash in self._crashes)

    def _life(self) -> EngineError:
        """One process from start to end, and why it ended."""
        self._refusal = None
        try:
            process = EngineProcess(verbose=self._verbose)
        except EngineError as error:
            return error
        with self._changed:
            self._process, self._hangs, self._born = process, None, monotonic()
            if self._closing:
                process.kill()
        process.send(self._opening)
        try:
            for message in process.messages():
                self._hear(process, message)
        except WireError as error:
            process.kill()
            _logger.error("The engine's process was ended: %s", error)
        with self._changed:
            self._process = self._ready = None
        verdict = process.bury()
        if self._hangs is not None:
            remedy = "Ask again: it is started anew; a slower machine may need a larger isolation_limit_s"
            verdict = EngineCrashed("The engine's process hung", why=self._hangs, remedy=remedy)
        return self._refusal or verdict

    def _hear(self, process: EngineProcess, message: object) -> None:
        self._watchdog.heard()
        match message:
            case ["beat"]:
                pass
            case ["tokens", [*news]]:
                for item in news:
                    self._hear_tokens(process, item)
            case ["reply", int(number), result]:
                pending = self._pending.get(number)
                if pending is not None:
                    if pending.generation is None or isinstance(result, EdgeError):
                        self._pending.pop(number, None)
                    pending.settle(result)
            case ["opened", EngineInfo() as info, dict(memory)]:
                self._begin(process)
                if not self.opened.done():
                    self.opened.set_result((info, memory))
            case ["failed", EdgeError() as error]:
                self._refuse(error)
                process.kill()
            case _:
                raise WireError("a message of no known kind")

    def _hear_tokens(self, process: EngineProcess, item: object) -> None:
        match item:
            case [int(number), [*tokens]]:
                pending = self._pending.get(number)
            case _:
                raise WireError("tokens of no known form")
        generation = pending.generation() if pending and pending.generation else None
        if pending is None or generation is None:
            process.send(pack(["cancel", number]))  # it may have been dropped just when it was sent
            return
        for token in tokens:
            match token:
                case Token():
                    generation.lay(token)
                case Finished():
                    self._pending.pop(number, None)
                    generation.finish(token)
                    return
                case EngineError():
                    self._pending.pop(number, None)
                    generation.fail(token)
                    return
                case _:
                    raise WireError("something among the tokens")
        generation.wake()
        self._steer(number, pending, generation)

    def _steer(self, number: int, pending: Pending, generation: Generation) -> None:
        """Let the engine know when the reader cannot keep up, and when it can again."""
        with pending.lock:
            wanted = generation.wanted
            if wanted == pending.held and (process := self._ready) is not None:
                pending.held = not wanted
                process.send(pack(["pause", number, pending.held]))

    def _begin(self, process: EngineProcess) -> None:
        with self._changed:
            self._ready = process
            for _, pending in sorted(self._pending.items()):
                self._send(process, pending)

    def _send(self, process: EngineProcess, pending: Pending) -> None:
        pending.sent_at = monotonic()
        process.send(pending.frame)

    def _refuse(self, error: EdgeError) -> None:
        """The model could not be opened: at first that is the error, later the file has been changed."""
        if not self.opened.done():
            self.opened.set_exception(error)
            self._closing = True
        elif not isinstance(error, EngineError):
            error = EngineCrashed("The engine could not be started again", why=str(error))
        if isinstance(error, EngineError):
            self._refusal = error

    def _after(self, error: EngineError) -> None:
        """Count the crash; fail what must not or cannot be asked again."""
        if self._closing:
            return
        _logger.warning("%s", error)
        with self._changed:
            self._crashes.append(monotonic())
            doomed = [number for number, one in list(self._pending.items()) if not one.survives()]
            if not self.opened.done() and (len(self._crashes) >= MAX_TRIES or self._process_never(error)):
                self.opened.set_exception(error)
                self._closing = True
            if self._recent() >= MAX_CRASHES:
                why = f"It died {MAX_CRASHES} times within {WINDOW_S:.0f} s, at last so: {error}"
                self._broken = type(error)("The engine's process keeps on dying", why=why)
                doomed = list(self._pending)
        self._fail(doomed, self._broken or error)

    def _process_never(self, error: EngineError) -> bool:
        """Whether it could not even be started, so that a second try is idle."""
        return not isinstance(error, EngineCrashed)

    def _fail_all(self, error: EngineError) -> None:
        self._fail(list(self._pending), error)

    def _fail(self, numbers: Sequence[int], error: EngineError) -> None:
        for number in numbers:
            if (pending := self._pending.pop(number, None)) is not None:
                pending.settle(copy.copy(pending.blame or error))

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise EngineCrashed(
                "The engine belongs to another process",
                why="This process was forked from the one that opened it",
                remedy="Open the model here",
            )
