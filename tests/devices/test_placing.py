"""Which device a model is put on, why not on others, and what is an error: no such hardware is needed."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeai import ConfigError, DeviceUnavailable, Edge
from edgeai.cli.findings import gpu_findings, variant_findings
from edgeai.devices import gpus, variants
from edgeai.devices.accelerators import Accelerator
from edgeai.devices.fitting import memory_plan
from edgeai.devices.footprint import needs
from edgeai.devices.gpu_verdicts import gpu_verdict
from edgeai.devices.probe import Machine, probe
from edgeai.devices.profiles import choose
from edgeai.devices.providers import PROVIDERS, Offer, Verdict
from edgeai.devices.verdicts import circumstances, proven
from edgeai.devices.wish import Placed, Wish
from edgeai.engines import DevicePlan, Step
from edgeai.engines.likeness import compare
from edgeai.engines.llamacpp.devices import Device
from edgeai.engines.llamacpp.gpu_child import tried
from edgeai.models import store
from edgeai.models.store import InstalledModel
from edgeai.testing import FakeEngine
from tests.engines.onnx.conftest import write_tiny_package
from tests.providers.decoders import add_variants
from tests.tiny_gguf import write_tiny_gguf

QNN = Offer(provider=PROVIDERS["qnn"], installed=True, is_plugin=True)
GOOD = {"nodes": {"QNNExecutionProvider": 9}, "cosine": 0.999, "least_cosine": 0.99, "max_difference": 0.1}
BROKEN = Verdict(provider="qnn", state="rejected", why="It lies", remedy="Use another")
SNAPDRAGON = "snapdragon-x-elite"


def device(name: str, backend: str, kind: str = "gpu", free_bytes: int = 0) -> Device:
    return Device(
        name=name,
        description="",
        backend=backend,
        kind=kind,  # type: ignore[arg-type]  # one of three
        memory_bytes=1,
        free_bytes=free_bytes,
    )


DEVICES = (device("CPU", "CPU", "cpu"), device("Vulkan0", "Vulkan"), device("Vulkan1", "Vulkan"))
ALIKE = {
    "layers": [3, 3],
    "nodes": [97, 100],
    "cosine": 0.9999,
    "kl": 0.001,
    "max_difference": 0.1,
    "load_s": 0.1,
    "run_s": 0.1,
}
PLAN = DevicePlan(n_ctx=512, n_threads=1)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
    """A tiny model for llama.cpp."""
    return store.find(write_tiny_gguf(tmp_path_factory.mktemp("gpus") / "tiny.gguf"))


def saying(report: dict[str, Any]) -> tuple[str, ...]:
    """The command of a child that reports this."""
    return (sys.executable, "-c", f"print({json.dumps(report)!r})")


Put = Callable[..., Placed]


@pytest.fixture
def put(gguf: InstalledModel) -> Put:
    """Place the tiny model; what the child reports decides."""

    def place(
        wish: Wish,
        profile: str = "generic",
        found: tuple[Device, ...] = DEVICES,
        command: tuple[str, ...] = saying(ALIKE),  # a constant
    ) -> Placed:
        return gpus.place(
            gguf, PLAN, wish, choose(profile, probe()), "speed", probe(), find=lambda: found,
            judge=partial(gpu_verdict, command=command, limit_s=5),
        )  # fmt: skip

    return place


def test_layers_go_to_the_gpus_of_one_backend(put: Put) -> None:
    """A kind, a backend or one of its devices."""
    assert put(Wish(name="gpu")).gpus == ("Vulkan0", "Vulkan1")
    assert put(Wish(name="vulkan", part="Vulkan1")).gpus == ("Vulkan1",)
    assert put(Wish(), "raspberry-pi-5-8gb", (*DEVICES, device("CUDA0", "CUDA"))).steps == ()


def test_auto_takes_the_gpus_of_the_profile_that_were_seen_to_work(put: Put) -> None:
    """It tries nothing by itself; what was asked for has been tried, and a try is made once."""
    cuda = (*DEVICES, device("CUDA0", "CUDA"))
    before = put(Wish(), found=cuda)
    assert before.provider == "cpu"
    assert Step(work="decode", provider="cuda", why="not tried") in before.steps
    assert put(Wish(name="cuda"), found=cuda).gpus == ("CUDA0",)
    assert put(Wish(), found=cuda, command=("no such program",)).gpus == ("CUDA0",)


def test_what_was_measured_to_be_fastest_comes_first(put: Put) -> None:
    """A tuned provider before the profile's, and the processor where that was faster; a wish before both."""
    assert put(Wish(name="vulkan")).gpus
    assert put(Wish(tuned="vulkan")).provider == "vulkan"
    assert put(Wish(name="cpu", tuned="vulkan")).provider == "cpu"
    cuda = (*DEVICES, device("CUDA0", "CUDA"))
    assert put(Wish(name="cuda"), found=cuda).gpus
    assert put(Wish(tuned="cpu"), found=cuda).provider == "cpu"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ((sys.executable, "-c", "import os; os.abort()"), "crashed"),
        ((sys.executable, "-c", "import time; time.sleep(60)"), "timed out"),
        (saying({"refused": "no memory"}), "no memory"),
        (saying(ALIKE | {"layers": [2, 3]}), "2 of the 3 layers"),
        (saying(ALIKE | {"nodes": [30, 100]}), "30 of 100 nodes"),
        (saying(ALIKE | {"cosine": 0.5}), "not the CPU's"),
        (saying(ALIKE | {"kl": 1.0}), "not the CPU's"),
        (saying(ALIKE | {"kl": float("nan")}), "not the CPU's"),
    ],
)
def test_a_broken_gpu_never_reaches_the_caller(
    command: tuple[str, ...], why: str, put: Put, caplog: pytest.LogCaptureFixture
) -> None:
    """A crash, a hang and other numbers are reasons for the processor, or an error that says them."""
    placed = put(Wish(name="vulkan", allow_fallback=True), command=command)
    assert (placed.provider, placed.gpus) == ("cpu", ())
    assert why in str(placed.steps[0].why)
    with pytest.raises(DeviceUnavailable, match=why):
        put(Wish(name="vulkan"), command=command)


