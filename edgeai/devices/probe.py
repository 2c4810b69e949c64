"""What this machine is: processor, memory, accelerators, power, system, and which engines are installed.

Linux is read from /proc and /sys, below any ``root``, so that recorded machines can be looked at, too; macOS
and Windows from their documented interfaces. Nothing native is loaded and no process started: some
milliseconds. What is not known is None.
"""

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from edgeai.devices import macos, windows
from edgeai.devices.accelerators import Accelerator, read_accelerators
from edgeai.devices.board import Board, read_board
from edgeai.devices.cpu import Cpu, cpu_name, fast_cores, read_cpu, usable_cores
from edgeai.devices.files import ROOT
from edgeai.devices.memory import Memory, Pressure, read_memory, read_pressure
from edgeai.devices.power import Power, read_power

__all__ = ["Machine", "cpu_name", "engine_versions", "fast_cores", "probe", "usable_cores"]

Os = Literal["linux", "macos", "windows"]
ENGINE_PACKAGES = ("llama-cpp-python", "onnxruntime", "llguidance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine, now. ``system`` and ``python`` are names with versions, for people."""

    os: Os
    processor: Cpu
    memory: Memory
    accelerators: tuple[Accelerator, ...] = ()
    power: Power = field(default_factory=Power)
    pressure: Pressure = field(default_factory=Pressure)
    board: Board = field(default_factory=Board)
    system: str = ""
    python: str = ""

    @property
    def cpu(self) -> str:
        """The processor's name."""
        return self.processor.name

    @property
    def cores(self) -> int:
        """Physical cores; where they are not known, those that this process may keep busy."""
        return self.processor.cores or self.processor.usable

    @property
    def usable_cores(self) -> int:
        """Cores that this process may keep busy."""
        return self.processor.usable

    @property
    def memory_bytes(self) -> int:
        """All memory, or the control group's limit."""
        return self.memory.total

    @property
    def memory_available_bytes(self) -> int:
        """What can be taken now without swapping."""
        return self.memory.available


def probe(root: Path = ROOT) -> Machine:
    """Look at the machine; with another ``root``, at the Linux machine recorded there."""
    if sys.platform == "darwin" and root == ROOT:
        cpu = macos.read_cpu()
        return _foreign("macos", cpu, macos.read_board(), macos.read_accelerators(cpu))
    if sys.platform == "win32" and root == ROOT:
        return _foreign("windows", windows.read_cpu(), windows.read_board(), windows.read_accelerators())
    return Machine(
        os="linux",
        processor=read_cpu(root),
        memory=read_memory(root),
        accelerators=read_accelerators(root),
        power=read_power(root),
        pressure=read_pressure(root),
        board=read_board(root),
        system=platform.platform(),
        python=platform.python_version(),
    )


def _foreign(os: Os, cpu: Cpu, board: Board, accelerators: tuple[Accelerator, ...]) -> Machine:
    """A machine without /proc; psutil knows its memory and battery."""
    return Machine(
        os=os,
        processor=cpu,
        memory=read_memory(),
        accelerators=accelerators,
        power=_foreign_power(),
        board=board,
        system=platform.platform(),
        python=platform.python_version(),
    )


def power_now() -> Power:
    """Battery and heat of this machine alone: a fraction of a millisecond to a few."""
    return read_power() if sys.platform == "linux" else _foreign_power()


def _foreign_power() -> Power:
    battery = psutil.sensors_battery()
    return Power(
        has_battery=battery is not None,
        on_battery=battery is not None and battery.power_plugged is False,
        charge=battery.percent / 100 if battery else None,
        throttled=macos.is_throttled() if sys.platform == "darwin" else windows.is_throttled(),
    )


def engine_versions() -> Mapping[str, str | None]:
    """The version of each package that engines are made of, None where it is not installed; loads none."""
    return {name: _version(name) for name in ENGINE_PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
