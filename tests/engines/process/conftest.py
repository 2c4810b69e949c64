"""Engines in processes of their own, and what it takes to kill them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edgeai.engines.worker import ProcessEngine, open_engine
from tests.engines.conftest import plan
from tests.tiny_gguf import write_tiny_gguf

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for another thread's, or process's, doing."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def kill(engine: ProcessEngine, number: int = KILL) -> int:
    """End the engine's process as the system, or an assertion in C, would; its number."""
    wait_until(lambda: engine.pid)
    pid = engine.pid
    assert pid is not None
    os.kill(pid, number)
    return pid


def children() -> list[int]:
    """The numbers of this process's children, zombies included."""
    return [child.pid for child in psutil.Process().children()]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads in milliseconds and babbles."""
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", n_ctx=2048)


@pytest.fixture
def babbler(tiny: Path) -> Iterator[ProcessEngine]:
    """The tiny model in a process, for a test that kills it."""
    engine = open_engine("llamacpp", tiny, plan(2048), name="tiny")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def isolated(model_path: Path) -> Iterator[ProcessEngine]:
    """The default model in a process that lives on."""
    engine = open_engine("llamacpp", model_path, plan(1024), name="smollm2")
    yield engine
    engine.close()
