"""Macs and Windows machines, from what their documented interfaces say; none was at hand.

The values are those of Apple's documentation of sysctl and of the makers' data sheets, not recorded.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from edgeai.devices import macos, probe, windows
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


def test_windows_on_a_hybrid_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores of the best class are the fast ones; the NPU is a compute accelerator of the registry."""
    names = {
        rf"{windows.HARDWARE}\CentralProcessor\0": {"ProcessorNameString": "Intel(R) Core(TM) Ultra 7 258V"},
        rf"{windows.SETUP_CLASSES}\{windows.CLASSES['npu']}\0000": {
            "DriverDesc": "Intel(R) AI Boost",
            "MatchingDeviceId": r"pci\ven_8086&dev_643e",
            "DriverVersion": "32.0.100.4023",
        },
    }

    def record(core: int, kind: int) -> bytes:
        data = bytearray(32)
        data[0], data[15], data[18] = 32, core, kind
        return bytes(data)

    sets = b"".join(record(core, 1 if core < 4 else 0) for core in range(8))
    monkeypatch.setattr(windows, "_value", lambda place, key: names.get(place, {}).get(key))
    monkeypatch.setattr(windows, "_cpu_set_information", lambda: sets)
    monkeypatch.setattr(windows, "_has", lambda feature: feature in (39, 40))
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    monkeypatch.setattr(probe, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(psutil, "sensors_battery", lambda: None)
    machine = probe.probe()
    assert (machine.os, machine.processor.arch) == ("windows", "x86_64")
    assert (machine.processor.cores, machine.processor.fast, machine.processor.isa) == (8, 4, ("avx", "avx2"))
    [npu] = machine.accelerators
    assert (npu.kind, npu.vendor, npu.id, npu.driver) == ("npu", "Intel", "8086:643e", "32.0.100.4023")
    assert choose("auto", machine).name == "intel-core-ultra"
