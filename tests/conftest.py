"""What every test may use: a home of its own, and the default model, pulled once."""

import os
import signal
from pathlib import Path

import pytest

from edgeai.models import catalog, store
from edgeai.net import breaker
from edgeai.paths import cache_dir

# A run that was started in the background ignores Ctrl-C, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_to_one_core() -> None:
    """Side by side, each worker computes on a core of its own: threads that wait for a core spin for long."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


_keep_to_one_core()
_ORDINARY_CACHE = cache_dir()  # before any test moves it
_SHARED = catalog.resolve(catalog.default_name()).id


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The default model's file in the developer's ordinary cache; really pulled the first time."""
    return store.pull(_SHARED).path


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty EDGEAI_HOME, in which only the default model is linked, if it was pulled before.

    A test that needs it there asks for `model_path` too, which is made first.
    """
    home = tmp_path / "edgeai-home"
    shared = _ORDINARY_CACHE / "models" / _SHARED
    if shared.is_dir():
        (home / "cache" / "models").mkdir(parents=True)
        (home / "cache" / "models" / _SHARED).symlink_to(shared, target_is_directory=True)
    monkeypatch.setenv("EDGEAI_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def _no_memory_of_servers() -> None:
    """What one test's server did says nothing about the next one's."""
    breaker.forget_all()


@pytest.fixture(scope="session")
def onnx_package(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the default model converted for ONNX Runtime; made once, because it takes seconds."""
    from edgeai.converters.onnx_package import convert

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEAI_HOME", str(tmp_path_factory.mktemp("shared-home")))
        return convert(model_path).folder
