"""The sync driver: the events of one query as an iterator."""

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from edgeai.call import Call
from edgeai.errors import Cancelled
from edgeai.types import Answer, Done, Event


class Stream:
    """The events of one query, `Delta`, `Replaced` and at the end `Done`. Use it as an iterator.

    `cancel` ends it from any thread: the last event is then a `Done` whose answer holds what was shown and
    has ``finish_reason="cancelled"``. Leaving a ``with`` block or dropping the stream ends it silently.
    """

    def __init__(self, call: Call, on_done: Callable[[Answer], None] = lambda answer: None) -> None:
        self._call, self._on_done = call, on_done
        self._answer: Answer | None = None
        self._woken = threading.Event()
        self._events: deque[Event] = deque(call.begin(self._woken.set))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        while not (events := self._arrived(limit=1)):
            if self._call.done:
                raise StopIteration
            try:
                self._woken.wait(self._call.wait_s())
            except BaseException:  # Ctrl-C ends both sides
                self._call.close()
                raise
        return events[0]

    def ready(self) -> list[Event]:
        """The events that are there now, without waiting: for a window that looks in from time to time.

        After the one that holds `Done` it gives nothing any more. Raises as iterating does.
        """
        return self._arrived(limit=None)

    def _arrived(self, limit: int | None) -> list[Event]:
        if not self._events:
            self._woken.clear()
            try:
                self._events.extend([] if self._call.done else self._call.step())
                if not self._events and (failure := self._call.take_failure()):
                    raise failure
            except BaseException:
                self._call.close()
                raise
        count = len(self._events) if limit is None else min(limit, len(self._events))
        events = [self._events.popleft() for _ in range(count)]
        for event in events:
            if isinstance(event, Done):
                self._answer = event.answer
                self._on_done(event.answer)
        return events

    def answer(self) -> Answer:
        """Run to the end and return the answer, also when that was read before."""
        while self._answer is None and next(self, None):
            pass
        if self._answer is None:
            raise Cancelled("The stream was closed before its end")
        return self._answer

    def cancel(self) -> None:
        """End the query, from any thread."""
        self._call.stop()

    def close(self) -> None:
        """End the query; no further events."""
        self._events.clear()
        self._call.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_events"):
            self.close()
