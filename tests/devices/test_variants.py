"""What `edgeai doctor` says of a model on each provider, and what an unlike driver does to what is known."""

import json
import sys
from pathlib import Path

import pytest

from edgeai.cli.findings import ladder_findings, variant_findings
from edgeai.config import Settings
from edgeai.devices import drivers, variants
from edgeai.devices.gpu_verdicts import gpu_verdict
from edgeai.devices.probe import probe
from edgeai.devices.providers import PROVIDERS, Offer, Verdict
from edgeai.devices.verdicts import circumstances
from edgeai.engines.llamacpp.devices import Device
from edgeai.models import store
from edgeai.models.store import InstalledModel
from tests.engines.onnx.conftest import write_tiny_package
from tests.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
    """A package without graphs for NPUs."""
    return store.find(write_tiny_package(tmp_path_factory.mktemp("plain") / "tiny"))


def offered(*names: str) -> tuple[Offer, ...]:
    return tuple(Offer(provider=PROVIDERS[name], installed=True) for name in names)


def test_a_provider_without_a_graph_is_named(plain: InstalledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed for an NPU and has nothing to run gets the command that makes it."""
    monkeypatch.setattr(store, "installed", lambda: (plain,))
    monkeypatch.setattr(variants, "offers", lambda: offered("cpu", "qnn"))
    (finding,) = variant_findings(plain.id)
    assert "prefill on qnn no variant" in finding.found
    assert (finding.remedy or "").startswith("Make one: edgeai convert")
    monkeypatch.setattr(variants, "offers", lambda: offered("cpu"))
    assert list(variant_findings(plain.id)) == []


def test_doctor_shows_what_would_run_where(plain: InstalledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of work, with the reasons against the providers that come before."""
    monkeypatch.setattr(store, "installed", lambda: (plain,))
    (finding,) = ladder_findings(Settings(model=plain.id))
    assert (finding.state, finding.found) == ("ok", f"{plain.id}: the processor")
    (finding,) = ladder_findings(Settings(model=plain.id, device="qnn", allow_fallback=True))
    assert "prefill: not qnn: no variant" in finding.found
    assert finding.found.endswith("decode: cpu")
    (finding,) = ladder_findings(Settings(model=plain.id, device="npu"))
    assert (finding.state, "cannot run on the device npu" in finding.found) == ("problem", True)
    assert finding.remedy


@pytest.mark.parametrize(
    "place", ["sys/module/amdxdna/version", "etc/vulkan/icd.d/x.json", "usr/lib/libcuda.so.1"]
)
def test_another_driver_is_another_circumstance(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found with the driver of yesterday is tried again."""
    monkeypatch.setattr(drivers, "ROOT", tmp_path)
    machine = probe()
    before = circumstances(machine)
    assert circumstances(machine) == before
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text("2.0")
    assert circumstances(machine) != before


def test_want_of_memory_is_not_for_ever(tmp_path: Path) -> None:
    """It is told as such, with a remedy that helps, and is tried again; a refusal is kept."""
    model = store.find(write_tiny_gguf(tmp_path / "tiny.gguf"))
    gpu = Device(name="Vulkan0", description="", backend="Vulkan", kind="gpu", memory_bytes=1, free_bytes=1)

    def judged(report: dict[str, object], layers: int | None = None) -> Verdict:
        command = (sys.executable, "-c", f"print({json.dumps(report)!r})")
        return gpu_verdict(
            model, "vulkan", [gpu], {"cpu": "x"}, trying=True, layers=layers, command=command, limit_s=30
        )

    scarce = judged({"refused": "no room", "memory": True})
    assert (scarce.state, "Free memory" in (scarce.remedy or "")) == ("no memory", True)
    assert judged({"refused": "it is another reason"}).state == "rejected"
    assert judged({"refused": "not asked again"}).why == "it is another reason"
    fine = {
        "layers": [2, 3],
        "nodes": [97, 100],
        "cosine": 1.0,
        "kl": 0.0,
        "max_difference": 0.0,
        "load_s": 0.1,
    }
    assert judged(fine, layers=2).state == "works", "fewer layers may fit where all do not"
