"""One at a time, and who a person waits for before the background."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from edgeai.types import Priority

__all__ = ["Turnstile"]


class Turnstile:
    """A lock that the background gets only while nobody else wants it. From any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._people = 0
        self.since: float | None = None
        """When the present turn began, by `perf_counter`; None while there is none."""

    @contextmanager
    def take(self, priority: Priority) -> Iterator[None]:
        """Wait for a turn, and have it for the block."""
        background = priority == "background"
        with self._changed:
            self._people += not background
            try:
                while self.since is not None or (background and self._people):
                    self._changed.wait()
                self.since = perf_counter()
            finally:  # also after Ctrl-C
                self._people -= not background
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.since = None
                self._changed.notify_all()
