"""The number of threads changes between two tokens: sessions over the same weights, on the real model."""

import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeai.engines import DevicePlan, onnx
from edgeai.engines.local import LocalEngine
from edgeai.engines.onnx.engine import OnnxEngine
from edgeai.engines.onnx.packed import find_packed, pack
from edgeai.engines.onnx.sessions import Sessions
from edgeai.engines.pace import Pace
from edgeai.types import Message, Request

PLAN = DevicePlan(n_ctx=512, n_threads=2, follow_load=False)
MB = 1_000_000


class InTurn(Pace):
    """Two threads for three steps, one for three, and so on."""

    def __init__(self) -> None:
        super().__init__(2, follow_load=False)
        self.steps: list[int] = []

    def begin(self) -> int:
        self.steps.append(1 + len(self.steps) // 3 % 2)
        return self.steps[-1]


@pytest.fixture
def graph(onnx_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default model, with nothing packed yet."""
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path / "home"))
    return onnx_package / "model.onnx"


def opened(graph: Path, plan: DevicePlan) -> OnnxEngine:
    """A decoder."""
    engine = onnx.open_engine(graph, plan, name="smollm2")
    assert isinstance(engine, OnnxEngine)
    return engine


def tokens(engine: LocalEngine) -> list[int]:
    request = Request(messages=(Message("user", "Name three colours."),), max_tokens=16)
    with engine.stream(request) as generation:
        return [token.id for token in generation]


def own_bytes() -> int:
    """What this process has for itself alone, not counting files that it maps."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' /proc")
def test_the_same_tokens_whatever_the_number_of_threads(graph: Path) -> None:
    """Token by token another session goes on, and it takes next to no memory of its own."""
    first = opened(graph, PLAN)
    usual = tokens(first)
    first.close()
    pack(graph, PLAN)
    engine = opened(graph, replace(PLAN, follow_load=True))
    context = engine._context
    before = own_bytes()
    context._sessions.load(1).join()
    grown = own_bytes() - before
    pace = InTurn()
    context.follow(pace)
    found = tokens(engine)
    used = {key[0] for key in context._steps}
    engine.close()
    assert found == usual
    assert set(pace.steps) == {1, 2}
    assert len(used) == 2
    assert grown < 30 * MB


def test_packed_weights_are_for_this_model_and_whole(graph: Path, tmp_path: Path) -> None:
    """Found while nothing changed, not when cut short. Damaged ones give way to the model itself."""
    copy = shutil.copytree(graph.parent, tmp_path / "copy") / "model.onnx"
    assert find_packed(copy) is None
    packed = pack(copy, PLAN)
    assert find_packed(copy) == packed
    whole = packed.read_bytes()
    packed.write_bytes(whole[:-1])
    assert find_packed(copy) is None
    packed.write_bytes(b"x" * len(whole))
    assert find_packed(copy) == packed
    sessions = Sessions(copy, PLAN)
    assert not packed.exists()
    assert "input_ids" in sessions.first.inputs
    sessions.close()
    pack(copy, PLAN)
    (copy.parent / "tokenizer_config.json").write_text("{} ")
    assert find_packed(copy) is None


def test_without_room_on_the_disk_more_threads_go_on(
    graph: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log tells, nothing is left behind, and there is no session with fewer."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    sessions = Sessions(graph, PLAN)
    with caplog.at_level(logging.WARNING, "edgeai.engines"):
        sessions.load(1).join()
    assert sessions.at(1) is None
    assert sessions.at(2) is sessions.first
    assert "no room" in caplog.text
    sessions.close()
