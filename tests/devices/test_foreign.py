"""Macs and Windows machines, from what their documented interfaces say; none was at hand.

The values are those of Apple's documentation of sysctl and of the makers' data sheets, not recorded.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from edgeai.devices import macos, probe, windows
from edgeai.devices.accelerators import Kind
from edgeai.devices.memory import Memory
from edgeai.devices.plan import is_hot, plan
from edgeai.devices.power import Power
from edgeai.devices.probe import Machine
from edgeai.devices.profiles import choose, ranked

Sysctl = Mapping[str, int | str]
M4: Sysctl = {
    "machdep.cpu.brand_string": "Apple M4",
    "hw.model": "Mac16,10",
    "hw.optional.arm64": 1,
    "hw.optional.arm.FEAT_DotProd": 1,
    "hw.optional.arm.FEAT_I8MM": 1,
    "hw.physicalcpu": 10,
    "hw.logicalcpu": 10,
    "hw.perflevel0.physicalcpu": 4,
    "hw.perflevel1.physicalcpu": 6,
}
INTEL: Sysctl = {
    "machdep.cpu.brand_string": "Intel(R) Core(TM) i5-1038NG7 CPU @ 2.00GHz",
    "hw.model": "MacBookPro16,2",
    "hw.physicalcpu": 4,
    "hw.logicalcpu": 8,
}
Mac = Callable[[Sysctl, float], Machine]


def memory(gb: float) -> Memory:
    return Memory(total=int(gb * 2**30), available=int(gb * 2**29))


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Mac:
    """A Mac with these values and this memory in GiB."""

    def look(values: Sysctl, gb: float) -> Machine:
        def sysctl(name: str) -> bytes:
            value = values.get(name, b"")
            if isinstance(value, int):
                return value.to_bytes(4, "little")
            return value.encode() + b"\0" if isinstance(value, str) else value

        monkeypatch.setattr(macos, "_sysctl", sysctl)
        monkeypatch.setattr(macos, "is_throttled", lambda: False)
        monkeypatch.setattr(probe, "sys", SimpleNamespace(platform="darwin"))
        monkeypatch.setattr(probe, "read_memory", lambda: memory(gb))
        return probe.probe()

    return look


@pytest.mark.parametrize(("gb", "profile"), [(8, "apple-m-8gb"), (16, "apple-m-16gb"), (64, "apple-m-16gb")])
def test_a_mac_has_its_profile(mac: Mac, gb: float, profile: str) -> None:
    """By the chip's name and the memory; the GPU and the neural engine are there."""
    machine = mac(M4, gb)
    assert (machine.os, machine.cpu, machine.board.name) == ("macos", "Apple M4", "Mac16,10")
    assert [(device.kind, device.driver) for device in machine.accelerators] == [
        ("gpu", "Metal"),
        ("npu", "Core ML"),
    ]
    assert machine.processor.isa == ("asimddp", "i8mm")
    assert next(one for one in ranked(machine) if one.matches).profile.name == profile


def test_a_mac_computes_with_its_fast_cores(mac: Mac) -> None:
    """Four of ten, and fewer when the system says that it is hot."""
    machine = mac(M4, 16)
    apple = choose("auto", machine)
    assert (machine.processor.performance, machine.processor.efficiency) == (4, 6)
    assert plan(None, 4096, profile=apple, machine=machine).n_threads == 4
    assert not is_hot(apple, machine)
    hot = replace(machine, power=Power(throttled=True))
    assert is_hot(apple, hot)
    small = choose("apple-m-8gb", machine)
    assert plan(None, 4096, profile=small, machine=hot).n_threads == 2


def test_an_intel_mac_is_none_of_those(mac: Mac) -> None:
    """Its cores are alike, and nothing is known of devices that Core ML would use."""
    machine = mac(INTEL, 16)
    assert (machine.processor.arch, machine.processor.performance, machine.processor.fast) == (
        "x86_64",
        None,
        4,
    )
    assert machine.accelerators == ()
    assert choose("auto", machine).name in ("generic", "laptop-8gb")


Registry = Mapping[str, Mapping[str, str]]
Windows = Callable[[Registry, str, bytes], Machine]


def core_set(core: int, kind: int) -> bytes:
    """A SYSTEM_CPU_SET_INFORMATION record of a core of this class."""
    data = bytearray(32)
    data[0], data[15], data[18] = 32, core, kind
    return bytes(data)


