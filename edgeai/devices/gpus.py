"""GPUs for llama.cpp: what the installed build offers, and where a model is put."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeai.devices.profiles import Goal, Profile
from edgeai.devices.wish import Kind, Placed, Wish, order, unavailable
from edgeai.engines import Step

if TYPE_CHECKING:
    from edgeai.devices.probe import Machine
    from edgeai.engines.llamacpp.devices import Device

__all__ = ["BACKENDS", "Backend", "built_in", "command_for", "listed", "place"]

_log = logging.getLogger("edgeai.devices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A part of llama.cpp: our name, its own names for itself, and the switch with which it is built."""

    name: str
    natives: tuple[str, ...]
    switch: str
    vendors: tuple[str, ...] = ()


BACKENDS: Final[Mapping[str, Backend]] = {
    backend.name: backend
    for backend in (
        Backend(name="cuda", natives=("CUDA",), switch="GGML_CUDA", vendors=("NVIDIA",)),
        Backend(name="metal", natives=("Metal", "MTL"), switch="GGML_METAL", vendors=("Apple",)),
        Backend(name="hip", natives=("ROCm", "HIP"), switch="GGML_HIP", vendors=("AMD",)),
        Backend(name="sycl", natives=("SYCL",), switch="GGML_SYCL", vendors=("Intel",)),
        Backend(name="vulkan", natives=("Vulkan",), switch="GGML_VULKAN"),
        Backend(name="opencl", natives=("OpenCL",), switch="GGML_OPENCL", vendors=("Qualcomm",)),
    )
}
_GPUS: Final[Mapping[str, Kind]] = dict.fromkeys(BACKENDS, "gpu")
KINDS: Final[Mapping[str, Kind]] = {**_GPUS, "cpu": "cpu"}


def built_in() -> frozenset[str]:
    """The backends that the installed llama-cpp-python was built with, by its files; loads nothing."""
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        return frozenset()
    files = [file.name for file in (Path(found.origin).parent / "lib").glob("*ggml-*")]
    return frozenset(name for name in BACKENDS if any(f"ggml-{name}" in file for file in files))


def listed() -> "tuple[Device, ...]":
    """The devices of the installed llama.cpp, which is loaded for it, unless it has none but the CPU."""
    if not built_in():
        return ()
    from edgeai.engines.llamacpp.devices import devices

    return devices()


def place(
    model: str,
    wish: Wish,
    profile: Profile,
    goal: Goal,
    machine: "Machine",
    *,
    find: "Callable[[], Sequence[Device]]" = listed,
) -> Placed:
    """Where llama.cpp decodes the model: with all its layers on the GPUs of one backend, or on the CPU.

    Raises DeviceUnavailable for a device that was asked for, with the reason for each backend.
    """
    names = order(wish, KINDS, profile, goal, "decode")
    found = find() if names else ()
    steps = []
    for name in names:
        gpus = tuple(d.name for d in found if d.kind == "gpu" and d.backend in BACKENDS[name].natives)
        gpus = tuple(gpu for gpu in gpus if wish.part in (None, gpu))
        steps.append(Step(work="decode", provider=name, why=None if gpus else _why(name, wish)))
        if gpus:
            return Placed(provider=name, gpus=gpus, steps=tuple(steps))
        _log.info("%s is passed over for decode: %s", name, steps[-1].why)
    if wish.name not in ("auto", "cpu"):
        if not names:
            steps.append(Step(work="decode", provider=wish.name, why="llama.cpp has nothing for it"))
        if not wish.allow_fallback:
            raise unavailable(model, wish, steps, _remedy(names, machine))
        _log.warning("%s decodes on the processor: %s", model, steps[-1].why)
    return Placed(steps=(*steps, Step(work="decode", provider="cpu")) if steps else ())


def command_for(machine: "Machine", names: Sequence[str] = tuple(BACKENDS)) -> str:
    """The command that builds llama-cpp-python for this machine's GPU, or for most of them."""
    vendors = {device.vendor for device in machine.accelerators if device.kind == "gpu"}
    fits = [name for name in names if vendors & set(BACKENDS[name].vendors)]
    usual = "vulkan" if "vulkan" in names else names[0]
    switch = BACKENDS[fits[0] if fits else usual].switch
    return f'CMAKE_ARGS="-D{switch}=on" pip install --force-reinstall --no-cache-dir llama-cpp-python'


def _why(name: str, wish: Wish) -> str:
    if name not in built_in():
        return "the installed llama-cpp-python was built without it"
    return f"it finds no device {wish.part}" if wish.part else "it finds no device"


def _remedy(names: Sequence[str], machine: "Machine") -> str:
    """For the backend of this machine's GPU, or the one that drives most of them."""
    if not names:
        return "Use a package for ONNX Runtime with a variant for it (edgeai convert), or another device"
    if any(name in built_in() for name in names):
        return "Install the device's driver: edgeai doctor says what is missing"
    return f"Build it with the GPU's backend, such as: {command_for(machine, names)}"
