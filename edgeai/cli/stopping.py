"""SIGTERM as Ctrl-C: what is half made is cleaned up, and the exit code says which of the two it was."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from edgeai.cli.exits import Exit


@contextmanager
def stopping() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block at SIGTERM, and leave it with the exit code for that.

    Signals belong to the main thread: in others this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = False

    def hear(*_: object) -> None:
        nonlocal heard
        heard = True
        raise KeyboardInterrupt  # as Ctrl-C, which native callbacks hand on already

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(Exit.TERMINATED if heard else Exit.STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
