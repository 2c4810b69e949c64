"""What changes when a device's driver does: without it, a verdict on the device would outlive its reason."""

import os
import platform
from pathlib import Path
from typing import Final

from edgeai.devices.files import ROOT, entries, text

__all__ = ["drivers", "stamp"]

_MODULES: Final = (
    "dxgkrnl",
    "nvidia",
    "amdgpu",
    "i915",
    "xe",
    "msm",
    "nvgpu",
    "intel_vpu",
    "amdxdna",
    "fastrpc",
)
_MANIFESTS: Final = ("etc/vulkan/icd.d", "usr/share/vulkan/icd.d", "etc/OpenCL/vendors")
_LIBRARIES: Final = ("*libcuda.so*", "*libze_intel_*.so*", "*libcdsprpc.so*", "*libamdhip64.so*")
_FOLDERS: Final = (
    "usr/lib/wsl/lib",
    "usr/lib/aarch64-linux-gnu/tegra",
    "usr/lib",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "opt/rocm/lib",
)
_VARIABLES: Final = (
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "VK_ICD_FILENAMES",
    "VK_DRIVER_FILES",
)


def drivers() -> list[object]:
    """The kernel, its modules for GPUs and NPUs, the makers' libraries, and what hides devices.

    Where there is no /sys, the system's release stands for all, which drivers do not outlive on macOS; on
    Windows each device has its driver's version.
    """
    modules = [text(ROOT / "sys/module" / name / "version") for name in _MODULES]
    manifests = [stamp(file) for folder in _MANIFESTS for file in entries(ROOT / folder)]
    libraries = [stamp(f) for folder in _FOLDERS for name in _LIBRARIES for f in entries(ROOT / folder, name)]
    hidden = [os.environ.get(name, "") for name in _VARIABLES]
    return [platform.release(), modules, manifests, libraries, hidden]


def stamp(file: Path) -> tuple[str, int, int]:
    """Name, size and time of change; of a file that is not there, none."""
    try:
        found = file.stat()
    except OSError:
        return file.name, 0, 0
    return file.name, found.st_size, found.st_mtime_ns
