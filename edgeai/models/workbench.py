"""Where packages are made: one locked staging folder each, and the one step that installs a finished one."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeai.models import disk
from edgeai.models.package import Manifest, write_manifest
from edgeai.models.shelf import InstalledModel, installed_folder, models_dir, open_package
from edgeai.paths import cache_dir

__all__ = ["LOCK_TIMEOUT_S", "clear", "install", "remove", "working_on"]

LOCK_TIMEOUT_S = 900.0


@contextmanager
def working_on(
    package_id: str, *, timeout_s: float = LOCK_TIMEOUT_S, on_wait: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """An empty folder for making this package, for us alone, and gone afterwards.

    Only the beginnings of downloads that can be resumed stay in it, also from a process that was killed.
    """
    staging = cache_dir() / "staging" / package_id
    with disk.locked(package_id, timeout_s=timeout_s, on_wait=on_wait), disk.writing(cache_dir()):
        staging.mkdir(parents=True, exist_ok=True)
        clear(staging)
        try:
            yield staging
        finally:
            clear(staging)
            with suppress(OSError):  # not empty: something to resume, or another package in work
                staging.rmdir()
                staging.parent.rmdir()


def clear(staging: Path) -> None:
    """Delete all but the beginnings of downloads."""
    for path in staging.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".part" or not path.stat().st_size:
            path.unlink(missing_ok=True)


def install(package: Path, manifest: Manifest) -> InstalledModel:
    """Move the finished ``package`` folder, which has all files but the manifest, into the store."""
    write_manifest(package, manifest)
    target = models_dir() / manifest.id
    disk.install_folder(package, target)
    for part in package.parent.glob("*.part"):
        part.unlink()
    return open_package(target)


def remove(name: str) -> None:
    """Delete an installed package. Raises ModelNotFound, DiskFull or StoreLocked."""
    folder = installed_folder(name)
    with working_on(folder.name) as staging, disk.writing(folder):
        if folder.is_symlink():
            folder.unlink()
        else:
            os.replace(folder, staging / "removed")  # gone at once, even if deleting is interrupted
        for part in staging.glob("*.part"):
            part.unlink()
