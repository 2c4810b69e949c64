"""Packages that may run inside the app: of the catalog, or made from one of it on this machine.

A file that nobody vouches for can break the native library that reads it: its engine gets its own process.
"""

from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from edgeai.models.package import Manifest
from edgeai.models.shelf import InstalledModel
from edgeai.paths import cache_dir

__all__ = ["is_vouched", "vouch"]


def is_vouched(model: InstalledModel) -> bool:
    """Whether the catalog names the weights, or `vouch` was called for exactly these files."""
    return model.trusted or _note(model.manifest).exists()


def vouch(model: InstalledModel) -> None:
    """Remember that all files of the package come from a source that is trusted."""
    note = _note(model.manifest)
    with suppress(OSError):  # then it runs in a process of its own, and is safe too
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _note(manifest: Manifest) -> Path:
    files = sorted(f"{file.path} {file.sha256}" for file in manifest.files)
    return cache_dir() / "vouched" / sha256("\n".join(files).encode()).hexdigest()
