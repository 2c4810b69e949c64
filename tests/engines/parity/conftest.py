"""The same model in both engines: the default model's GGUF file, and what the converter makes of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeai.engines import DevicePlan, llamacpp
from edgeai.engines.local import LocalEngine
from edgeai.engines.onnx.engine import open_engine as open_onnx

OPEN: dict[str, Callable[..., LocalEngine]] = {"llamacpp": llamacpp.open_engine, "onnx": open_onnx}


@dataclass(frozen=True, slots=True)
class Paths:
    """What each engine opens."""

    llamacpp: Path
    onnx: Path

    def open(self, engine: str, n_ctx: int) -> LocalEngine:
        """The engine with a context of ``n_ctx`` tokens and one thread."""
        path: Path = getattr(self, engine)
        return OPEN[engine](path, DevicePlan(n_ctx=n_ctx, n_threads=1), name="smollm2")


@pytest.fixture(scope="session")
def paths(model_path: Path, onnx_package: Path) -> Paths:
    """Both files."""
    return Paths(llamacpp=model_path, onnx=onnx_package / "model.onnx")


@pytest.fixture(scope="session", params=list(OPEN))
def engine(request: pytest.FixtureRequest, paths: Paths) -> Iterator[LocalEngine]:
    """Each engine in turn, with room for long prompts."""
    engine = paths.open(request.param, 4096)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def both(paths: Paths) -> Iterator[tuple[LocalEngine, LocalEngine]]:
    """llama.cpp and ONNX Runtime, side by side."""
    engines = paths.open("llamacpp", 1024), paths.open("onnx", 1024)
    yield engines
    for engine in engines:
        engine.close()


@pytest.fixture
def fresh(engine: LocalEngine, paths: Paths) -> Iterator[LocalEngine]:
    """An engine of the test's own, to be closed or filled, with a context of 256 tokens."""
    fresh = paths.open(engine.info.engine, 256)
    yield fresh
    fresh.close()
