"""Devices that plugins make up: never used, and where they are, a process of their own is all that suffers.

ONNX Runtime lists them as NPUs and GPUs on any machine; one cannot compile, the other aborts its process.
`make test-providers` runs these.
"""

import os
import sys
from pathlib import Path

import pytest

if os.environ.get("EDGEAI_PROVIDERS") != "qnn":
    pytest.skip("run by make test-providers", allow_module_level=True)

from edgeai.devices.providers import PROVIDERS, Offer, offers, try_provider
from tests.providers.encoders import npu_encoder

CHILD = (sys.executable, "-m", "tests.providers.virtual_child")
NAMES = ("openvino", "webgpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npu_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("name", NAMES)
def test_made_up_devices_are_none(name: str) -> None:
    """The plugin is there and lists a device, which has no hardware: the provider is not offered."""
    offer = next(offer for offer in offers(command=CHILD) if offer.provider.name == name)
    assert offer.is_plugin
    assert (offer.installed, offer.why) == (False, "It finds no device")


@pytest.mark.parametrize("name", NAMES)
def test_one_that_is_taken_for_real_harms_nobody(
    name: str, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it does, a refusal or an abort, is a verdict with its reason."""
    monkeypatch.setenv("TAKE_VIRTUAL", "1")
    assert next(offer for offer in offers(command=CHILD) if offer.provider.name == name).installed
    offer = Offer(provider=PROVIDERS[name], installed=True, is_plugin=True)
    verdict = try_provider(offer, encoder, options={}, command=CHILD, limit_s=60)
    print(verdict)  # noqa: T201  # for docs/devices.md
    assert verdict.state in ("rejected", "crashed"), verdict
    assert verdict.why
    assert verdict.remedy
