import os
from pathlib import Path

import pytest

from edgeai.devices.probe import cpu_name, engine_versions, probe, usable_cores


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with two cores of two threads each, all four in the affinity mask."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        write(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_this_machine() -> None:
    """The real machine has cores, memory and a name, and what is usable is not more than there is."""
    machine = probe()
    assert 1 <= machine.usable_cores <= (os.cpu_count() or 1)
    assert 0 < machine.memory_available_bytes <= machine.memory_bytes
    assert machine.cpu
    assert machine.system


def test_threads_of_one_core_count_once(root: Path) -> None:
    """Four hyper-threads on two cores are two usable cores."""
    assert usable_cores(root) == 2


def test_the_affinity_mask_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process pinned to both threads of one core has one core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    assert usable_cores(root) == 1


@pytest.mark.parametrize(
    ("inner", "outer", "cores"), [("max 100000", "max 100000", 2), ("150000 100000", "max 1", 1)]
)
def test_a_quota_is_rounded_down(root: Path, inner: str, outer: str, cores: int) -> None:
    """One and a half cores of quota are one thread; without a limit all cores are used."""
    write(root / "proc/self/cgroup", "0::/app/worker")
    write(root / "sys/fs/cgroup/app/worker/cpu.max", inner)
    write(root / "sys/fs/cgroup/app/cpu.max", outer)
    assert usable_cores(root) == cores


def test_the_tightest_quota_counts(root: Path) -> None:
    """The limit of a group around ours holds for us too, and half a core is still one thread."""
    write(root / "proc/self/cgroup", "0::/app/worker")
    write(root / "sys/fs/cgroup/app/worker/cpu.max", "max 100000")
    write(root / "sys/fs/cgroup/app/cpu.max", "50000 100000")
    assert usable_cores(root) == 1


@pytest.mark.parametrize(("limit", "cores"), [("-1", 2), ("100000", 1)])
def test_the_older_control_groups(root: Path, limit: str, cores: int) -> None:
    """Version 1 quotas count; minus one means none."""
    write(root / "proc/self/cgroup", "2:cpuacct,cpu:/app\n1:name=systemd:/")
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", limit)
    write(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert usable_cores(root) == cores


def test_the_name_of_the_processor(tmp_path: Path) -> None:
    """The name comes from the kernel where it is written, and from Python elsewhere."""
    assert cpu_name(tmp_path)
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nmodel name\t: Fast Chip 9")
    assert cpu_name(tmp_path) == "Fast Chip 9"


def test_engines_are_found_without_loading_them() -> None:
    """Each engine package has a version, or None when it is missing."""
    assert set(engine_versions()) == {"llama-cpp-python", "onnxruntime", "llguidance"}
