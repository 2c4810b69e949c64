"""The probe on recorded machines (written from documentation, see `trees`), and on this one."""

import time
from pathlib import Path

import pytest

from edgeai.devices.accelerators import Accelerator
from edgeai.devices.files import cpu_list
from edgeai.devices.gpus import command_for
from edgeai.devices.probe import Machine, fast_cores, probe
from edgeai.devices.windows import CpuSet, cpu_sets
from tests.devices.trees import (
    CPU,
    MACHINES,
    Tree,
    arm,
    battery,
    gpu,
    memory,
    npu,
    plant,
    platform_gpu,
    soc_gpu,
    x86,
    zone,
)


def look(root: Path, *trees: Tree) -> Machine:
    for tree in trees:
        plant(root, tree)
    return probe(root)


def test_this_machine_is_seen_quickly() -> None:
    """Within 100 ms, the first time included."""
    started = time.perf_counter()
    machine = probe()
    assert time.perf_counter() - started < 0.1
    assert machine.processor.arch in ("x86_64", "aarch64")


def test_a_machine_without_proc_and_sys_is_unknown(tmp_path: Path) -> None:
    """What cannot be read is None, and nothing fails."""
    machine = probe(tmp_path)
    assert machine.power.has_battery is None
    assert machine.power.hottest_c is None
    assert machine.pressure.cpu is None
    assert machine.board.name is None
    assert machine.processor.efficiency is None


@pytest.mark.parametrize(
    ("name", "cores", "performance", "efficiency", "threads", "arch"),
    [
        ("raspberry-pi-5-8gb", 4, None, None, 4, "aarch64"),
        ("intel-core-ultra", 8, 4, 4, 8, "x86_64"),
        ("amd-ryzen-ai-300", 12, None, None, 24, "x86_64"),
        ("laptop-8gb", 4, None, None, 8, "x86_64"),
        ("generic", 6, 2, 4, 6, "aarch64"),
    ],
)
def test_cores(
    tmp_path: Path,
    name: str,
    cores: int,
    performance: int | None,
    efficiency: int | None,
    threads: int,
    arch: str,
) -> None:
    """Physical cores, their kinds, and threads."""
    cpu = look(tmp_path, MACHINES[name]).processor
    assert (cpu.cores, cpu.performance, cpu.efficiency, cpu.threads) == (
        cores,
        performance,
        efficiency,
        threads,
    )
    assert cpu.arch == arch


def test_efficiency_cores_do_not_count_as_fast(tmp_path: Path) -> None:
    """Two big cores beside four small ones are two fast ones; a mask may take one of them away."""
    plant(tmp_path, MACHINES["generic"])
    assert fast_cores(tmp_path) == 2
    plant(tmp_path, {"proc/self/status": "Cpus_allowed_list:\t1-5"})
    assert fast_cores(tmp_path) == 1
    plant(tmp_path, {"proc/self/status": "Cpus_allowed_list:\t2-5"})
    assert fast_cores(tmp_path) == 4


def test_isa(tmp_path: Path) -> None:
    """What the kernels choose by, and nothing else of the flags."""
    assert look(tmp_path, arm([1] * 2, features="asimd asimddp i8mm crc32")).processor.isa == (
        "asimd",
        "asimddp",
        "i8mm",
    )


def test_accelerators(tmp_path: Path) -> None:
    """A GPU and an NPU with their drivers and nodes."""
    xe, vpu = look(tmp_path, MACHINES["intel-core-ultra"]).accelerators
    assert (xe.kind, xe.vendor, xe.id, xe.driver, xe.state) == ("gpu", "Intel", "8086:64a0", "xe", "usable")
    assert (vpu.kind, vpu.driver, vpu.node) == ("npu", "intel_vpu", "/dev/accel/accel0")


def test_hexagon_is_found_by_its_node(tmp_path: Path) -> None:
    """Both nodes of Qualcomm's signal processor are one NPU."""
    adreno, device = look(tmp_path, MACHINES["snapdragon-x-elite"]).accelerators
    assert (device.kind, device.vendor, device.driver) == ("npu", "Qualcomm", "fastrpc")
    assert (adreno.kind, adreno.vendor, adreno.name) == ("gpu", "Qualcomm", "qcom,adreno-43050c01")
    assert (adreno.driver, adreno.node, adreno.state) == ("adreno", "/dev/dri/renderD128", "usable")


