"""The installed models: find, list and verify them. Nothing here touches the network or changes a model."""

import logging
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edgeai.errors import ModelCorrupt, ModelError, ModelNotFound, ModelTooLarge, ModelUnsupported
from edgeai.models import catalog, disk
from edgeai.models.gguf import GgufHeader, read_header
from edgeai.models.package import MANIFEST, Manifest, PackageFile, read_manifest
from edgeai.paths import cache_dir

__all__ = [
    "MAX_PARAMETERS",
    "InstalledModel",
    "check_hash",
    "find",
    "installed",
    "installed_folder",
    "manifest_of",
    "models_dir",
    "open_package",
    "present",
    "refuse_large",
    "verify",
]

MAX_PARAMETERS = 3_000_000_000
_log = logging.getLogger("edgeai.models")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """A model that can be opened now.

    ``path`` is the weights file, ``folder`` its package (None: a file outside any package). ``trusted``: the
    weights have a hash that the catalog names.
    """

    path: Path
    folder: Path | None
    manifest: Manifest
    trusted: bool

    @property
    def id(self) -> str:
        """``name@engine-quant``."""
        return self.manifest.id


def models_dir() -> Path:
    """Where the packages are."""
    return cache_dir() / "models"


def find(name: str | Path, *, allow_large: bool = False) -> InstalledModel:
    """The installed model with this name or id, the package in this folder, or this ``.gguf`` file.

    A package may also be named by its ``.onnx`` file. Never touches the network. Sizes and times of change
    are compared with what was hashed before; a file that is new or changed is hashed again. Raises
    ModelError's leaves.
    """
    path = Path(name).expanduser()
    model = _at_path(path) if _is_path(name, path) else open_package(installed_folder(str(name)))
    refuse_large(model.id, model.manifest.parameters, allow_large=allow_large)
    return model


def installed() -> tuple[InstalledModel, ...]:
    """All packages of the store, by id. A damaged one is left out, with a warning in the log."""
    found = []
    for folder in _folders():
        try:
            found.append(_describe(folder, read_manifest(folder)))
        except ModelError as error:
            _log.warning("%s", error)
    return tuple(found)


def verify(name: str | Path) -> InstalledModel:
    """Read all of a package's files again and compare their hashes.

    Raises ModelCorrupt with both hashes, or ModelNotFound when there is no such package.
    """
    path = Path(name).expanduser()
    folder = path if _is_path(name, path) else installed_folder(str(name))
    manifest = read_manifest(folder)
    for file in manifest.files:
        check_hash(file, disk.hash_file(present(folder, file)), str(folder / file.path))
    return _describe(folder, manifest)


def installed_folder(name: str) -> Path:
    """The store's folder of this id, or of the first installed package of this family."""
    order = [entry.id for entry in catalog.entries()]
    family = [folder for folder in _folders() if name in (folder.name, folder.name.partition("@")[0])]
    if family:
        return min(
            family, key=lambda folder: order.index(folder.name) if folder.name in order else len(order)
        )
    if any(name in (entry.name, entry.id) for entry in catalog.entries()):
        raise ModelNotFound(f"{name} is not installed", remedy=f"Pull it: edgeai models pull {name}")
    raise catalog.suggest(name, (folder.name.partition("@")[0] for folder in _folders()))


def open_package(folder: Path) -> InstalledModel:
    """The package in ``folder``, its files compared with the manifest; cheap if nothing changed."""
    manifest = read_manifest(folder)
    for file in manifest.files:
        check_hash(file, disk.remembered_sha256(present(folder, file)), str(folder / file.path))
    model = _describe(folder, manifest)
    if not model.trusted and model.path.suffix == ".gguf":
        read_header(model.path)
    return model


def check_hash(file: PackageFile, actual: str, where: str) -> None:
    """Raise ModelCorrupt, naming both hashes, unless ``actual`` is the file's."""
    if actual != file.sha256:
        raise ModelCorrupt(
            f"{where} is not the file it should be",
            why=f"Its sha256 is {actual}, expected {file.sha256}",
            remedy="Remove it and fetch it again",
        )


def refuse_large(name: str, parameters: int, *, allow_large: bool) -> None:
    """Raise ModelTooLarge for a model that this SDK is not made for."""
    if parameters > MAX_PARAMETERS and not allow_large:
        raise ModelTooLarge(
            f"{name} has {parameters / 1e9:.2f} billion parameters",
            why=f"edgeai is made for devices, and for models up to {MAX_PARAMETERS / 1e9:.0f} billion",
            remedy="Take a smaller model, or pass allow_large=True",
        )


def manifest_of(
    package_id: str, header: GgufHeader, file: PackageFile, *, licence: str | None, provenance: dict[str, str]
) -> Manifest:
    """The manifest of a package with one GGUF file."""
    template = header.chat_template
    return Manifest(
        id=package_id,
        engine="llamacpp",
        quantization=package_id.rpartition("-")[2],
        parameters=header.parameters,
        context=header.context_length,
        template_sha256=sha256(template.encode()).hexdigest() if template is not None else None,
        licence=licence,
        files=(file,),
        provenance=provenance,
    )


def _is_path(name: str | Path, path: Path) -> bool:
    looks = isinstance(name, Path) or path.suffix in (".gguf", ".onnx") or len(path.parts) > 1
    return looks or (path / MANIFEST).is_file()


def _at_path(path: Path) -> InstalledModel:
    if path.is_dir():
        return open_package(path)
    if not path.is_file():
        raise ModelNotFound(f"There is no model at {path}", remedy="Give a .gguf file or a package folder")
    if path.suffix == ".onnx" and (path.parent / MANIFEST).is_file():
        return open_package(path.parent)
    if path.suffix != ".gguf":
        raise ModelUnsupported(f"{path.name} cannot be opened", remedy="Give a .gguf file")
    header = read_header(path)
    sha = disk.remembered_sha256(path)
    file = PackageFile(path=path.name, sha256=sha, size=path.stat().st_size)
    licence = header.metadata.get("general.license")
    manifest = manifest_of(
        f"{path.stem}@llamacpp-{header.quantization}",
        header,
        file,
        licence=licence if isinstance(licence, str) else None,
        provenance={"kind": "file", "file": path.name},
    )
    return InstalledModel(path=path, folder=None, manifest=manifest, trusted=catalog.is_trusted(sha))


def _describe(folder: Path, manifest: Manifest) -> InstalledModel:
    return InstalledModel(
        path=folder / manifest.weights.path,
        folder=folder,
        manifest=manifest,
        trusted=catalog.is_trusted(manifest.weights.sha256),
    )


def present(folder: Path, file: PackageFile) -> Path:
    """The file's path, if it is there and has the right size. Raises ModelCorrupt."""
    path = folder / file.path
    size = path.stat().st_size if path.is_file() else None
    if size != file.size:
        raise ModelCorrupt(
            f"{path} is {'missing' if size is None else f'{size} bytes long'}",
            why=f"It should have {file.size} bytes",
            remedy="Pull or import the model again",
        )
    return path


def _folders() -> list[Path]:
    try:
        return sorted(path for path in models_dir().iterdir() if catalog.valid_id(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
