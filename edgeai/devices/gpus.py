"""GPUs for llama.cpp: what the installed build offers, and where a model is put."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeai.devices.child import run_child
from edgeai.devices.gpu_room import Room, room_on
from edgeai.devices.gpu_verdicts import CHILD, build_files, gpu_verdict
from edgeai.devices.profiles import Goal, Profile
from edgeai.devices.providers import Verdict
from edgeai.devices.verdicts import circumstances
from edgeai.devices.wish import Kind, Placed, Wish, order, unavailable
from edgeai.engines import DevicePlan, Step
from edgeai.errors import DeviceUnavailable

if TYPE_CHECKING:
    from edgeai.devices.probe import Machine
    from edgeai.engines.llamacpp.devices import Device
    from edgeai.models.shelf import InstalledModel

__all__ = ["BACKENDS", "Backend", "available", "built_in", "command_for", "gpu_verdicts", "listed", "place"]

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
LIST_S: Final = 30.0
_GPUS: Final[Mapping[str, Kind]] = dict.fromkeys(BACKENDS, "gpu")
KINDS: Final[Mapping[str, Kind]] = {**_GPUS, "cpu": "cpu"}


def built_in() -> frozenset[str]:
    """The backends that the installed llama-cpp-python was built with, by its files; loads nothing.

    And that of the file which ``GGML_BACKEND_PATH`` names.
    """
    files = [file.name for file in build_files()]
    return frozenset(name for name in BACKENDS if any(f"ggml-{name}" in file for file in files))


def listed(*, command: Sequence[str] = CHILD, limit_s: float = LIST_S) -> "tuple[Device, ...]":
    """The devices of the installed llama.cpp, asked in a child process, unless it has none but the CPU.

    Raises DeviceUnavailable when a driver crashes or hangs there.
    """
    if not built_in():
        return ()
    from edgeai.engines.llamacpp.devices import Device

    ended = run_child([*command, "list"], limit_s)
    if ended.failure is not None:
        remedy = "Update the devices' drivers, or install a llama-cpp-python without a GPU's backend"
        why = f"It {ended.failure}: {ended.why}"
        raise DeviceUnavailable("llama.cpp cannot list its devices", why=why, remedy=remedy)
    return tuple(Device(**row) for row in ended.report["devices"])


def _found(find: "Callable[[], Sequence[Device]]") -> "tuple[Sequence[Device], str | None]":
    """The devices, or why there are none."""
    try:
        return find(), None
    except DeviceUnavailable as error:
        _log.warning("%s", error)
        return (), f"{error.what}. {error.why}"


def available() -> tuple[str, ...]:
    """The backends of the installed llama.cpp that have a GPU here."""
    found = {device.backend for device in _found(listed)[0] if device.kind == "gpu"}
    return tuple(name for name, backend in BACKENDS.items() if found & set(backend.natives))


def place(
    model: "InstalledModel",
    plan: DevicePlan,
    wish: Wish,
    profile: Profile,
    goal: Goal,
    machine: "Machine",
    *,
    find: "Callable[[], Sequence[Device]]" = listed,
    judge: "Callable[..., Verdict]" = gpu_verdict,
) -> Placed:
    """Where llama.cpp decodes the model: with its layers on the GPUs of one backend, or on the CPU.

    Those count that a child process has seen to compute as the CPU does; it is asked for a device that was
    asked for, never with "auto". Where the plan's context does not fit with all layers, the last ones go
    there that do. Raises DeviceUnavailable for a device that was asked for, with the reason for each backend.
    """
    names = order(wish, KINDS, profile, goal, "decode")
    found, broken = _found(find) if names else ((), None)
    steps: list[Step] = []
    remedies: list[str] = []
    for name in names:
        gpus = [d for d in found if d.kind == "gpu" and d.backend in BACKENDS[name].natives]
        gpus = [gpu for gpu in gpus if wish.part in (None, gpu.name)]
        if wish.is_open and not gpus and name not in built_in():
            continue  # what nobody has installed was not passed over
        why, room = _why_not(name, gpus, wish, broken), None
        if why is None:
            room = room_on(gpus, model, plan, machine)
            why = None if room.layers else room.why
        if why is None and room is not None:
            facts = circumstances(machine)
            verdict = judge(model, name, gpus, facts, trying=not wish.is_open, layers=room.part)
            why = None if verdict.state == "works" else verdict.in_words()
            remedies += [verdict.remedy] if verdict.remedy else []
        if why is None and room is not None:
            return _placed(name, gpus, room, steps, optional=wish.is_open or wish.allow_fallback)
        steps.append(Step(work="decode", provider=name, why=why))
        _log.info("%s is passed over for decode: %s", name, why)
    if wish.name not in ("auto", "cpu"):
        if not names:
            steps.append(Step(work="decode", provider=wish.name, why="llama.cpp has nothing for it"))
        if not wish.allow_fallback:
            remedy = remedies[0] if remedies else _remedy(names, machine)
            raise unavailable(model.id, wish, steps, remedy)
        _log.warning("%s decodes on the processor: %s", model.id, steps[-1].why)
    return Placed(steps=(*steps, Step(work="decode", provider="cpu")) if steps else ())


def gpu_verdicts(model: "InstalledModel", plan: DevicePlan, machine: "Machine") -> "Iterator[Verdict]":
    """The model on each backend that has GPUs, with what fits there of the plan, tried now if it was not."""
    found, _ = _found(listed)
    for name, backend in BACKENDS.items():
        if gpus := [d for d in found if d.kind == "gpu" and d.backend in backend.natives]:
            room = room_on(gpus, model, plan, machine)
            if room.layers:
                facts = circumstances(machine)
                yield gpu_verdict(model, name, gpus, facts, trying=True, layers=room.part)
            else:
                yield Verdict(provider=name, state="no memory", why=room.why, remedy="Free memory there")


def command_for(machine: "Machine", names: Sequence[str] = tuple(BACKENDS)) -> str:
    """The command that builds llama-cpp-python for this machine's GPU, or for most of them."""
    vendors = {device.vendor for device in machine.accelerators if device.kind == "gpu"}
    fits = [name for name in names if vendors & set(BACKENDS[name].vendors)]
    usual = "vulkan" if "vulkan" in names else names[0]
    switch = BACKENDS[fits[0] if fits else usual].switch
    return f'CMAKE_ARGS="-D{switch}=on" pip install --force-reinstall --no-cache-dir llama-cpp-python'


