"""This machine as Windows describes it: the registry and GetSystemCpuSetInformation. Not exercised there.

Devices are read from the registry's setup classes: display adapters, and compute accelerators (NPUs).
"""

import ctypes
import platform
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from edgeai.devices.accelerators import VENDORS, Accelerator, Kind
from edgeai.devices.board import Board
from edgeai.devices.cpu import Cpu

CLASSES: dict[Kind, str] = {
    "gpu": "{4d36e968-e325-11ce-bfc1-08002be10318}",
    "npu": "{f01a9d53-3ff6-48d2-9f97-c8a7004be10c}",
}
SETUP_CLASSES = r"SYSTEM\CurrentControlSet\Control\Class"
# Of IsProcessorFeaturePresent (winnt.h).
FEATURES = {39: "avx", 40: "avx2", 41: "avx512f", 43: "asimddp"}
HARDWARE = r"HARDWARE\DESCRIPTION\System"
# What is not on PCI has its maker's letters in place of a number, as Adreno: ACPI\VEN_QCOM&DEV_0C36.
ID = re.compile(r"(?:ven_|acpi\\)([0-9a-z]{4})(?:&dev_)?([0-9a-f]{4})")
MAKERS = {"qcom": "Qualcomm", **{f"{number:04x}": name for number, name in VENDORS.items()}}
_PROCESSOR_INFORMATION = 11  # POWER_INFORMATION_LEVEL (winnt.h)


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSet:
    """One logical processor: its core, and its class of efficiency (higher is faster)."""

    core: int
    efficiency_class: int


def read_cpu() -> Cpu:
    """Names from the registry, kinds of cores from the processor sets."""
    sets = cpu_sets(_cpu_set_information())
    classes = {entry.core: entry.efficiency_class for entry in sets}
    best = max(classes.values(), default=0)
    big = sum(kind == best for kind in classes.values())
    cores = len(classes) or psutil.cpu_count(logical=False)
    threads = psutil.cpu_count()
    return Cpu(
        name=_value(rf"{HARDWARE}\CentralProcessor\0", "ProcessorNameString") or platform.processor(),
        arch={"AMD64": "x86_64", "ARM64": "aarch64"}.get(platform.machine(), platform.machine()),
        isa=tuple(isa for feature, isa in FEATURES.items() if _has(feature)),
        cores=cores,
        performance=big if big < len(classes) else None,
        efficiency=len(classes) - big if big < len(classes) else None,
        smt=None if cores is None or threads is None else threads > cores,
        threads=threads,
        usable=cores or 1,
        fast=big or cores or 1,
    )


def cpu_sets(data: bytes) -> list[CpuSet]:
    """SYSTEM_CPU_SET_INFORMATION records (winnt.h): the core is at 15, its class of efficiency at 18."""
    found, at = [], 0
    while at + 20 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if size < 20:
            break
        found.append(CpuSet(core=data[at + 15], efficiency_class=data[at + 18]))
        at += size
    return found


def read_board() -> Board:
    """From the firmware's tables, as the registry keeps them."""
    names = [_value(rf"{HARDWARE}\BIOS", key) for key in ("SystemManufacturer", "SystemProductName")]
    return Board(
        name=" ".join(name for name in names if name) or None,
        form="laptop" if psutil.sensors_battery() else None,
    )


def read_accelerators() -> tuple[Accelerator, ...]:
    """Each device with a driver; one without has no entry in these classes."""
    return tuple(device for kind in CLASSES for device in _devices(kind))


def _devices(kind: Kind) -> Iterator[Accelerator]:
    for number in range(16):
        place = rf"{SETUP_CLASSES}\{CLASSES[kind]}\{number:04}"
        name, id_ = _value(place, "DriverDesc"), ID.search((_value(place, "MatchingDeviceId") or "").lower())
        if name:
            yield Accelerator(
                kind=kind,
                vendor=None if id_ is None else MAKERS.get(id_[1]),
                id=None if id_ is None else f"{id_[1]}:{id_[2]}",
                name=name,
                driver=_value(place, "DriverVersion"),
            )


def is_throttled() -> bool | None:
    """Whether the system slows the processor down because of heat. No sensor is named on all machines."""
    return throttled(_processor_power())


def throttled(data: bytes) -> bool | None:
    """Of PROCESSOR_POWER_INFORMATION records: six ULONG, the second the clock of the specification, the

    fourth heat's limit on it. None without a record.
    """
    rows = list(struct.iter_unpack("<6L", data))
    return any(limit < most for _, most, _, limit, _, _ in rows) if rows else None


def _value(place: str, key: str) -> str | None:
    if sys.platform != "win32":
        return None
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, place) as opened:
            return str(winreg.QueryValueEx(opened, key)[0]).strip()
    except OSError:
        return None


def _has(feature: int) -> bool:
    return sys.platform == "win32" and bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(feature))


def _processor_power() -> bytes:
    if sys.platform != "win32":
        return b""
    buffer = ctypes.create_string_buffer(24 * (psutil.cpu_count() or 1))
    ask = ctypes.windll.powrprof.CallNtPowerInformation
    return b"" if ask(_PROCESSOR_INFORMATION, None, 0, buffer, len(buffer)) else buffer.raw


def _cpu_set_information() -> bytes:
    if sys.platform != "win32":
        return b""
    query = ctypes.windll.kernel32.GetSystemCpuSetInformation
    process = ctypes.c_void_p(-1)
    size = ctypes.c_ulong()
    query(None, 0, ctypes.byref(size), process, 0)
    buffer = ctypes.create_string_buffer(size.value)
    return buffer.raw if query(buffer, size, ctypes.byref(size), process, 0) else b""
