"""GPUs and NPUs: which are there, which driver has them, and whether this process may use them.

Linux: /sys/class/drm and /sys/bus/pci for GPUs, /sys/bus/platform for those of a Jetson and a Snapdragon,
whose cards are the display's if they have any; /sys/class/accel and /dev/fastrpc-cdsp* for NPUs. A device
that is there but cannot be used has a `state` that says what is missing, because each calls for another
remedy. That an execution provider works on it is another matter, found by trying.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeai.devices.files import ROOT, entries, number, text

Kind = Literal["gpu", "npu"]
State = Literal["usable", "no driver", "no permission"]
VENDORS = {
    0x8086: "Intel",
    0x1002: "AMD",
    0x1022: "AMD",
    0x10DE: "NVIDIA",
    0x17CB: "Qualcomm",
    0x106B: "Apple",
}
# The makers' names in devicetrees, where there is no PCI.
MAKERS = {"nvidia": "NVIDIA", "qcom": "Qualcomm", "brcm": "Broadcom", "arm": "Arm", "apple": "Apple"}
# The devicetree's names of GPUs that are not the device of a card: Adreno's, and a Jetson's, which was called
# by its chip until release 35 of Jetson Linux.
ON_CHIP = ("*.gpu", "*.ga10b", "*.gv11b", "*.gp10b")
# A Jetson's nodes, of the releases from 35 on and of earlier ones.
JETSON = ("dev/nvgpu/igpu0/ctrl", "dev/nvhost-ctrl-gpu")
# PCI classes: display controllers, and processing accelerators with which NPUs report themselves.
DISPLAY, ACCELERATOR = 0x03, 0x12
DRIVERS = {("npu", "Intel"): "intel_vpu", ("npu", "AMD"): "amdxdna", ("gpu", "NVIDIA"): "nvidia"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One device. ``id`` is ``vendor:device`` in hex as lspci shows it; ``node`` what programs open.

    ``memory_bytes`` is its own memory; None when it shares the machine's, or it is not known.
    """

    kind: Kind
    vendor: str | None
    id: str | None = None
    name: str | None = None
    driver: str | None = None
    node: str | None = None
    state: State = "usable"
    memory_bytes: int | None = None


def read_accelerators(root: Path = ROOT) -> tuple[Accelerator, ...]:
    """GPUs first, each device once."""
    found = [*_gpus(root), *_npus(root)]
    named = {(device.kind, device.id) for device in found}
    found += [device for device in _driverless(root) if (device.kind, device.id) not in named]
    return tuple(sorted(found, key=lambda device: device.kind))


def _gpus(root: Path) -> Iterator[Accelerator]:
    found = [entry / "device" for entry in entries(root / "sys/class/drm", "card[0-9]*")]
    cards = [card for card in found if re.fullmatch(r"card\d+", card.parent.name) and _is_gpu(card)]
    chips = _on_chip(root)
    for maker, chip in chips.items():
        displays = [_render(card) for card in cards if _maker(card) == maker]
        nodes = JETSON if maker == "NVIDIA" else displays
        yield _device(root, "gpu", chip, next((node for node in nodes if (root / node).exists()), None))
    for card in cards:
        if _id(card) or not chips or _maker(card) not in {None, *chips}:
            yield _device(root, "gpu", card, _render(card))


def _on_chip(root: Path) -> dict[str, Path]:
    """By its maker, the GPU of a Jetson or a Snapdragon; other chips' GPUs are the devices of their cards."""
    bus = root / "sys/bus/platform/devices"
    found = [device for pattern in ON_CHIP for device in entries(bus, pattern)]
    named = ((_maker(device), device) for device in (root / "sys/devices/platform/gpu.0", *found))
    return {maker: device for maker, device in named if maker in ("NVIDIA", "Qualcomm")}


def _render(card: Path) -> str:
    return f"dev/dri/{entries(card / 'drm', 'renderD*')[0].name}"


def _is_gpu(device: Path) -> bool:
    """A display without a GPU behind it (simple-framebuffer, a virtual console) has no way to compute."""
    return bool(entries(device / "drm", "renderD*"))


def _npus(root: Path) -> Iterator[Accelerator]:
    for device in entries(root / "sys/class/accel", "accel*"):
        yield _device(root, "npu", device / "device", f"dev/accel/{device.name}")
    for node in entries(root / "dev", "fastrpc-cdsp*")[:1]:  # the Hexagon processor; -secure is the same one
        place = f"dev/{node.name}"
        yield Accelerator(
            kind="npu", vendor="Qualcomm", name="Hexagon", driver="fastrpc", node=f"/{place}",
            state=_state(root, "fastrpc", place),
        )  # fmt: skip


def _driverless(root: Path) -> Iterator[Accelerator]:
    """What is on the bus, and no driver has taken it up."""
    for device in entries(root / "sys/bus/pci/devices"):
        kind: Kind | None = {DISPLAY: "gpu", ACCELERATOR: "npu"}.get((number(device / "class") or 0) >> 16)  # type: ignore[assignment]  # the values are literals
        vendor = VENDORS.get(number(device / "vendor") or 0)
        if kind and vendor and not (device / "driver").exists():
            yield Accelerator(
                kind=kind,
                vendor=vendor,
                id=_id(device),
                name=text(device / "label") or None,
                state="no driver",
            )


def _device(root: Path, kind: Kind, device: Path, node: str | None) -> Accelerator:
    driver = _link_name(device / "driver")
    memory = number(device / "mem_info_vram_total")  # amdgpu
    return Accelerator(
        kind=kind,
        vendor=_maker(device),
        id=_id(device),
        name=text(device / "label") or _compatible(device) or None,
        driver=driver,
        node=None if node is None else f"/{node}",
        state=_state(root, driver, node),
        memory_bytes=memory,
    )


def _maker(device: Path) -> str | None:
    prefix = _compatible(device).partition(",")[0]
    return VENDORS.get(number(device / "vendor") or 0) or MAKERS.get(prefix, prefix) or None


def _compatible(device: Path) -> str:
    """The most exact of the devicetree's names for it."""
    return text(device / "of_node/compatible").partition("\0")[0]


def _state(root: Path, driver: str | None, node: str | None) -> State:
    if driver is None or node is None or not (root / node).exists():
        return "no driver"
    return "usable" if os.access(root / node, os.R_OK | os.W_OK) else "no permission"


def _id(device: Path) -> str | None:
    vendor, number_ = number(device / "vendor"), number(device / "device")
    return None if vendor is None or number_ is None else f"{vendor:04x}:{number_:04x}"


def _link_name(path: Path) -> str | None:
    return path.resolve().name if path.exists() else None
