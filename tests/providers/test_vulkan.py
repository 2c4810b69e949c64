"""llama.cpp's Vulkan backend on lavapipe, which computes on the processor; `make test-vulkan` runs these.

It stands for a GPU: its own device, its own memory, its own numbers. Minutes go by until Mesa has compiled.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

if os.environ.get("EDGEAI_TEST_LAVAPIPE") != "1":
    pytest.skip("run by make test-vulkan", allow_module_level=True)

from edgeai import DeviceUnavailable, Edge
from edgeai.cli.findings import gpu_findings, variant_findings
from edgeai.devices import gpus
from edgeai.devices.footprint import needs
from edgeai.devices.gpu_verdicts import gpu_verdict
from edgeai.devices.probe import probe
from edgeai.devices.profiles import choose
from edgeai.devices.verdicts import circumstances
from edgeai.devices.wish import Wish
from edgeai.engines import DevicePlan, Step
from edgeai.engines.llamacpp.devices import Device
from edgeai.load import open_planned
from edgeai.models import store
from edgeai.models.store import InstalledModel
from edgeai.types import Message, Request

NAME = "smollm2-135m-instruct@llamacpp-q4_1"
QUESTION = "Name the chemical symbol for gold."


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for the verdict: a try takes a minute."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def _kept(kept: Path, _home: Path, model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = kept / "cache" / "models"
    if not models.exists():
        models.mkdir(parents=True)
        (models / NAME).symlink_to(model_path.parent, target_is_directory=True)
    monkeypatch.setenv("EDGEAI_HOME", str(kept))


@pytest.fixture
def model() -> InstalledModel:
    return store.find(NAME)


def vulkan() -> Device:
    return next(device for device in gpus.listed() if device.backend == "Vulkan")


def test_it_is_listed() -> None:
    """By a child process, with its memory; and not where it is hidden."""
    device = vulkan()
    assert (device.name, device.kind) == ("Vulkan0", "gpu")
    assert "llvmpipe" in device.description
    assert 0 < device.free_bytes <= device.memory_bytes
    assert any("Vulkan0" in finding.found for finding in gpu_findings())


def test_a_verdict(model: InstalledModel) -> None:
    """All layers are really there, and the numbers are the processor's, nearly."""
    facts = circumstances(probe())
    assert gpu_verdict(model, "vulkan", [vulkan()], facts, trying=False).state == "not tried"
    verdict = gpu_verdict(model, "vulkan", [vulkan()], facts, trying=True, limit_s=400)
    print(verdict)  # noqa: T201  # for docs/devices.md
    assert (verdict.state, verdict.node_share) == ("works", 1.0)
    assert gpu_verdict(model, "vulkan", [vulkan()], facts, trying=False) == verdict
    assert any("decode on vulkan works" in finding.found for finding in variant_findings(NAME))


def test_an_edge_on_the_gpu() -> None:
    """The answer says where it was computed."""
    with Edge(NAME, device="gpu", n_ctx=512, ledger=False) as edge:
        assert edge.info.device == "vulkan"
        assert Step(work="decode", provider="vulkan", layers=(31, 31)) in edge.info.steps
        answer = edge.ask(QUESTION, max_tokens=6)
        assert answer.device == "vulkan"
        assert answer.text


def test_a_process_of_its_own() -> None:
    """With isolation, too."""
    with Edge(NAME, device="vulkan:Vulkan0", n_ctx=512, isolation="process", ledger=False) as edge:
        assert edge.info.device == "vulkan"
        assert edge.ask(QUESTION, max_tokens=2).device == "vulkan"


def test_layers_that_do_not_fit_stay(model: InstalledModel) -> None:
    """Half the memory, half the layers; and the answer is computed on both."""
    plan = DevicePlan(n_ctx=512, n_threads=1, parallel=1)
    half = replace(vulkan(), free_bytes=needs(model).on_gpu(None, 512, parallel=1) * 2 // 3)
    wish, machine = Wish(name="gpu"), probe()
    placed = gpus.place(model, plan, wish, choose("generic", machine), "speed", machine, find=lambda: [half])
    assert placed.gpu_layers is not None
    assert 2 < placed.gpu_layers < 31
    engine = open_planned(model, placed.on(plan), isolation="thread")
    try:
        with engine.stream(Request(messages=(Message("user", QUESTION),), max_tokens=2)) as generation:
            assert list(generation)
    finally:
        engine.close()


def test_a_device_that_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """ggml leaves out what computes on the processor unless it is named: then there is none."""
    monkeypatch.delenv("GGML_VK_VISIBLE_DEVICES")
    with pytest.raises(DeviceUnavailable, match="vulkan: it finds no device"):
        Edge(NAME, device="gpu", ledger=False)
    with Edge(NAME, device="gpu", allow_fallback=True, n_ctx=512, ledger=False) as edge:
        assert edge.info.device == "cpu"
        assert any(step.provider == "vulkan" and step.why for step in edge.info.steps)
        assert edge.ask(QUESTION, max_tokens=2).device == "cpu"


def test_a_device_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver throws while it starts, and the processor is what there is."""
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "7")
    assert {device.kind for device in gpus.listed()} <= {"cpu"}
