"""Tries a model file that nobody vouches for in a child process, before native code in ours sees it."""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from edgeai.errors import ModelCorrupt
from edgeai.models import catalog, disk
from edgeai.models.gguf import read_header
from edgeai.paths import cache_dir

__all__ = ["vet"]

CHILD = ("-m", "edgeai.engines.llamacpp.vet")  # named, not imported: engines stand above models
REFUSED = 10
PYTHON_ERROR = 1
START_S = 60.0
SLOWEST_DISK = 10e6  # bytes per second
_log = logging.getLogger("edgeai.models")


def vet(path: Path, *, child: Sequence[str] = CHILD, timeout_s: float | None = None) -> None:
    """Return if the GGUF file at ``path`` may be opened in this process.

    A file whose hash the catalog names is fine. Any other is loaded once in a child process, and a good
    verdict is kept with its hash. Raises ModelCorrupt when it crashes or hangs llama.cpp, or its header is
    damaged. A file that llama.cpp merely refuses is let through: opening it gives the exact error.
    """
    read_header(path)
    sha256 = disk.remembered_sha256(path)
    verdict = cache_dir() / "vetted" / f"{sha256}-{_native_version()}"
    if catalog.is_trusted(sha256) or verdict.exists():
        return
    if not sys.executable:
        _log.warning("%s is opened without a trial: this Python cannot start another", path)
        return
    limit_s = timeout_s or START_S + path.stat().st_size / SLOWEST_DISK
    status, said = _run([sys.executable, "-P", *child, str(path)], limit_s)
    if status == 0:
        with suppress(OSError):
            verdict.parent.mkdir(parents=True, exist_ok=True)
            verdict.touch()
    elif status == PYTHON_ERROR:  # says nothing about the file; opening it will meet the same error
        _log.warning("%s could not be tried in a child process: %s", path, said)
    elif status != REFUSED:
        ending = f"did not end within {limit_s:.0f} s" if status is None else f"died with status {status}"
        raise ModelCorrupt(
            f"{path.name} would break this process",
            why=f"llama.cpp {ending} when it tried the file in a process of its own",
            remedy="Fetch the file again, or use another model",
        )


def _run(command: Sequence[str], limit_s: float) -> tuple[int | None, str]:
    """The child's exit status (None: it had to be ended) and the last line it wrote."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=env,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, (done.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1]


def _native_version() -> str:
    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return "none"