def _why_not(name: str, gpus: "Sequence[Device]", wish: Wish, broken: str | None) -> str | None:
    """What is against the devices before anything is tried."""
    if not gpus and name not in built_in():
        return "the installed llama-cpp-python was built without it"
    if not gpus and broken is not None:
        return broken
    if not gpus:
        return f"it finds no device {wish.part}" if wish.part else "it finds no device"
    return None


def _placed(
    name: str, gpus: "Sequence[Device]", room: "Room", steps: list[Step], *, optional: bool
) -> Placed:
    if room.why is not None:
        _log.warning("%s gets %d of %d layers: %s", name, room.layers, room.total, room.why)
        steps.append(Step(work="decode", provider=name, why=room.why, layers=(room.total, room.total)))
    steps.append(Step(work="decode", provider=name, layers=(room.layers, room.total)))
    return Placed(
        provider=name,
        gpus=tuple(gpu.name for gpu in gpus),
        gpu_layers=room.part,
        gpu_shared=all(gpu.shared for gpu in gpus),
        gpu_optional=optional,
        steps=tuple(steps),
    )


def _remedy(names: Sequence[str], machine: "Machine") -> str:
    """For the backend of this machine's GPU, or the one that drives most of them."""
    if not names:
        return "Use a package for ONNX Runtime with a variant for it (edgeai convert), or another device"
    if any(name in built_in() for name in names):
        return "Install the device's driver: edgeai doctor says what is missing"
    return f"Build it with the GPU's backend, such as: {command_for(machine, names)}"
