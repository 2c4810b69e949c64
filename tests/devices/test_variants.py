"""What `edgeai doctor` says of a model on each provider, and what an unlike driver does to what is known."""

from pathlib import Path

import pytest

from edgeai.cli.findings import ladder_findings, variant_findings
from edgeai.config import Settings
from edgeai.devices import drivers, variants
from edgeai.devices.probe import probe
from edgeai.devices.providers import PROVIDERS, Offer
from edgeai.devices.verdicts import circumstances
from edgeai.models import store
from edgeai.models.store import InstalledModel
from tests.engines.onnx.conftest import write_tiny_package


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
