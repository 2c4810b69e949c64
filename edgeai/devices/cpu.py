"""The processor: what it is called, which kinds of cores it has, and which of them are ours."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from edgeai.devices import cgroup
from edgeai.devices.files import ROOT, cpu_list, number, text

CPUS = "sys/devices/system/cpu"
# What the engines' kernels choose by; the rest of the flags says nothing about speed here.
ISA = (
    "avx", "avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """``cores`` are physical; ``performance`` and ``efficiency`` count the kinds where there are two.

    ``usable`` is what this process may keep busy: physical cores within its affinity mask and the quota of
    its control groups; ``fast`` of those are no efficiency cores, or all where there is one kind. ``smt``:
    some cores run two threads. ``isa`` names the extensions that matter to inference, as the kernel spells
    them. Unknown is None.
    """

    name: str
    arch: str
    isa: tuple[str, ...] = ()
    cores: int | None = None
    performance: int | None = None
    efficiency: int | None = None
    smt: bool | None = None
    threads: int | None = None
    affinity: int | None = None
    quota: float | None = None
    usable: int = 1
    fast: int = 1


def read_cpu(root: Path = ROOT) -> Cpu:
    """From Linux' /proc and /sys below ``root``."""
    info = text(root / "proc/cpuinfo")
    mask, online = _mask(root), _online(root)
    big, little = _kinds(root, online)
    smt = number(root / CPUS / "smt/active")
    return Cpu(
        name=cpu_name(root),
        arch=_arch(info),
        isa=_isa(info),
        cores=len(_cores(root, online)) or None,
        performance=len(_cores(root, big)) if little else None,
        efficiency=len(_cores(root, little)) if little else None,
        smt=None if smt is None else smt == 1,
        threads=len(online) or None,
        affinity=len(mask) or None,
        quota=cgroup.cpu_quota(root),
        usable=usable_cores(root),
        fast=fast_cores(root),
    )


def usable_cores(root: Path = ROOT) -> int:
    """Physical cores within the affinity mask and the control group's quota; at least one.

    ``root`` is where /proc and /sys are.
    """
    quota = cgroup.cpu_quota(root)
    cores = len(_cores(root, _mask(root))) or os.cpu_count() or 1
    # A thread beyond the quota would be throttled, and all others would wait for it: round down.
    return max(1, cores if quota is None else min(cores, int(quota)))


def fast_cores(root: Path = ROOT) -> int:
    """As `usable_cores`, without efficiency cores where there are others: a slow thread holds all back."""
    mask = _mask(root)
    big, little = _kinds(root, mask)
    return min(len(_cores(root, big)), usable_cores(root)) if big and little else usable_cores(root)


def cpu_name(root: Path = ROOT) -> str:
    """The processor's name for people."""
    info = text(root / "proc/cpuinfo")
    for key in ("model name", "Model", "Hardware"):
        found = re.search(rf"^{key}\s*: (.+)$", info, re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _arch(info: str) -> str:
    """Recorded trees may be of another machine than this one: the form of cpuinfo tells."""
    if re.search(r"^vendor_id\s*:", info, re.MULTILINE):
        return "x86_64"
    if re.search(r"^CPU implementer\s*:", info, re.MULTILINE):
        return "aarch64"
    return {"AMD64": "x86_64", "arm64": "aarch64", "ARM64": "aarch64"}.get(
        platform.machine(), platform.machine()
    )


def _isa(info: str) -> tuple[str, ...]:
    found = re.search(r"^(?:flags|Features)\s*: (.+)$", info, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return tuple(flag for flag in ISA if flag in flags)


def _mask(root: Path) -> frozenset[int]:
    """The processors that the scheduler may put this process on."""
    found = re.search(r"^Cpus_allowed_list:\s*(\S+)", text(root / "proc/self/status"), re.MULTILINE)
    if found:
        return cpu_list(found[1])
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _online(root: Path) -> frozenset[int]:
    return cpu_list(text(root / CPUS / "online")) or _mask(root)


def _cores(root: Path, cpus: frozenset[int]) -> set[str]:
    """Two threads of one core name the same siblings."""
    siblings = "topology/thread_siblings_list"
    return {text(root / CPUS / f"cpu{cpu}" / siblings) or str(cpu) for cpu in cpus}


def _kinds(root: Path, cpus: frozenset[int]) -> tuple[frozenset[int], frozenset[int]]:
    """Performance and efficiency cores; the second is empty where all are alike or nothing is known.

    Intel's kernels name both kinds; Arm's give each a capacity, 1024 being the best. Cores of 70 % of the
    best and more are taken together: they hold a barrier up by less than they add.
    """
    atoms = cpu_list(text(root / "sys/devices/cpu_atom/cpus"))
    if atoms:
        return cpus - atoms, cpus & atoms
    given = {cpu: number(root / CPUS / f"cpu{cpu}" / "cpu_capacity") or 0 for cpu in cpus}
    best = max(given.values(), default=0)
    little = frozenset(cpu for cpu, capacity in given.items() if capacity < 0.7 * best)
    return cpus - little, little
