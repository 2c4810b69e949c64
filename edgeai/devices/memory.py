"""Memory: how much there is, how much is really available, and what the system says of its pressure."""

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeai.devices import cgroup
from edgeai.devices.files import ROOT, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes, now: ask again before each load. ``limit`` is the control group's, None without one.

    ``available`` can be taken without swapping, the limit counted.
    """

    total: int
    available: int
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Shares (0 to 1) of the last ten seconds in which some task waited for the resource; unknown is None."""

    cpu: float | None = None
    memory: float | None = None
    io: float | None = None


def read_memory(root: Path = ROOT) -> Memory:
    """From /proc/meminfo and the control groups below ``root``; from psutil where there is no meminfo."""
    info = text(root / "proc/meminfo")
    known = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", info, re.MULTILINE)}
    if "MemTotal" not in known:
        system = psutil.virtual_memory()
        return Memory(total=system.total, available=system.available)
    total, limit = known["MemTotal"], cgroup.memory_limit(root)
    available = known.get("MemAvailable", known.get("MemFree", 0))
    left = cgroup.memory_left(root)
    return Memory(
        total=total if limit is None else min(total, limit),
        available=available if left is None else min(available, left),
        limit=limit,
    )


def read_pressure(root: Path = ROOT) -> Pressure:
    """From /proc/pressure, which kernels since 4.20 have."""
    return Pressure(
        cpu=_share(root / "proc/pressure/cpu"),
        memory=_share(root / "proc/pressure/memory"),
        io=_share(root / "proc/pressure/io"),
    )


def _share(path: Path) -> float | None:
    found = re.search(r"^some avg10=([\d.]+)", text(path))
    return float(found[1]) / 100 if found else None
