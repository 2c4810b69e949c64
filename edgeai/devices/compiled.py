"""Models that a provider has compiled for this device: kept in the cache folder, and used only while intact.

The folder's name is the hash of all that the blob depends on: the graph, the provider with its options, the
packages' versions, the hardware and its drivers. A blob was loaded, run and compared before it is kept. What
was not used for longest goes when there are too many: after an update nothing asks for the old ones again.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeai.models.disk import hash_file, remembered_sha256
from edgeai.paths import cache_dir

__all__ = ["CONTEXT", "ROOM", "discard", "folder_of", "is_intact", "listed", "make_room"]

ROOM: Final = 4 << 30
"""Bytes that all blobs together may take; the newest may take more."""

CONTEXT: Final = "compiled.onnx"
"""The graph that stands for the compiled one (an EPContext node)."""


def folder_of(digest: str) -> Path:
    """Where the blobs for these circumstances are; it may not exist yet."""
    return cache_dir() / "compiled" / digest


def listed(digest: str) -> dict[str, str]:
    """The SHA-256 of each file there, by its path in the folder."""
    folder = folder_of(digest)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def is_intact(digest: str, files: Mapping[str, str]) -> bool:
    """Whether all of these files are there, and no others, as they were when they were tried."""
    folder = folder_of(digest)
    with suppress(OSError):
        os.utime(folder)  # it is of use
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return there == set(files) and all(remembered_sha256(folder / name) == files[name] for name in files)


def make_room(newest: str, room: int = ROOM) -> None:
    """Delete the blobs that were not used for longest, but not the newest, until all fit."""
    folders = [path for path in folder_of(newest).parent.glob("*") if path.is_dir()]
    spare = room
    for folder in sorted(folders, key=lambda path: (path.name == newest, _used(path)), reverse=True):
        spare -= sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if spare < 0 and folder.name != newest:
            shutil.rmtree(folder, ignore_errors=True)


def _used(folder: Path) -> float:
    return folder.stat().st_mtime


def discard(digest: str) -> None:
    """Delete them."""
    shutil.rmtree(folder_of(digest), ignore_errors=True)