def device(kind: Kind, name: str, id_: str) -> Registry:
    place = rf"{windows.SETUP_CLASSES}\{windows.CLASSES[kind]}\0000"
    return {place: {"DriverDesc": name, "MatchingDeviceId": id_, "DriverVersion": "32.0.100.4023"}}


@pytest.fixture
def pc(monkeypatch: pytest.MonkeyPatch) -> Windows:
    """A Windows machine with this registry, architecture and sets of processors."""

    def look(registry: Registry, arch: str, sets: bytes) -> Machine:
        monkeypatch.setattr(windows, "_value", lambda place, key: registry.get(place, {}).get(key))
        monkeypatch.setattr(windows, "_cpu_set_information", lambda: sets)
        monkeypatch.setattr(windows, "_has", lambda feature: feature in (39, 40) or arch == "ARM64")
        monkeypatch.setattr("platform.machine", lambda: arch)
        monkeypatch.setattr(probe, "sys", SimpleNamespace(platform="win32"))
        monkeypatch.setattr(psutil, "sensors_battery", lambda: None)
        return probe.probe()

    return look


def processor(name: str) -> Registry:
    return {rf"{windows.HARDWARE}\CentralProcessor\0": {"ProcessorNameString": name}}


def test_windows_on_a_hybrid_processor(pc: Windows) -> None:
    """Cores of the best class are the fast ones; the NPU is a compute accelerator of the registry."""
    names = processor("Intel(R) Core(TM) Ultra 7 258V")
    boost = device("npu", "Intel(R) AI Boost", r"pci\ven_8086&dev_643e")
    sets = b"".join(core_set(core, 1 if core < 4 else 0) for core in range(8))
    machine = pc({**names, **boost}, "AMD64", sets)
    assert (machine.os, machine.processor.arch) == ("windows", "x86_64")
    assert (machine.processor.cores, machine.processor.fast, machine.processor.isa) == (8, 4, ("avx", "avx2"))
    [npu] = machine.accelerators
    assert (npu.kind, npu.vendor, npu.id, npu.driver) == ("npu", "Intel", "8086:643e", "32.0.100.4023")
    profile = choose("auto", machine)
    assert profile.name == "intel-core-ultra"
    assert plan(None, 4096, profile=profile, machine=machine).n_threads == 4


def test_windows_on_a_snapdragon(pc: Windows) -> None:
    """GPU and NPU are not on PCI: their maker is written in letters, in one of two ways."""
    names = processor("Snapdragon(R) X Elite - X1E80100 - Qualcomm(R) Oryon(TM) CPU")
    adreno = device("gpu", "Qualcomm(R) Adreno(TM) X1-85 GPU", r"ACPI\VEN_QCOM&DEV_0C36&SUBSYS_CRD08380")
    hexagon = device("npu", "Snapdragon(R) X Elite - Qualcomm(R) Hexagon(TM) NPU", r"ACPI\QCOM0D0A")
    machine = pc({**names, **adreno, **hexagon}, "ARM64", b"".join(core_set(core, 0) for core in range(12)))
    assert [(one.kind, one.vendor, one.id) for one in machine.accelerators] == [
        ("gpu", "Qualcomm", "qcom:0c36"),
        ("npu", "Qualcomm", "qcom:0d0a"),
    ]
    assert (machine.processor.fast, machine.processor.performance) == (12, None)
    assert choose("auto", machine).name == "snapdragon-x-elite"


def test_windows_says_when_it_is_hot(pc: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heat's limit on the clock of one processor is below what it is made for."""
    cool, warm = struct.pack("<6L", 0, 2200, 1800, 2200, 1, 1), struct.pack("<6L", 1, 2200, 900, 1540, 1, 1)
    assert windows.throttled(b"") is None
    assert windows.throttled(cool * 2) is False
    monkeypatch.setattr(windows, "_processor_power", lambda: cool + warm)
    machine = pc(processor("Intel(R) N100"), "AMD64", core_set(0, 0) + core_set(1, 0) + core_set(2, 0))
    kiosk = choose("auto", machine)
    assert (kiosk.name, is_hot(kiosk, machine)) == ("intel-n100-kiosk", True)
    assert plan(None, 4096, profile=kiosk, machine=machine).n_threads == 2
