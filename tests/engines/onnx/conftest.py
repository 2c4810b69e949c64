"""ONNX packages: tiny ones with random weights, made in milliseconds."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeai.converters.linear import Quant
from edgeai.converters.onnx_package import export
from edgeai.engines import DevicePlan
from edgeai.engines.onnx.engine import OnnxEngine, open_engine
from tests.tiny_gguf import write_tiny_gguf

Open = Callable[[Path], OnnxEngine]


def tiny_plan(n_ctx: int = 256) -> DevicePlan:
    """A plan for a tiny model."""
    return DevicePlan(n_ctx=n_ctx, n_threads=1)


def write_tiny_package(folder: Path, *, quant: Quant = "f32", seed: int = 0) -> Path:
    """A converted tiny model in ``folder``, which is returned."""
    source = write_tiny_gguf(folder.parent / f"{folder.name}.gguf", seed=seed)
    export(source, folder, quant=quant)
    return folder


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny package, made once; nobody may change it."""
    return write_tiny_package(tmp_path_factory.mktemp("sound") / "tiny")


@pytest.fixture
def tiny(sound: Path, tmp_path: Path) -> Path:
    """The folder of a tiny package, to be damaged."""
    return shutil.copytree(sound, tmp_path / "tiny")


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open packages, which are closed after the test."""
    engines: list[OnnxEngine] = []

    def run(folder: Path) -> OnnxEngine:
        engines.append(open_engine(folder, tiny_plan(), name="tiny"))
        return engines[-1]

    yield run
    for engine in engines:
        engine.close()
