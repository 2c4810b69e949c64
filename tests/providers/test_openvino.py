"""OpenVINO on the processor, in an environment of its own; `make test-providers` runs these."""

import os
from pathlib import Path

import pytest

if os.environ.get("EDGEAI_PROVIDERS") != "openvino":
    pytest.skip("run by make test-providers", allow_module_level=True)

from edgeai import DeviceUnavailable, Edge
from edgeai.converters.linear import Quant
from edgeai.devices import compiled
from edgeai.devices.probe import probe
from edgeai.devices.providers import PROVIDERS, Offer, offers, try_provider
from edgeai.devices.verdicts import circumstances, kept, proven
from edgeai.devices.whole import known_verdict
from edgeai.models import store
from tests.engines.onnx.conftest import write_tiny_package
from tests.providers.decoders import add_variants
from tests.providers.edges import check_answers
from tests.providers.encoders import float_encoder


@pytest.fixture(scope="module")
def openvino() -> Offer:
    return next(offer for offer in offers() if offer.provider.name == "openvino")


def test_it_works_on_the_processor(openvino: Offer, tmp_path: Path) -> None:
    """Every node runs there, with the numbers of ONNX Runtime's own kernels."""
    model = float_encoder(tmp_path / "model.onnx")
    verdict = try_provider(openvino, model, options={"device_type": "CPU"})
    assert (verdict.state, verdict.node_share) == ("works", 1.0), verdict
    assert verdict.cosine is not None
    assert verdict.cosine > 0.9999


def test_a_device_that_is_not_there_is_rejected(openvino: Offer, tmp_path: Path) -> None:
    """ONNX Runtime falls back to its CPU and raises nothing; the nodes tell."""
    if Path("/dev/accel/accel0").exists():
        pytest.skip("this machine has an NPU")
    verdict = try_provider(openvino, float_encoder(tmp_path / "model.onnx"))
    assert verdict.state == "rejected", verdict
    assert "took 0%" in (verdict.why or "")


def test_an_edge_runs_on_it(tmp_path: Path) -> None:
    """The package's graph for it begins prompts and embeds texts, with the processor's answers."""
    package = add_variants(write_tiny_package(tmp_path / "tiny"), device="openvino")
    check_answers(package, "openvino:CPU", "cpu, prefill on openvino, embed on openvino")
    with pytest.raises(DeviceUnavailable, match="took 0%"):
        Edge(package, device="openvino:GPU", ledger=False)


@pytest.mark.parametrize("quant", ["f32", "int8"])
def test_it_decodes_with_the_ordinary_graph(quant: Quant, tmp_path: Path) -> None:
    """Without a graph made for it: all work is its own, but attention, which it does not take."""
    package = write_tiny_package(tmp_path / "tiny", quant=quant)
    model, options = store.find(package), {"device_type": "CPU"}
    check_answers(package, "openvino:CPU", "openvino", exact=quant == "f32")
    found = known_verdict(model, PROVIDERS["openvino"], options, circumstances(probe()))
    print(found)  # noqa: T201  # for docs/devices.md
    assert found is not None
    assert 0.8 < (found.node_share or 0) < 1
    assert (found.cosine or 0) > 0.999


def test_what_it_compiles_is_kept_and_checked(openvino: Offer, tmp_path: Path) -> None:
    """The second load takes the blob; a blob that was changed is not used, nor is the verdict with it."""
    model, options = float_encoder(tmp_path / "model.onnx"), {"device_type": "CPU"}
    verdict = proven(openvino, model, {"cpu": "x"}, options=options)
    print(verdict)  # noqa: T201  # for docs/devices.md
    assert verdict.compiled is not None
    assert verdict.compiled_load_s is not None
    assert kept(openvino.provider, model, {"cpu": "x"}, options=options) == verdict
    digest, files = verdict.compiled
    (compiled.folder_of(digest) / next(iter(files))).write_bytes(b"another")
    assert kept(openvino.provider, model, {"cpu": "x"}, options=options) is None
