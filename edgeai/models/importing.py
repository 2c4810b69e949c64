"""Takes a model that is on this machine already, a ``.gguf`` file or a package folder, into the store."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

from edgeai.errors import ConfigError, ModelCorrupt, ModelNotFound, ModelUnsupported
from edgeai.models import catalog, disk
from edgeai.models.gguf import read_header
from edgeai.models.package import Manifest, PackageFile, read_manifest
from edgeai.models.shelf import InstalledModel, check_hash, manifest_of, present, refuse_large
from edgeai.models.workbench import install, working_on

__all__ = ["import_"]

PROOF = "proof.json"


def import_(path: str | Path, name: str | None = None, *, allow_large: bool = False) -> InstalledModel:
    """Copy a ``.gguf`` file or a package folder into the store, under ``name`` or else its own.

    A file that the catalog knows by its hash gets the catalog's id. Raises ModelError's leaves, ConfigError
    (a name that is none), DiskFull or StoreLocked.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ModelNotFound(f"There is no model at {path}", remedy="Give a .gguf file or a package folder")
    if path.is_file() and path.suffix != ".gguf":
        raise ModelUnsupported(
            f"{path.name} cannot be imported",
            remedy="Give a .gguf file, a package folder or a bundle (.edgeai)",
        )
    manifest, folder = (
        (read_manifest(path), path) if path.is_dir() else (_manifest_of_file(path), path.parent)
    )
    refuse_large(manifest.id, manifest.parameters, allow_large=allow_large)
    return _copy_in(folder, _named(manifest, name))


def _manifest_of_file(path: Path) -> Manifest:
    if path.suffix != ".gguf":
        raise ModelUnsupported(f"{path.name} cannot be imported", remedy="Give a .gguf file")
    header = read_header(path)
    sha256 = disk.hash_file(path)
    known = next((entry for entry in catalog.entries() if entry.sha256 == sha256), None)
    licence = header.metadata.get("general.license")
    stem = re.sub(rf"[.-]{header.quantization}$", "", path.stem.lower())
    slug = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._") or "model"
    return manifest_of(
        known.id if known else f"{slug}@llamacpp-{header.quantization}",
        header,
        PackageFile(path=path.name, sha256=sha256, size=path.stat().st_size),
        licence=known.licence if known else licence if isinstance(licence, str) else None,
        provenance={"kind": "file", "file": path.name},
    )


def _named(manifest: Manifest, name: str | None) -> Manifest:
    package_id = f"{name or manifest.name}@{manifest.engine}-{manifest.quantization}"
    if not catalog.valid_id(package_id):
        raise ConfigError(
            f"{name!r} cannot be the name of a model", remedy="Use small letters, digits, dots and hyphens"
        )
    return replace(manifest, id=package_id)


def _copy_in(folder: Path, manifest: Manifest) -> InstalledModel:
    """Copy first and hash the copy, so that a bad cable or a changing file cannot slip in."""
    with working_on(manifest.id) as staging:
        disk.check_room(staging, manifest.size)
        package = staging / "package"
        for file in manifest.files:
            target = package / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(present(folder, file), target)
            check_hash(file, disk.hash_file(target), str(folder / file.path))
        if (folder / PROOF).is_file():  # says what was measured where it was made; nothing relies on it
            _copy(folder / PROOF, package / PROOF)
        return install(package, manifest)


def _copy(source: Path, target: Path) -> None:
    try:
        incoming = source.open("rb")
    except OSError as error:
        raise ModelCorrupt(f"{source} cannot be read", why=error.strerror) from error
    with incoming, target.open("wb") as out:
        shutil.copyfileobj(incoming, out, disk.CHUNK)
