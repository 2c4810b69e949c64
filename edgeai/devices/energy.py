"""Joules per answer, from a meter of this machine: RAPL, NVML or the battery; else an estimate, called so.

A meter counts the energy of the whole processor, graphics card or machine, whoever used it. Queries that run
at the same time share what was counted meanwhile in equal parts.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgeai.devices.files import ROOT, entries, number, text
from edgeai.devices.power import batteries, battery_w

__all__ = ["Energy", "EnergySource", "Meter", "Share", "find_meter"]

EnergySource = Literal["rapl", "nvml", "battery", "estimate"]
Counter = Callable[[], float | None]
POWERCAP: Final = "sys/class/powercap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules, and which meter counted them; "estimate": the profile's watts times seconds."""

    joules: float
    source: EnergySource


class Meter:
    """Divides what a counter counts among the queries of the moment. Safe from any thread."""

    def __init__(self, counter: Counter, source: EnergySource) -> None:
        self.source = source
        self._counter = counter
        self._lock = threading.Lock()
        self._last = counter()
        self._each = 0.0
        self._n_live = 0

    def begin(self) -> "Share":
        """A query begins."""
        with self._lock:
            self._count()
            self._n_live += 1
            return Share(self, self._each)

    def end(self, since: float) -> float | None:
        """A query that began at ``since`` has ended: its joules. None when the meter cannot be read now."""
        with self._lock:
            self._count()
            self._n_live -= 1
            return None if self._last is None else self._each - since

    def _count(self) -> None:
        now = self._counter()
        if now is not None and self._last is not None and self._n_live:
            self._each += (now - self._last) / self._n_live
        self._last = now


class Share:
    """What one query has used; it ends once."""

    def __init__(self, meter: Meter, since: float) -> None:
        self._meter: Meter | None = meter
        self._since = since

    def end(self) -> Energy | None:
        """The query has ended; None when nothing could be measured, or it had ended before."""
        meter, self._meter = self._meter, None
        joules = None if meter is None else meter.end(self._since)
        return None if meter is None or joules is None else Energy(joules=joules, source=meter.source)


def find_meter(root: Path = ROOT, *, active_w: float | None = None) -> Meter | None:
    """The best that can be read here. ``active_w``: what a profile says, for an estimate; None without."""
    counters: Mapping[EnergySource, Counter] = {
        "rapl": Rapl(root),
        "nvml": _nvml() or _nothing,
        "battery": Integral(lambda: _battery_w(root)),
        "estimate": Integral(lambda: active_w),
    }
    for source, counter in counters.items():
        if counter() is not None:
            return Meter(counter, source)
    return None


class Rapl:
    """The processor's packages in /sys/class/powercap (Intel and AMD). Kernels let root alone read it."""

    def __init__(self, root: Path = ROOT) -> None:
        zones = entries(root / POWERCAP, "intel-rapl:*")
        self._packages = [zone for zone in zones if text(zone / "name").startswith("package")]
        self._joules = 0.0
        self._last: list[int | None] = [None] * len(self._packages)

    def __call__(self) -> float | None:
        """Joules since it was made; the counters begin anew at ``max_energy_range_uj``."""
        now = [number(package / "energy_uj") for package in self._packages]
        if not now or None in now:
            return None
        for package, before, after in zip(self._packages, self._last, now, strict=True):
            if before is not None and after is not None:
                grown = after - before
                self._joules += (
                    grown if grown >= 0 else grown + (number(package / "max_energy_range_uj") or 0)
                ) / 1e6
        self._last = now
        return self._joules


class Integral:
    """Watts, summed over the time between two looks."""

    def __init__(self, watts: Callable[[], float | None]) -> None:
        self._watts = watts
        self._joules, self._last = 0.0, time.monotonic()

    def __call__(self) -> float | None:
        """Joules since it was made; None while there are no watts."""
        now, watts = time.monotonic(), self._watts()
        if watts is not None:
            self._joules += watts * (now - self._last)
        self._last = now
        return None if watts is None else self._joules


def _battery_w(root: Path) -> float | None:
    known = [watts for battery in batteries(root) if (watts := battery_w(battery)) is not None]
    return sum(known) if known else None


def _nothing() -> float | None:
    return None


def _nvml() -> Counter | None:
    """NVIDIA's own counters, if its library and the package nvidia-ml-py are here."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        for device in devices:
            pynvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except pynvml.NVMLError:  # no driver, or a card without the counter
        return None
    count = pynvml.nvmlDeviceGetTotalEnergyConsumption
    return (lambda: sum(count(device) for device in devices) / 1e3) if devices else None