def test_a_gpu_gets_the_layers_that_fit(put: Put, gguf: InstalledModel) -> None:
    """With the reason that it gets no more; the child tries that many."""
    whole = needs(gguf).on_gpu(None, PLAN.n_ctx)
    scarce = (device("Vulkan0", "Vulkan", free_bytes=round((whole - 1) / 0.95)),)
    told = json.dumps(ALIKE | {"layers": [2, 3]})
    code = f"import json, sys; assert json.loads(sys.argv[2])['layers'] == 2; print({told!r})"
    placed = put(Wish(name="vulkan"), found=scarce, command=(sys.executable, "-c", code))
    assert (placed.gpus, placed.gpu_layers) == (("Vulkan0",), 2)
    assert [(step.provider, step.layers) for step in placed.steps] == [("vulkan", (3, 3)), ("vulkan", (2, 3))]
    assert "MB are free on Vulkan0" in (placed.steps[0].why or "")
    assert placed.on(PLAN).gpu_layers == 2


def test_integrated_gpus_have_the_machines_memory(gguf: InstalledModel) -> None:
    """What they call free may be taken already; it is not counted twice."""
    machine = probe()
    machine = replace(machine, memory=replace(machine.memory, available=1000))
    shared = replace(device("Vulkan0", "Vulkan", free_bytes=10**9), shared=True)
    wish, profile = Wish(name="vulkan"), choose("generic", machine)
    judge = partial(gpu_verdict, command=saying(ALIKE))
    with pytest.raises(DeviceUnavailable, match="0 MB are free"):
        gpus.place(gguf, PLAN, wish, profile, "speed", machine, find=lambda: (shared,), judge=judge)
    enough = probe()
    placed = gpus.place(gguf, PLAN, wish, profile, "speed", enough, find=lambda: (shared,), judge=judge)
    plan = placed.on(PLAN)
    assert plan.gpu_shared
    assert memory_plan(gguf, plan, enough.memory, profile.memory).moved == 0
    assert memory_plan(gguf, replace(plan, gpu_shared=False), enough.memory, profile.memory).moved > 0