def test_adreno_without_its_driver(tmp_path: Path) -> None:
    """The chip has it, and no card shows it; that of a display alone is none."""
    [device] = look(tmp_path, platform_gpu("3d00000.gpu", "qcom,adreno-43050c01", None)).accelerators
    assert (device.vendor, device.state) == ("Qualcomm", "no driver")


def test_a_jetsons_gpu_is_on_no_bus(tmp_path: Path) -> None:
    """It is found by its place and its node; without that, its driver is missing."""
    [device] = look(tmp_path, MACHINES["jetson-orin-nano-8gb"]).accelerators
    assert (device.kind, device.vendor, device.name) == ("gpu", "NVIDIA", "nvidia,ga10b")
    assert (device.node, device.state) == ("/dev/nvgpu/igpu0/ctrl", "usable")
    assert "-DGGML_CUDA=on" in command_for(probe(tmp_path))
    (tmp_path / "dev/nvgpu/igpu0/ctrl").unlink()
    assert [one.state for one in probe(tmp_path).accelerators] == ["no driver"]


@pytest.mark.parametrize(
    ("tree", "node"),
    [
        (platform_gpu("17000000.ga10b", "nvidia,ga10b", "gk20a"), "dev/nvhost-ctrl-gpu"),
        (
            {
                "sys/devices/platform/gpu.0/of_node/compatible": "nvidia,gv11b\0",
                "sys/devices/platform/gpu.0/driver": "->sys/bus/platform/drivers/gk20a",
                **platform_gpu("17000000.gv11b", "nvidia,gv11b", "gk20a"),
                **soc_gpu("nvidia,tegra194-display", "tegradc"),
            },
            "dev/nvgpu/igpu0/ctrl",
        ),
    ],
)
def test_a_jetson_of_an_earlier_release(tmp_path: Path, tree: Tree, node: str) -> None:
    """Its GPU has the chip's name, and a link beside it; it is found once, without the display's card."""
    [device] = look(tmp_path, tree, {node: ""}).accelerators
    assert (device.kind, device.vendor, device.node, device.state) == ("gpu", "NVIDIA", f"/{node}", "usable")


def test_a_card_beside_a_jetsons_own_gpu(tmp_path: Path) -> None:
    """One in a slot is a second GPU."""
    found = look(tmp_path, MACHINES["jetson-orin-nano-8gb"], gpu(0x10DE, 0x2204, "nvidia")).accelerators
    assert [(device.name, device.id) for device in found] == [("nvidia,ga10b", None), (None, "10de:2204")]


def test_an_npu_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is there with its driver, and this user is not in its group."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    [device] = look(tmp_path, npu(0x8086, 0x7D1D, "intel_vpu")).accelerators
    assert device.state == "no permission"


def test_an_npu_without_a_driver(tmp_path: Path) -> None:
    """It is on the bus only."""
    bus = "sys/bus/pci/devices/0000:00:0b.0"
    tree = {f"{bus}/class": "0x120000", f"{bus}/vendor": "0x8086", f"{bus}/device": "0x643e"}
    assert look(tmp_path, tree).accelerators == (
        Accelerator(kind="npu", vendor="Intel", id="8086:643e", state="no driver"),
    )


def test_a_framebuffer_is_no_gpu(tmp_path: Path) -> None:
    """A card without a render node cannot compute."""
    plain = "sys/class/drm/card0/device"
    assert (
        look(tmp_path, {f"{plain}/driver": "->sys/bus/platform/drivers/simple-framebuffer"}).accelerators
        == ()
    )


@pytest.mark.parametrize(
    ("status", "on_battery"), [("Discharging", True), ("Charging", False), ("Full", False)]
)
def test_the_battery(tmp_path: Path, status: str, on_battery: bool) -> None:  # noqa: FBT001  # a parameter
    """Discharging is on battery; its meter gives watts only then."""
    power = look(tmp_path, battery(status, 64, micro_w=9_500_000)).power
    assert (power.has_battery, power.on_battery, power.charge) == (True, on_battery, 0.64)
    assert power.draw_w == (9.5 if on_battery else None)


