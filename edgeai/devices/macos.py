"""This machine as macOS describes it, by sysctl. Not exercised: no Mac at hand."""

import ctypes
import ctypes.util

import psutil

from edgeai.devices.accelerators import Accelerator
from edgeai.devices.board import Board
from edgeai.devices.cpu import Cpu

_SERIOUS = 2  # NSProcessInfoThermalStateSerious; fair is 1, critical 3


def read_cpu() -> Cpu:
    """Level 0 is the performance cores, level 1 the efficiency cores (Apple's documentation of sysctl)."""
    big, little = _whole("hw.perflevel0.physicalcpu"), _whole("hw.perflevel1.physicalcpu")
    cores, threads = _whole("hw.physicalcpu"), _whole("hw.logicalcpu")
    usable = cores or psutil.cpu_count(logical=False) or 1
    features = {
        "FEAT_DotProd": "asimddp",
        "FEAT_I8MM": "i8mm",
        "FEAT_BF16": "bf16",
        "FEAT_FP16": "asimdhp",
        "FEAT_SME": "sme",
    }
    return Cpu(
        name=_word("machdep.cpu.brand_string") or "unknown",
        arch="aarch64" if _whole("hw.optional.arm64") else "x86_64",
        isa=tuple(isa for feature, isa in features.items() if _whole(f"hw.optional.arm.{feature}")),
        cores=cores,
        performance=big if little else None,
        efficiency=little,
        smt=None if cores is None or threads is None else threads > cores,
        threads=threads,
        usable=usable,
        fast=min(big or usable, usable),
    )


def read_board() -> Board:
    """The model's identifier, such as ``Mac16,10``; a Mac with a battery is a laptop."""
    return Board(name=_word("hw.model"), form="laptop" if psutil.sensors_battery() else "desktop")


def read_accelerators(cpu: Cpu) -> tuple[Accelerator, ...]:
    """Every Apple chip has a GPU for Metal and a neural engine for Core ML, open to every program."""
    if cpu.arch != "aarch64":
        return ()
    return (
        Accelerator(kind="gpu", vendor="Apple", name=f"{cpu.name} GPU", driver="Metal"),
        Accelerator(kind="npu", vendor="Apple", name="Apple Neural Engine", driver="Core ML"),
    )


def is_throttled() -> bool | None:
    """Whether the system says that it is hot, and slows down: NSProcessInfo.thermalState, serious or worse.

    Apple names no sensor that a program may read; None where Objective-C cannot be asked.
    """
    place = ctypes.util.find_library("objc")
    if place is None or ctypes.util.find_library("Foundation") is None:
        return None
    ctypes.CDLL(ctypes.util.find_library("Foundation"))
    runtime = ctypes.CDLL(place)
    runtime.objc_getClass.restype = runtime.sel_registerName.restype = ctypes.c_void_p
    send = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(("objc_msgSend", runtime))
    named = ctypes.c_void_p(runtime.objc_getClass(b"NSProcessInfo"))
    info = send(named, ctypes.c_void_p(runtime.sel_registerName(b"processInfo")))
    state = send(info, ctypes.c_void_p(runtime.sel_registerName(b"thermalState"))) or 0
    return int(state) >= _SERIOUS


def _whole(name: str) -> int | None:
    data = _sysctl(name)
    return int.from_bytes(data, "little") if data else None


def _word(name: str) -> str | None:
    data = _sysctl(name)
    return data.rstrip(b"\0").decode("utf-8", "replace") if data else None


def _sysctl(name: str) -> bytes:
    """What the kernel says, empty for a name that it does not know."""
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    size = ctypes.c_size_t()
    if library.sysctlbyname(name.encode(), None, ctypes.byref(size), None, 0):
        return b""
    buffer = ctypes.create_string_buffer(size.value)
    if library.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, 0):
        return b""
    return buffer.raw[: size.value]