def test_a_driver_that_crashes_when_it_is_asked(
    gguf: InstalledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It crashes a process of its own, and is a reason, which doctor shows."""
    monkeypatch.setenv("GGML_BACKEND_PATH", "libggml-vulkan.so")
    row = json.dumps({"devices": [asdict(DEVICES[1])]})
    assert gpus.built_in() >= {"vulkan"}
    assert gpus.listed(command=(sys.executable, "-c", f"print({row!r})")) == (DEVICES[1],)
    crash = (sys.executable, "-c", "import os; os.abort()")
    with pytest.raises(DeviceUnavailable, match="crashed"):
        gpus.listed(command=crash)
    monkeypatch.setattr(gpus, "listed", partial(gpus.listed, command=crash))
    (finding,) = gpu_findings()
    assert (finding.state, "crashed" in finding.found) == ("problem", True)
    placed = gpus.place(
        gguf, PLAN, Wish(name="vulkan", allow_fallback=True), choose("generic", probe()), "speed", probe(),
        find=gpus.listed,
    )  # fmt: skip
    assert "cannot list its devices" in (placed.steps[0].why or "")


def test_a_gpu_without_room_is_not_even_tried(put: Put) -> None:
    """The weights, the keys and values and the buffers are compared with what is free there."""
    small = (device("Vulkan0", "Vulkan", free_bytes=1000),)
    with pytest.raises(DeviceUnavailable, match="0 MB are free on Vulkan0"):
        put(Wish(name="vulkan"), found=small, command=("no such program",))
    assert put(Wish(name="vulkan"), found=(device("Vulkan0", "Vulkan", free_bytes=10**9),)).gpus


def test_the_child_runs_the_model(gguf: InstalledModel) -> None:
    """Here on the processor twice: nothing is offloaded, and the numbers are the same."""
    found = tried({"model": str(gguf.path), "gpus": [], "layers": None})
    assert found["layers"] == (0, 3)
    assert found["nodes"][0] == 0 < found["nodes"][1]
    assert found["cosine"] == pytest.approx(1)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert "no device" in tried({"model": str(gguf.path), "gpus": ["Vulkan7"], "layers": None})["refused"]


def test_other_logits_are_told_apart() -> None:
    """A shift of all logits is none; another favourite, or no number, is."""
    logits = np.random.default_rng(1).standard_normal((3, 50)) * 5
    assert compare(logits + 1.0, logits)[1] == pytest.approx(0, abs=1e-9)
    cosine, kl, _ = compare(logits[:, ::-1], logits)
    assert (cosine < 0.9, kl > 1) == (True, True)
    assert compare(np.full_like(logits, np.nan), logits)[:2] == (0.0, float("inf"))


def test_every_step_down_has_its_reason(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    """What was passed over is in the steps and in the log; the processor is the last."""
    caplog.set_level("INFO", "edgeai.devices")
    placed = put(Wish(name="cuda", allow_fallback=True))
    assert [step.provider for step in placed.steps] == ["cuda", "cpu"]
    assert placed.steps[0].why
    assert placed.steps[-1] == Step(work="decode", provider="cpu")
    assert "cuda is passed over for decode" in caplog.text


@pytest.mark.parametrize(("name", "why"), [("gpu", "built without it"), ("npu", "nothing for it")])
def test_llama_cpp_without_the_device_is_an_error(name: str, why: str, put: Put) -> None:
    """It says why, and how to get it."""
    with pytest.raises(DeviceUnavailable, match=why) as raised:
        put(Wish(name=name), found=DEVICES[:1])
    assert "allow_fallback=True" in (raised.value.remedy or "")


def test_the_remedy_builds_for_the_gpu_that_is_there() -> None:
    """NVIDIA's gets CUDA, one of nobody in particular Vulkan."""
    machine = probe()
    nvidia = Machine(
        os="linux",
        processor=machine.processor,
        memory=machine.memory,
        accelerators=(Accelerator(kind="gpu", vendor="NVIDIA"),),
    )
    assert "-DGGML_CUDA=on" in gpus.command_for(nvidia)
    assert "-DGGML_VULKAN=on" in gpus.command_for(machine)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny decoder with graphs for NPUs, made once."""
    return add_variants(write_tiny_package(tmp_path_factory.mktemp("placing") / "tiny"))


@pytest.fixture
def tiny(package: Path) -> InstalledModel:
    return store.find(package)


def verdict(model: InstalledModel, code: str) -> None:
    """Let a child that runs this code try the NPU's graph."""
    assert model.folder is not None
    command = (sys.executable, "-c", code)
    proven(QNN, model.folder / "npu.onnx", circumstances(probe()), command=command)


def place_variants(model: InstalledModel, wish: Wish, profile: str = SNAPDRAGON) -> Placed:
    return variants.place(model, wish, choose(profile, probe()), "speed", probe())


def test_auto_uses_what_was_seen_to_work(tiny: InstalledModel) -> None:
    """Nothing is tried by itself; what an earlier try has shown counts."""
    before = place_variants(tiny, Wish())
    assert before.offloads == ()
    assert Step(work="prefill", provider="qnn", why="not tried") in before.steps
    verdict(tiny, f"print({json.dumps(GOOD)!r})")
    after = place_variants(tiny, Wish())
    assert [(o.work, o.provider, o.plugin) for o in after.offloads] == [
        ("prefill", "qnn", "onnxruntime_qnn"),
        ("embed", "qnn", "onnxruntime_qnn"),
    ]
    assert not after.offloads[0].required
    assert place_variants(tiny, Wish(), "raspberry-pi-5-8gb").offloads == ()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os.abort()", "crashed: SIGABRT"),
        (f"print({json.dumps(GOOD | {'cosine': 0.2})!r})", "rejected: Its numbers are not the CPU's"),
    ],
)
def test_a_broken_provider_is_a_reason(tiny: InstalledModel, code: str, why: str) -> None:
    """With "auto" the processor does it; asked for, it is an error with that reason, and no crash."""
    verdict(tiny, code)
    placed = place_variants(tiny, Wish())
    assert placed.offloads == ()
    assert any(why in (step.why or "") for step in placed.steps)
    with pytest.raises(DeviceUnavailable, match=why):
        place_variants(tiny, Wish(name="qnn"))


