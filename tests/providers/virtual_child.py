"""The child that tries a provider, with plugins registered as ``.virtual``: they make up devices.

With ``TAKE_VIRTUAL=1`` it takes them for real ones, as ONNX Runtime itself would.
"""

import importlib
import os
import sys

from edgeai.devices import provider_child


def _register(module: str, provider: str) -> None:
    import onnxruntime

    if module not in provider_child._registered:
        library = importlib.import_module(module).get_library_path()
        onnxruntime.register_execution_provider_library(f"{provider}.virtual", library)
        provider_child._registered.add(module)


def _every_device(provider: str) -> list[object]:
    import onnxruntime

    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    assert all(dict(device.device.metadata)["is_virtual"] == "1" for device in found)
    return found[:1]


if __name__ == "__main__":
    provider_child._register = _register
    if os.environ.get("TAKE_VIRTUAL") == "1":
        provider_child._devices = _every_device
    provider_child.main(sys.argv[1:])
