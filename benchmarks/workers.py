"""Contenders in processes of their own: two OpenMP pools in one process would slow both down."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any, TypeVar

Contender = Mapping[str, Callable[[], float]]
T = TypeVar("T")
Build = Callable[..., Mapping[str, Callable[[], T]]]


@contextmanager
def worker(
    build: Build[T], *arguments: object, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Callable[[str], T]]:
    """A child process that builds a contender, and how to ask it for one of its figures.

    ``environment`` is added to its own: some libraries read it when they are loaded, and never again.
    """
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    child = spawn.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
    kept = dict(os.environ)
    os.environ.update(environment)
    try:
        child.start()
    finally:
        os.environ.clear()
        os.environ.update(kept)
    theirs.close()  # so that a child that dies is an EOFError, not a wait for ever
    try:
        ours.recv()

        def ask(name: str) -> T:
            ours.send(name)
            figure: T = ours.recv()
            return figure

        yield ask
    finally:
        ours.send(None)
        child.join(30)


def _serve(connection: Connection, build: Build[Any], arguments: tuple[Any, ...]) -> None:
    contender = build(*arguments)
    connection.send("ready")
    while (name := connection.recv()) is not None:
        figure = contender[name]()
        time.sleep(0.05)  # an OpenMP pool spins for a moment; the next contender should not notice
        connection.send(figure)