def test_an_edge_without_the_device(tiny: InstalledModel, package: Path) -> None:
    """It is an error before anything is loaded, with a reason for each provider, or the processor does it."""
    with pytest.raises(DeviceUnavailable, match="qnn") as raised:
        Edge(package, device="npu", ledger=False)
    assert raised.value.remedy
    with Edge(package, device="npu", allow_fallback=True, ledger=False, isolation="thread") as edge:
        assert edge.info.device == "cpu"
        assert {step.provider for step in edge.info.steps if step.why} >= {"qnn", "openvino"}
        answer = edge.ask("Hi", max_tokens=1)
        assert answer.device == "cpu"
        assert any(told.startswith("prefill on qnn: ") for told in answer.passed_over), answer.passed_over


def test_a_package_without_a_variant(tmp_path: Path) -> None:
    """The reason names it, the remedy the command."""
    model = store.find(write_tiny_package(tmp_path / "tiny"))
    with pytest.raises(DeviceUnavailable, match="no variant") as raised:
        place_variants(model, Wish(name="npu"))
    assert "edgeai convert" in (raised.value.remedy or "")
    assert place_variants(model, Wish()).steps == ()


@pytest.mark.parametrize("name", ["gpx", "npu:0", "", "cpu:1"])
def test_an_unknown_device_is_wrong_usage(package: Path, name: str) -> None:
    """A slip is not ignored."""
    with pytest.raises(ConfigError, match="device is"):
        Edge(package, device=name, ledger=False)


def test_an_engine_of_ones_own_has_its_device() -> None:
    """A device beside it would be ignored."""
    with pytest.raises(ConfigError, match="has its device"):
        Edge(engine=FakeEngine("x"), device="cpu", ledger=False)


def test_this_llama_cpp_lists_its_devices() -> None:
    """The processor is always among them."""
    pytest.importorskip("llama_cpp")
    from edgeai.engines.llamacpp.devices import devices

    assert any(found.kind == "cpu" and found.memory_bytes for found in devices())


def test_doctor_tries_every_graph(tiny: InstalledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What works says how well, what does not says why; providers that are not installed are not named."""
    monkeypatch.setattr(store, "installed", lambda: (tiny,))
    monkeypatch.setattr(variants, "offers", lambda: (QNN,))
    monkeypatch.setattr("edgeai.devices.verdicts.try_provider", lambda *a, **k: BROKEN)
    assert [(f.about, f.state) for f in variant_findings(tiny.manifest.name)] == [("trial", "note")] * 2
    found = list(variant_findings(tiny.id))
    assert "embed on qnn rejected: It lies" in found[1].found
    assert found[1].remedy == "Use another"
    assert list(variant_findings("another")) == []


def test_devices_that_are_made_up_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that was registered as ``.virtual`` lists NPUs without hardware: they count as none."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from edgeai.devices import provider_child

    real, virtual = (
        SimpleNamespace(ep_name="QNNExecutionProvider", device=SimpleNamespace(metadata=metadata))
        for metadata in ({}, {"is_virtual": "1"})
    )
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: [virtual, real])
    assert provider_child._devices("QNNExecutionProvider") == [real]


def test_llama_cpp_takes_the_devices_it_is_given(model_path: Path) -> None:
    """By name, the processor too; a name that it does not have is an error, and not the processor."""
    from edgeai.engines.llamacpp import open_engine

    plan = DevicePlan(n_ctx=256, n_threads=1, provider="toy", gpus=("CPU",))
    engine = open_engine(model_path, plan, name="tiny")
    try:
        assert engine.info.device == "toy"
        assert engine.score("One, two,", [" three"])[0] < 0
    finally:
        engine.close()
    gone = replace(plan, gpus=("CUDA7",), steps=(Step(work="decode", provider="toy", layers=(31, 31)),))
    with pytest.raises(DeviceUnavailable, match="no device CUDA7"):
        open_engine(model_path, gone, name="tiny")
    engine = open_engine(model_path, replace(gone, gpu_optional=True), name="tiny")
    engine.close()
    assert engine.info.device == "cpu"
    assert "CUDA7" in (engine.info.steps[0].why or "")
