"""Work on another device, here the processor again: what it gives, and what happens when it fails."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeai.engines import Offload, Step, Work
from edgeai.engines.onnx import open_engine
from edgeai.engines.onnx.engine import OnnxEngine
from edgeai.errors import EdgeError, EngineError
from edgeai.types import Message, Request
from tests.engines.onnx.conftest import tiny_plan, write_tiny_package
from tests.providers.decoders import add_variants

PROMPT = "A prompt that is longer than the graph"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_variants(write_tiny_package(tmp_path_factory.mktemp("offload") / "tiny"))


def offload(package: Path, work: Work, *, required: bool = False, tokens: int = 8) -> Offload:
    graph = str(package / "npu.onnx")
    native = "CPUExecutionProvider"
    return Offload(work=work, provider="toy", native=native, graph=graph, tokens=tokens, required=required)


def opened(package: Path, *offloads: Offload) -> OnnxEngine:
    steps = tuple(Step(work=one.work, provider=one.provider) for one in offloads)
    plan = replace(tiny_plan(), offloads=offloads, steps=steps)
    engine = open_engine(package, plan, name="tiny")
    assert isinstance(engine, OnnxEngine)
    return engine


def text(engine: OnnxEngine) -> str:
    generation = engine.stream(Request(messages=(Message("user", PROMPT),), max_tokens=8))
    return "".join(token.text for token in generation)


def test_the_answers_are_the_same(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt's first tokens and whole short texts go there; what comes out is what the main graph gives."""
    usual = opened(package)
    engine = opened(package, offload(package, "prefill"), offload(package, "embed"))
    assert engine.info.device == "cpu, prefill on toy, embed on toy"
    filled: list[int] = []
    head = engine._context._head
    assert head is not None
    entries = head.entries

    def counted(tokens: Sequence[int]) -> bytearray | None:
        filled.append(len(tokens))
        return entries(tokens)

    monkeypatch.setattr(head, "entries", counted)
    assert text(engine) == text(usual)
    assert filled == [8]
    for one in ("Hello", PROMPT):
        assert np.allclose(engine.embed([one]), usual.embed([one]), atol=1e-5)
    assert engine.embed([]).shape == (0, engine.info.n_embd)
    usual.close()
    engine.close()


def test_what_fails_later_is_done_by_the_processor(
    package: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that dies takes no answer with it; it is told, once, and not asked again."""
    usual = opened(package)
    engine = opened(package, offload(package, "prefill"), offload(package, "embed"))
    calls: list[str] = []

    def fail(*_: object) -> None:
        calls.append("run")
        raise EngineError("The device is gone")

    for chunk in (engine._context._head, engine._encoder):
        assert chunk is not None
        monkeypatch.setattr(chunk._session, "run", fail)
    generation = engine.stream(Request(messages=(Message("user", PROMPT),), max_tokens=8))
    assert "".join(token.text for token in generation) == text(usual)
    assert generation.finished is not None
    assert generation.finished.device == "cpu, embed on toy"
    assert (engine.info.steps[0].why or "").startswith("failed: The device is gone")
    assert np.allclose(engine.embed(["Hello", "Hello"]), usual.embed(["Hello", "Hello"]), atol=1e-5)
    assert len(calls) == 2
    assert "The device is gone" in caplog.text
    assert engine.info.device == "cpu"
    usual.close()
    engine.close()


def test_what_cannot_be_opened(package: Path) -> None:
    """A reason to use the processor, with a step that says so; an error where it must be had."""
    engine = opened(package, offload(package, "embed", tokens=9))
    assert engine.info.device == "cpu"
    assert "does not fit" in (engine.info.steps[0].why or "")
    assert engine.info.steps[-1] == Step(work="embed", provider="cpu")
    engine.close()
    with pytest.raises(EdgeError, match="does not fit"):
        opened(package, offload(package, "embed", required=True, tokens=9))
