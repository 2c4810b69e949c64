"""What this machine is: processor, memory, system, and which engines are installed."""

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

ROOT = Path("/")
ENGINE_PACKAGES = ("llama-cpp-python", "onnxruntime", "llguidance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine, now. ``cores`` are physical; ``usable_cores`` are those this process may keep busy."""

    cpu: str
    cores: int
    usable_cores: int
    memory_bytes: int
    memory_available_bytes: int
    system: str
    python: str


def probe() -> Machine:
    """Look at the machine; a few milliseconds, and nothing native is loaded."""
    memory = psutil.virtual_memory()
    return Machine(
        cpu=cpu_name(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        usable_cores=usable_cores(),
        memory_bytes=memory.total,
        memory_available_bytes=memory.available,
        system=platform.platform(),
        python=platform.python_version(),
    )


def engine_versions() -> Mapping[str, str | None]:
    """The version of each package that engines are made of, None where it is not installed; loads none."""
    return {name: _version(name) for name in ENGINE_PACKAGES}


def usable_cores(root: Path = ROOT) -> int:
    """Physical cores within the affinity mask and the control group's quota; at least one.

    ``root`` is where /proc and /sys are.
    """
    quota = min(_quotas(root), default=float("inf"))
    # A thread beyond the quota would be throttled, and all others would wait for it: round down.
    return max(1, int(min(_cores_in_mask(root), quota)))


def cpu_name(root: Path = ROOT) -> str:
    """The processor's name for people."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cores_in_mask(root: Path) -> int:
    if not hasattr(os, "sched_getaffinity"):
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    mask = os.sched_getaffinity(0)
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    # Two threads of one core name the same siblings.
    siblings = {_text(root / topology.format(cpu)).strip() or str(cpu) for cpu in mask}
    return len(siblings)


def _quotas(root: Path) -> Iterator[float]:
    """The limits in cores of this process's control groups and of those around them."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _unified_quotas(root / "sys/fs/cgroup", path)
        elif "cpu" in controllers.split(","):
            yield from _legacy_quota(root / "sys/fs/cgroup/cpu", path)


def _unified_quotas(mount: Path, path: str) -> Iterator[float]:
    group = mount / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(mount):
            return
        match _text(folder / "cpu.max").split():
            case [limit, period] if limit != "max":
                yield int(limit) / int(period)


def _legacy_quota(mount: Path, path: str) -> Iterator[float]:
    for folder in (mount / path.lstrip("/"), mount):  # a container sees its own group at the mount
        limit, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if limit and period and int(limit) > 0:
            yield int(limit) / int(period)


def _text(path: Path) -> str:
    """The file's text, empty where this system has no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
