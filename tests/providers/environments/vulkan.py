"""Fetches a Vulkan backend for llama.cpp: ``python -m tests.providers.environments.vulkan FOLDER``.

Building llama-cpp-python with it takes an hour on two cores; node-llama-cpp's package brings the library
ready-made, and it fits as long as both are of one version of ggml. Beside it lies a link to this
environment's ``libggml-base``, so that there is one only. Needs npm, and Mesa's driver "lavapipe".
"""

import ctypes
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "@node-llama-cpp/linux-x64-vulkan@3.22.1"
INSIDE = "package/bins/linux-x64-vulkan/"
MANIFESTS = Path("/usr/share/vulkan/icd.d")
DEBIAN = "install it, as root: apt-get install mesa-vulkan-drivers"


def manifest() -> Path:
    """Of lavapipe's driver. Exits without one, or without the loader of such drivers."""
    found = sorted(MANIFESTS.glob("lvp_icd*.json"))
    try:
        ctypes.CDLL("libvulkan.so.1")
    except OSError:
        found = []
    if not found:
        sys.exit(f"There is no lavapipe; {DEBIAN}")
    return found[0]


def main(folder: Path) -> None:
    """Leave ``libggml-vulkan.so`` and the link in the folder. Exits when the versions are not one."""
    manifest()
    library = find_spec("llama_cpp")
    assert library is not None
    assert library.origin is not None
    base = next((Path(library.origin).parent / "lib").glob("libggml-base.so.0.*"))
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as place:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=place, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(place).glob("*.tgz"))) as packed:
            theirs = packed.extractfile(INSIDE + "libggml-base.so")
            backend = packed.extractfile(INSIDE + "libggml-vulkan.so")
            assert theirs is not None
            assert backend is not None
            ours, other = (set(_versions(data)) for data in (base.read_bytes(), theirs.read()))
            if not ours & other:
                sys.exit(f"llama-cpp-python has ggml {ours}, {PACKAGE} {other}: name another version of that")
            (folder / "libggml-vulkan.so").write_bytes(backend.read())
    link = folder / "libggml-base.so"
    link.unlink(missing_ok=True)
    link.symlink_to(base.resolve())


def _versions(data: bytes) -> Iterator[str]:
    """The first two numbers of each version that a library's strings name."""
    for found in re.finditer(rb"\0(0\.\d+)\.\d+\0", data):
        yield found[1].decode()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
