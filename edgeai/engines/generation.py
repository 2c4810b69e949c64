"""The channel between an engine's thread and whoever reads one query's tokens."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edgeai.errors import Cancelled, EngineError
from edgeai.types import FinishReason, LabelScores, Token

MAX_UNREAD = 64

_logger = logging.getLogger("edgeai.engines")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The end of a generation. ``prefill_s`` in seconds; ``context_full``: cut off by the context's end.

    ``labels`` are the measurements, when it was a classification. ``device`` is what computed it, and
    ``passed_over`` what did not, as in `EngineInfo` by then.
    """

    reason: FinishReason
    n_prompt: int
    n_cached: int = 0
    prefill_s: float = 0.0
    context_full: bool = False
    labels: LabelScores | None = None
    device: str | None = None
    passed_over: tuple[str, ...] = ()


class Generation:
    """An iterator of tokens, fed by an engine.

    The engine calls `put` (or `lay` and later `wake`), `finish` or `fail`, and looks at `wanted` and
    `cancelled`; one reader iterates, or sets `on_ready` and calls `take`. A reader that stops reading pauses
    its sequence after 64 unread tokens. ``close()`` (same as ``cancel()``) is safe from any thread and at any
    time.
    """

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self._items: deque[Token | Finished | EngineError] = deque()
        self._changed = threading.Condition()
        self._on_change = on_change
        self._on_ready: Callable[[], None] | None = None
        self._cancelled = self._paused = False
        self._ended = self._read = False
        self.finished: Finished | None = None

    # the reader's side

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        with self._changed:
            while not self._items and not self._ended:
                self._changed.wait()
            item = self._items.popleft() if self._items else None
            self._read = True
            resumed = len(self._items) == MAX_UNREAD - 1
        if resumed:
            self._on_change()
        match item:
            case Token():
                return item
            case EngineError():
                raise item
            case _:
                raise StopIteration

    def on_ready(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` (quick, from the engine's thread) whenever `take` has something to give."""
        with self._changed:
            self._on_ready = callback
            ready = bool(self._items)
        if ready:
            callback()

    def take(self) -> list[Token | Finished | EngineError]:
        """Everything that has arrived since the last call, without waiting."""
        with self._changed:
            items = list(self._items)
            self._items.clear()
            self._read = self._read or bool(items)
        if len(items) >= MAX_UNREAD:
            self._on_change()
        return items

    def pause(self) -> None:
        """Let the engine make no more tokens until `resume`; what it has made stays to be taken."""
        self._paused = True

    def resume(self) -> None:
        """Let the engine go on."""
        if self._paused:
            self._paused = False
            self._on_change()

    def cancel(self) -> None:
        """End the generation within one token, also during prefill."""
        with self._changed:
            if self._ended:
                return
            self._cancelled = True
        self._end(Cancelled("The query was cancelled"))
        self._on_change()

    close = cancel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self.cancel()

    # the engine's side

    @property
    def cancelled(self) -> bool:
        """Whether the reader wants no more."""
        return self._cancelled

    @property
    def wanted(self) -> bool:
        """Whether the reader keeps up and has not paused, so that the next token should be made."""
        return len(self._items) < MAX_UNREAD and not self._paused

    def put(self, token: Token) -> None:
        """Hand over the next token, and wake the reader."""
        self.lay(token)
        self.wake()

    def lay(self, token: Token) -> None:
        """Put the next token where the reader finds it, without waking it."""
        with self._changed:
            if not self._ended:
                self._items.append(token)

    def wake(self) -> None:
        """Tell the reader that there is something new."""
        with self._changed:
            self._changed.notify()
            callback = self._on_ready
        if callback:
            self._tell(callback)

    def renew(self) -> bool:
        """Forget what nobody has read, for an engine that begins anew; false if it is too late for that."""
        with self._changed:
            if self._read or self._ended:
                return False
            self._items.clear()
            return True

    def finish(self, finished: Finished) -> None:
        """The last token has been handed over."""
        self.finished = finished
        self._end(finished)

    def fail(self, error: EngineError) -> None:
        """The engine cannot go on with this query."""
        self._end(error)

    def _end(self, last: Finished | EngineError) -> None:
        with self._changed:
            if self._ended:
                return
            self._ended = True
            self._items.append(last)
            self._changed.notify_all()
            callback = self._on_ready
        if callback:
            self._tell(callback)

    def _tell(self, callback: Callable[[], None]) -> None:
        """A reader's callback that fails is called no more; the engine goes on."""
        try:
            callback()
        except Exception as error:  # it is the reader's code, in the engine's thread
            _logger.error("A callback for new tokens failed", exc_info=error)
            with self._changed:
                if self._on_ready is callback:
                    self._on_ready = None
