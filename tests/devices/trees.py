"""Machines as /proc and /sys show them, written from documentation, not recorded from the devices.

The forms are those of the kernel's own documentation (Documentation/ABI, admin-guide/pm, filesystems/proc),
the values those of the vendors' data sheets. A value that starts with ``->`` is a link, None an empty folder.
"""

from collections.abc import Mapping
from pathlib import Path

Tree = Mapping[str, str | None]
CPU = "sys/devices/system/cpu"


def plant(root: Path, tree: Tree) -> Path:
    """Write the machine below ``root``."""
    for place, content in tree.items():
        path = root / place
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("->"):
            target = root / content[2:]
            target.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        else:
            path.write_text(content + "\n")
    return root


def x86(name: str, *, n: int, smt: bool = False, flags: str = "avx avx2 f16c fma") -> dict[str, str | None]:
    """A processor of ``n`` threads; with ``smt`` thread i and i + n/2 share a core."""
    half = n // 2
    vendor = "GenuineIntel" if "Intel" in name else "AuthenticAMD"
    return {
        "proc/cpuinfo": f"vendor_id\t: {vendor}\nmodel name\t: {name}\nflags\t\t: fpu {flags}",
        **_common(n),
        f"{CPU}/smt/active": "1" if smt else "0",
        **{
            f"{CPU}/cpu{i}/topology/thread_siblings_list": f"{i % half},{i % half + half}" if smt else f"{i}"
            for i in range(n)
        },
    }


def arm(capacities: list[int], *, features: str = "asimd asimdhp asimddp") -> dict[str, str | None]:
    """A processor with a core for each capacity."""
    return {
        "proc/cpuinfo": f"processor\t: 0\nFeatures\t: fp {features}\nCPU implementer\t: 0x41",
        **_common(len(capacities)),
        **{f"{CPU}/cpu{i}/cpu_capacity": f"{capacity}" for i, capacity in enumerate(capacities)},
        **{f"{CPU}/cpu{i}/topology/thread_siblings_list": f"{i}" for i in range(len(capacities))},
    }


def _common(n: int) -> dict[str, str | None]:
    return {
        f"{CPU}/online": f"0-{n - 1}",
        "proc/self/status": f"Name:\tpython\nCpus_allowed_list:\t0-{n - 1}",
        "proc/self/cgroup": "0::/",
        "sys/class/power_supply": None,
    }


def memory(total_gb: float, available_gb: float) -> dict[str, str | None]:
    """/proc/meminfo; 1 GB is 10⁹ bytes."""
    total, available = int(total_gb * 1e9 / 1024), int(available_gb * 1e9 / 1024)
    return {"proc/meminfo": f"MemTotal: {total} kB\nMemFree: 1000 kB\nMemAvailable: {available} kB"}


def devicetree(model: str, compatible: str) -> dict[str, str | None]:
    """The board's name, ended by a NUL as the kernel does, and its compatible list."""
    base = "sys/firmware/devicetree/base"
    return {f"{base}/model": f"{model}\0", f"{base}/compatible": compatible.replace(" ", "\0") + "\0"}


def dmi(vendor: str, product: str, chassis: int) -> dict[str, str | None]:
    """What the firmware says of the product."""
    base = "sys/class/dmi/id"
    return {
        f"{base}/sys_vendor": vendor,
        f"{base}/product_name": product,
        f"{base}/chassis_type": f"{chassis}",
    }


def battery(status: str, percent: int, *, micro_w: int | None = None) -> dict[str, str | None]:
    """One battery, and the mains."""
    base = "sys/class/power_supply"
    meter = {} if micro_w is None else {f"{base}/BAT0/power_now": f"{micro_w}"}
    return {
        f"{base}/AC/type": "Mains",
        f"{base}/AC/online": "0" if status == "Discharging" else "1",
        f"{base}/BAT0/type": "Battery",
        f"{base}/BAT0/status": status,
        f"{base}/BAT0/capacity": f"{percent}",
        **meter,
    }


def gpu(vendor: int, device: int, driver: str, *, card: int = 0) -> dict[str, str | None]:
    """A graphics card with its render node."""
    base = f"sys/class/drm/card{card}/device"
    return {
        f"{base}/vendor": f"{vendor:#06x}",
        f"{base}/device": f"{device:#06x}",
        f"{base}/drm/renderD{128 + card}": None,
        f"{base}/driver": f"->sys/bus/pci/drivers/{driver}",
        f"dev/dri/renderD{128 + card}": "",
    }


def soc_gpu(compatible: str, driver: str) -> dict[str, str | None]:
    """A GPU of a system on a chip, which the devicetree describes: it has no PCI numbers."""
    base = "sys/class/drm/card0/device"
    return {
        f"{base}/of_node/compatible": compatible.replace(" ", "\0") + "\0",
        f"{base}/drm/renderD128": None,
        f"{base}/driver": f"->sys/bus/platform/drivers/{driver}",
        "dev/dri/renderD128": "",
    }


