"""Weights as they are packed for this processor, in a file that all sessions of a model map.

ONNX Runtime packs weights into memory of each session's own, and a session has a fixed number of threads.
From such a file a second session takes next to none (8-bit weights of 154 MB: 2 MB instead of 163).
"""

import json
import logging
import os
import platform
import shutil
import sys
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from edgeai.engines import DevicePlan
from edgeai.engines.onnx.session import VERSION, Session
from edgeai.errors import EdgeError
from edgeai.paths import cache_dir

__all__ = ["find_packed", "open_session", "pack"]

_GRAPH: Final = "model.onnx"
_NOTE: Final = "packed.json"
_ROOM: Final = 4  # times the size of the model's files: what is written has about two
_log = logging.getLogger("edgeai.engines")


def find_packed(path: Path) -> Path | None:
    """The graph over the packed weights of the graph at ``path``, if they were kept and are whole."""
    folder = _folder(path)
    with suppress(OSError, ValueError, TypeError, KeyError):
        note = json.loads((folder / _NOTE).read_text("utf-8"))
        if note["for"] == _circumstances(path) and note["files"] == _sizes(folder):
            return folder / _GRAPH
    return None


def pack(path: Path, plan: DevicePlan) -> Path:
    """Make the files, which takes about as long as loading; the graph over them.

    Raises OSError and what loading raises.
    """
    folder = _folder(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _drop_orphans(folder.parent)
    if shutil.disk_usage(folder.parent).free < _ROOM * sum(_sizes(path.parent).values()):
        raise OSError("The disk has no room for packed weights")
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=folder.parent))
    try:
        Session(path, plan, keep_packed=draft / _GRAPH)
        note = {"model": str(path), "for": _circumstances(path), "files": _sizes(draft)}
        (draft / _NOTE).write_text(json.dumps(note), "utf-8")
        if find_packed(path) is None:  # another process may have been faster
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / _GRAPH


def open_session(path: Path, plan: DevicePlan) -> Session:
    """The model over packed weights, where there are some. Raises what `Session` raises."""
    packed = find_packed(path) if plan.prepack and plan.spare_session else None
    if packed is not None:
        try:
            return Session(packed, plan)
        except EdgeError as error:
            _log.warning("Packed weights do not load and are deleted: %s", error)
            shutil.rmtree(packed.parent, ignore_errors=True)
    return Session(path, plan)


def _folder(path: Path) -> Path:
    return cache_dir() / "packed" / sha256(str(path.resolve()).encode()).hexdigest()[:32]


def _circumstances(path: Path) -> list[str]:
    """How weights are packed depends on the processor and the library's version."""
    files = [(file.name, file.stat()) for file in sorted(path.parent.iterdir()) if file.is_file()]
    listed = [f"{name} {found.st_size} {found.st_mtime_ns}" for name, found in files]
    return [
        VERSION,
        sha256(_processor().encode()).hexdigest(),
        sha256("\n".join(listed).encode()).hexdigest(),
    ]


def _processor() -> str:
    if sys.platform != "linux":
        return f"{platform.machine()} {platform.processor()}"
    described = Path("/proc/cpuinfo").read_text("utf-8", "replace").partition("\n\n")[0].splitlines()
    telling = ("model", "flags", "features", "cpu ", "vendor")
    changing = ("cpu mhz", "cpu cores")
    return "\n".join(
        line
        for line in described
        if line.lower().startswith(telling) and not line.lower().startswith(changing)
    )


def _sizes(folder: Path) -> dict[str, int]:
    return {file.name: os.stat(file).st_size for file in folder.iterdir() if file.name != _NOTE}


def _drop_orphans(parent: Path) -> None:
    """Those of models that are gone."""
    for note in parent.glob(f"*/{_NOTE}"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            if not Path(json.loads(note.read_text("utf-8"))["model"]).exists():
                shutil.rmtree(note.parent, ignore_errors=True)
