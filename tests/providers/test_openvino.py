"""OpenVINO on the processor, in an environment of its own; `make test-providers` runs these."""

import os
from pathlib import Path

import pytest

if os.environ.get("EDGEAI_PROVIDERS") != "openvino":
    pytest.skip("run by make test-providers", allow_module_level=True)

from edgeai.devices.providers import Offer, offers, try_provider
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