def platform_gpu(place: str, compatible: str, driver: str | None) -> dict[str, str | None]:
    """A GPU as the devicetree names it, which is not the device of a card; perhaps without its driver."""
    base = f"sys/bus/platform/devices/{place}"
    link = {} if driver is None else {f"{base}/driver": f"->sys/bus/platform/drivers/{driver}"}
    return {f"{base}/of_node/compatible": compatible.replace(" ", "\0") + "\0", **link}


def npu(vendor: int, device: int, driver: str) -> dict[str, str | None]:
    """A neural processor with its node."""
    base = "sys/class/accel/accel0/device"
    return {
        f"{base}/vendor": f"{vendor:#06x}",
        f"{base}/device": f"{device:#06x}",
        f"{base}/driver": f"->sys/bus/pci/drivers/{driver}",
        "dev/accel/accel0": "",
    }


def zone(kind: str, degrees: float, passive: float | None = None) -> dict[str, str | None]:
    """A thermal zone, with the temperature from which the system slows down."""
    base = "sys/class/thermal/thermal_zone0"
    trip: dict[str, str | None] = {
        f"{base}/trip_point_0_type": "passive",
        f"{base}/trip_point_0_temp": f"{(passive or 0) * 1000:.0f}",
    }
    return {f"{base}/type": kind, f"{base}/temp": f"{degrees * 1000:.0f}"} | (trip if passive else {})


NEW_ISA = "avx avx2 f16c fma avx_vnni"
MACHINES: Mapping[str, Tree] = {
    "raspberry-pi-5-8gb": {
        **arm([1024] * 4),
        **memory(8.44, 7.6),
        **devicetree("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b brcm,bcm2712"),
        **soc_gpu("brcm,2712-v3d", "v3d"),
        **zone("cpu-thermal", 52.4, 80),
    },
    "intel-core-ultra": {
        **x86("Intel(R) Core(TM) Ultra 7 258V", n=8, flags=NEW_ISA),
        **memory(33.1, 27.0),
        **dmi("LENOVO", "21SX", 10),
        **battery("Discharging", 64, micro_w=9_500_000),
        **gpu(0x8086, 0x64A0, "xe"),
        **npu(0x8086, 0x643E, "intel_vpu"),
        "sys/devices/cpu_core/cpus": "0-3",
        "sys/devices/cpu_atom/cpus": "4-7",
    },
    "amd-ryzen-ai-300": {
        **x86("AMD Ryzen AI 9 HX 370 w/ Radeon 890M", n=24, smt=True, flags=f"{NEW_ISA} avx512f avx512_vnni"),
        **memory(32.9, 25.0),
        **dmi("ASUSTeK COMPUTER INC.", "ProArt P16", 10),
        **battery("Charging", 90),
        **gpu(0x1002, 0x150E, "amdgpu"),
        **npu(0x1022, 0x17F0, "amdxdna"),
    },
    "snapdragon-x-elite": {
        **arm([1024] * 12, features="asimd asimdhp asimddp i8mm bf16"),
        **memory(33.3, 28.0),
        **devicetree("Lenovo ThinkPad T14s Gen 6", "lenovo,thinkpad-t14s qcom,x1e78100 qcom,x1e80100"),
        **battery("Not charging", 80),
        # x1e80100.dtsi, display/msm/gpu.yaml; logs: "msm_dpu ae01000.display-controller: bound 3d00000.gpu"
        **soc_gpu("qcom,x1e80100-dpu", "msm_dpu"),
        **platform_gpu("3d00000.gpu", "qcom,adreno-43050c01 qcom,adreno", "adreno"),
        "dev/fastrpc-cdsp": "",
        "dev/fastrpc-cdsp-secure": "",
    },
    "jetson-orin-nano-8gb": {
        **arm([1024] * 6),
        **memory(7.9, 5.2),
        **devicetree(
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            "nvidia,p3768-0000+p3767-0005-super nvidia,p3767-0005 nvidia,tegra234",
        ),
        **zone("cpu-thermal", 48.0, 99),
        # Jetson Linux 36; jetson_stats (its pull request 867), and nvgpu for the driver's name
        **platform_gpu("17000000.gpu", "nvidia,ga10b", "gk20a"),
        "dev/nvgpu/igpu0/ctrl": "",
    },
    "intel-n100-kiosk": {
        **x86("Intel(R) N100", n=4, flags=NEW_ISA),
        **memory(8.2, 5.9),
        **dmi("AZW", "EQ12", 3),
        **gpu(0x8086, 0x46D1, "i915"),
        **zone("x86_pkg_temp", 61.0, 105),
    },
    "laptop-8gb": {
        **x86("Intel(R) Core(TM) i5-8265U CPU @ 1.60GHz", n=8, smt=True),
        **memory(8.1, 4.2),
        **dmi("Dell Inc.", "Latitude 5300", 10),
        **battery("Full", 100),
        **gpu(0x8086, 0x3EA0, "i915"),
    },
    "x86-server": {
        **x86("AMD EPYC 7763 64-Core Processor", n=8, smt=True),
        **memory(67.0, 60.0),
        **dmi("Microsoft Corporation", "Virtual Machine", 3),
    },
    "generic": {**arm([1024, 1024, 446, 446, 446, 446]), **memory(4.1, 2.0)},
}
