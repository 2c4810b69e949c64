"""Qualcomm's NPU on the emulator that its x86-64 package brings; `make test-providers` runs these."""

import os
from pathlib import Path

import pytest

if os.environ.get("EDGEAI_PROVIDERS") != "qnn":
    pytest.skip("run by make test-providers", allow_module_level=True)

from edgeai import DeviceUnavailable, Edge
from edgeai.devices import compiled
from edgeai.devices.providers import Offer, offers, try_provider
from edgeai.devices.verdicts import kept, proven
from tests.engines.onnx.conftest import write_tiny_package
from tests.providers.decoders import add_variants
from tests.providers.edges import check_answers
from tests.providers.encoders import npu_encoder


@pytest.fixture(scope="module")
def qnn() -> Offer:
    return next(offer for offer in offers() if offer.provider.name == "qnn")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npu_encoder(tmp_path_factory.mktemp("encoder"))


def test_it_is_offered_as_a_plugin(qnn: Offer) -> None:
    """The package is found, and its library has a device."""
    assert qnn.installed, qnn.why
    assert qnn.is_plugin


def test_an_encoder_works_on_the_emulated_npu(qnn: Offer, encoder: Path) -> None:
    """Nearly all nodes run on it, with the CPU's numbers."""
    verdict = try_provider(qnn, encoder)
    print(verdict)  # noqa: T201  # for docs/devices.md
    assert verdict.state == "works", verdict
    assert verdict.node_share is not None
    assert verdict.node_share >= 0.9
    assert verdict.cosine is not None
    assert verdict.cosine >= 0.999


REASONS = {"cpu": "took 0%", "gpu": "took 0%", "ir": "", "saver": "numbers are not the CPU's"}


@pytest.mark.parametrize("backend", REASONS)
def test_a_broken_backend_is_rejected(qnn: Offer, encoder: Path, backend: str) -> None:
    """Each fails in its own way, none raises here, and none counts as working."""
    verdict = try_provider(qnn, encoder, options={"backend_type": backend})
    print(verdict)  # noqa: T201
    assert verdict.state == "rejected", verdict
    assert REASONS[backend] in (verdict.why or "")


def test_a_verdict_is_kept(
    qnn: Offer, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second look does not try again."""
    monkeypatch.setenv("EDGEAI_HOME", str(tmp_path))
    first = proven(qnn, encoder, {"cpu": "x"})
    assert proven(qnn, encoder, {"cpu": "x"}, command=("false",)) == first


def test_an_edge_runs_on_the_emulated_npu(tmp_path: Path) -> None:
    """The package's graph for it begins prompts and embeds texts; a broken backend is never used."""
    package = add_variants(write_tiny_package(tmp_path / "tiny"), quantized=True)
    check_answers(package, "npu", "cpu, prefill on qnn, embed on qnn", exact=False)
    with pytest.raises(DeviceUnavailable, match="took 0%"):
        Edge(package, device="qnn:cpu", ledger=False)
    with Edge(package, device="qnn:saver", allow_fallback=True, ledger=False, isolation="thread") as edge:
        assert edge.info.device == "cpu"
        assert any("numbers are not the CPU's" in (step.why or "") for step in edge.info.steps)


def test_what_it_compiles_is_kept_and_checked(qnn: Offer, encoder: Path) -> None:
    """The compiled graph was loaded and compared; one that was changed since is not used."""
    verdict = proven(qnn, encoder, {"cpu": "y"})
    print(verdict)  # noqa: T201
    assert verdict.compiled is not None
    assert verdict.compiled_load_s is not None
    assert kept(qnn.provider, encoder, {"cpu": "y"}) == verdict
    digest, files = verdict.compiled
    assert list(files) == [compiled.CONTEXT]
    (compiled.folder_of(digest) / compiled.CONTEXT).write_bytes(b"another")
    assert kept(qnn.provider, encoder, {"cpu": "y"}) is None
