"""What this process's control groups, and those around them, allow: processor time and memory."""

from collections.abc import Iterator
from pathlib import Path

from edgeai.devices.files import ROOT, number, text

# Version 1 writes "no limit" as the largest number of pages; nothing has an exbibyte.
_UNLIMITED = 1 << 60


def cpu_quota(root: Path = ROOT) -> float | None:
    """The tightest limit in cores; None when there is none."""
    return min(_quotas(root), default=None)


def memory_left(root: Path = ROOT) -> int | None:
    """Bytes that the tightest memory limit leaves, the page cache in it counted as free; None: no limit."""
    return min((max(0, limit - used) for limit, used in _memories(root)), default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """The tightest memory limit in bytes; None when there is none."""
    return min((limit for limit, _ in _memories(root)), default=None)


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """The folders of this process's groups, from the inside out, and whether they are of version 2."""
    for line in text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from ((folder, True) for folder in _upwards(root / "sys/fs/cgroup", path))
        elif controller in controllers.split(","):
            yield from ((folder, False) for folder in _upwards(root / "sys/fs/cgroup" / controller, path))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """A group and those around it; a container sees its own group at the mount."""
    group = mount / path.lstrip("/")
    return (folder for folder in (group, *group.parents) if folder.is_relative_to(mount))


def _quotas(root: Path) -> Iterator[float]:
    for folder, unified in _groups(root, "cpu"):
        if unified:
            limit, _, period = text(folder / "cpu.max").partition(" ")
        else:
            limit, period = text(folder / "cpu.cfs_quota_us"), text(folder / "cpu.cfs_period_us")
        if limit.isdigit() and period.isdigit() and int(limit) > 0:
            yield int(limit) / int(period)


def _memories(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes; what can be dropped at once is not counted as used."""
    for folder, unified in _groups(root, "memory"):
        limit = number(folder / ("memory.max" if unified else "memory.limit_in_bytes"))
        used = number(folder / ("memory.current" if unified else "memory.usage_in_bytes"))
        if limit is not None and limit < _UNLIMITED:
            yield limit, max(0, (used or 0) - _droppable(folder))


def _droppable(folder: Path) -> int:
    for line in text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0
