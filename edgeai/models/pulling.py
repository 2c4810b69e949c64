"""Pulls a model of the catalog from the first of its sources that gives the right file."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeai.errors import DownloadFailed, EdgeError, MissingExtra, ModelCorrupt, ModelNotFound
from edgeai.models import catalog, disk, sources
from edgeai.models.catalog import CatalogEntry, Source
from edgeai.models.gguf import read_header
from edgeai.models.package import PackageFile
from edgeai.models.shelf import (
    InstalledModel,
    check_hash,
    manifest_of,
    models_dir,
    open_package,
    refuse_large,
)
from edgeai.models.workbench import LOCK_TIMEOUT_S, clear, install, working_on

__all__ = ["Progress", "pull"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a pull is: bytes ``done`` and in ``total`` (None: not known).

    ``wait`` is for another process; ``source`` is the kind of source in use, empty before the first.
    """

    id: str
    stage: Literal["wait", "download", "unpack", "verify", "convert"]
    done: int = 0
    total: int | None = None
    source: str = ""


def pull(
    name: str,
    *,
    progress: Callable[[Progress], None] | None = None,
    allow_large: bool = False,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> InstalledModel:
    """Install a model of the catalog, unless it is installed already; its sources are tried in order.

    ``progress`` is called from this thread. A second process that pulls the same model waits for the first,
    for ``lock_timeout_s`` seconds at most. Raises ModelNotFound, ModelTooLarge, ModelCorrupt (wrong hash),
    DownloadFailed, MissingExtra, DiskFull or StoreLocked, and none of them leaves anything half-installed.
    """
    entry = catalog.resolve(name)
    refuse_large(entry.id, entry.parameters, allow_large=allow_large)
    tell = progress or (lambda _: None)
    if ready := _ready(entry.id):
        return ready
    waiting = Progress(id=entry.id, stage="wait")
    with working_on(entry.id, timeout_s=lock_timeout_s, on_wait=lambda: tell(waiting)) as staging:
        return _ready(entry.id) or _pull(entry, staging, tell, allow_large=allow_large)


def _ready(package_id: str) -> InstalledModel | None:
    try:
        return open_package(models_dir() / package_id)
    except (ModelNotFound, ModelCorrupt):
        return None


def _pull(
    entry: CatalogEntry, staging: Path, tell: Callable[[Progress], None], *, allow_large: bool
) -> InstalledModel:
    file, source = _fetch_first(entry, staging, tell)
    package = staging / "package"
    package.mkdir()
    os.replace(file, package / entry.file)
    header = read_header(package / entry.file)
    refuse_large(entry.id, header.parameters, allow_large=allow_large)
    facts = PackageFile(path=entry.file, sha256=entry.sha256, size=entry.size)
    provenance = sources.provenance(source)
    return install(
        package, manifest_of(entry.id, header, facts, licence=entry.licence, provenance=provenance)
    )


def _fetch_first(entry: CatalogEntry, staging: Path, tell: Callable[[Progress], None]) -> tuple[Path, Source]:
    failures: list[tuple[str, EdgeError]] = []
    for source in entry.sources:
        try:
            return _fetch_verified(source, entry, staging, tell), source
        except (DownloadFailed, MissingExtra, ModelCorrupt) as error:
            failures.append((sources.kind(source), error))
            clear(staging)
    if len(failures) == 1:
        raise failures[0][1]
    raise DownloadFailed(
        f"No source gave {entry.id}",
        why="; ".join(f"{kind}: {str(error).rstrip('.')}" for kind, error in failures) or "It has no sources",
        remedy="Fetch the file by hand and import it: edgeai models import FILE",
    ) from (failures[-1][1] if failures else None)


def _fetch_verified(
    source: Source, entry: CatalogEntry, staging: Path, tell: Callable[[Progress], None]
) -> Path:
    """One source's file, if it has the right hash. A resumed download that has not is fetched once anew."""

    def report(stage: sources.Stage, done: int, total: int | None) -> None:
        tell(Progress(id=entry.id, stage=stage, done=done, total=total, source=sources.kind(source)))

    disk.check_room(staging, sources.room_needed(source, entry))
    part = sources.partial_download(source, staging)
    resumed = part is not None and part.exists()
    file = sources.fetch(source, entry, staging, report)
    actual = disk.hash_file(file, lambda done: report("verify", done, entry.size))
    if actual != entry.sha256:
        file.unlink()
        if resumed:
            return _fetch_verified(source, entry, staging, tell)
    expected = PackageFile(path=entry.file, sha256=entry.sha256, size=entry.size)
    check_hash(expected, actual, f"What {sources.kind(source)} gave for {entry.id}")
    return file