def test_a_battery_that_measures_current(tmp_path: Path) -> None:
    """Volts times amperes are watts; a mouse's battery is not the machine's."""
    base = "sys/class/power_supply"
    current = {f"{base}/BAT0/current_now": "1000000", f"{base}/BAT0/voltage_now": "12000000"}
    mouse = {
        f"{base}/hid/type": "Battery",
        f"{base}/hid/scope": "Device",
        f"{base}/hid/status": "Discharging",
    }
    power = look(tmp_path, battery("Discharging", 50) | current | mouse).power
    assert (power.draw_w, power.charge) == (12.0, 0.5)


def test_heat(tmp_path: Path) -> None:
    """The processor's zone, and where the system begins to slow down."""
    power = look(tmp_path, zone("x86_pkg_temp", 91.5, 95)).power
    assert (power.hottest_c, power.limit_c) == (91.5, 95)


def test_memory_within_a_control_group(tmp_path: Path) -> None:
    """A container's limit counts, less what it uses, more what it can drop; on each call anew."""
    group = "sys/fs/cgroup/app"
    limited = {
        "proc/self/cgroup": "0::/app",
        f"{group}/memory.max": "2000000000",
        f"{group}/memory.current": "1500000000",
        f"{group}/memory.stat": "anon 1\ninactive_file 300000000",
    }
    found = look(tmp_path, memory(8, 6), limited).memory
    assert (found.total, found.limit, found.available) == (2_000_000_000, 2_000_000_000, 800_000_000)
    plant(tmp_path, {f"{group}/memory.current": "1900000000"})
    assert probe(tmp_path).memory.available == 400_000_000


def test_memory_of_the_older_control_groups(tmp_path: Path) -> None:
    """Version 1 writes the largest number for no limit."""
    group = "sys/fs/cgroup/memory"
    plant(
        tmp_path,
        memory(8, 6)
        | {"proc/self/cgroup": "4:memory:/x", f"{group}/memory.limit_in_bytes": "9223372036854771712"},
    )
    assert probe(tmp_path).memory.limit is None
    plant(tmp_path, {f"{group}/memory.limit_in_bytes": "1000000", f"{group}/memory.usage_in_bytes": "400000"})
    assert probe(tmp_path).memory.available == 600_000


def test_pressure(tmp_path: Path) -> None:
    """Shares of the last ten seconds."""
    tree = {"proc/pressure/cpu": "some avg10=51.45 avg60=2.00 avg300=0.00 total=1"}
    assert look(tmp_path, tree).pressure.cpu == pytest.approx(0.5145)


def test_the_board(tmp_path: Path) -> None:
    """From the devicetree, or the firmware's tables."""
    assert (
        look(tmp_path / "pi", MACHINES["raspberry-pi-5-8gb"]).board.name == "Raspberry Pi 5 Model B Rev 1.0"
    )
    laptop = look(tmp_path / "laptop", MACHINES["laptop-8gb"]).board
    assert (laptop.name, laptop.form) == ("Dell Inc. Latitude 5300", "laptop")


def test_sets_of_processors() -> None:
    """The kernel's lists, and an empty one."""
    assert cpu_list("0-2,8") == {0, 1, 2, 8}
    assert cpu_list("") == frozenset()


def test_windows_processor_sets() -> None:
    """Records are as long as they say, and a broken length ends the list."""
    record = bytearray(32)
    record[0], record[15], record[18] = 32, 3, 1
    assert cpu_sets(bytes(record) * 2 + bytes(32)) == [CpuSet(core=3, efficiency_class=1)] * 2


def test_threads_share_cores(tmp_path: Path) -> None:
    """Sixteen threads in pairs are eight cores."""
    assert look(tmp_path, x86("AMD Ryzen 7", n=16, smt=True)).usable_cores == 8
    assert (tmp_path / CPU / "smt/active").read_text() == "1\n"
