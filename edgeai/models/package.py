"""What one installed model is: a folder with ``edgeai.json`` and the files it names."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from edgeai.errors import ModelCorrupt, ModelNotFound, ModelUnsupported
from edgeai.models.catalog import valid_id

__all__ = [
    "MANIFEST",
    "SAMPLES",
    "Head",
    "Manifest",
    "PackageFile",
    "Variant",
    "Variants",
    "read_manifest",
    "write_manifest",
]

T = TypeVar("T")
MANIFEST = "edgeai.json"
SAMPLES = "edgeai.samples"
"""The key of a graph's metadata under which are inputs to try it with: JSON, a list of names with values."""

FORMAT = 1
ENGINES = ("llamacpp", "onnx")
TASKS = ("embedding", "classification")
POOLINGS = ("mean", "cls")
MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageFile:
    """A file of a package: ``path`` relative to the folder, with forward slashes; ``size`` in bytes.

    ``sha256`` is None only for a model file outside any package, which nobody has vouched for.
    """

    path: str
    sha256: str | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A graph of the package for one kind of work on one kind of device: its file, its length in tokens."""

    graph: str
    tokens: int


Variants = Mapping[str, Mapping[str, Variant]]
"""By kind of device ("gpu", "npu") or execution provider ("qnn"), then by kind of work ("embed")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What an encoder's graph ends in, and what is made of it.

    "embedding": ``pooling`` of the states ("mean" of all tokens or the first one's, "cls"), then, if
    ``normalized``, a unit vector. "classification": a number for each of ``labels``.
    """

    task: str
    pooling: str = "mean"
    normalized: bool = True
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The facts of one package: ``name@engine-quant``, reproducible on every machine.

    ``files[0]`` is the one an engine opens. ``context`` is in tokens. ``template_sha256`` is the hash of the
    chat template's source (None: the model has none). ``provenance`` says where the weights came from.
    ``variants`` are graphs for other devices, see docs/devices.md. ``head``: an encoder's, None for a
    decoder.
    """

    id: str
    engine: str
    quantization: str
    parameters: int
    context: int
    template_sha256: str | None
    licence: str | None
    files: tuple[PackageFile, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)
    variants: Variants = field(default_factory=dict)
    head: Head | None = None

    @property
    def name(self) -> str:
        """The family's name."""
        return self.id.partition("@")[0]

    @property
    def weights(self) -> PackageFile:
        """The file an engine opens."""
        return self.files[0]

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(file.size for file in self.files)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``edgeai.json`` into ``folder``; the same facts give the same bytes."""
    table = {"format": FORMAT, **asdict(manifest)}
    if not manifest.variants:
        del table["variants"]
    if manifest.head is None:
        del table["head"]
    text = json.dumps(table, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8", newline="\n")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the package in ``folder``, checked.

    Raises ModelNotFound (no package there), ModelCorrupt (what is wrong with it) or ModelUnsupported (made by
    a later edgeai, or for an engine that this one does not have).
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise _corrupt(path, f"it is larger than {MAX_MANIFEST_BYTES} bytes")
        table = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFound(f"{folder} is not a model package", why=f"It has no {MANIFEST}") from error
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, str(error)) from error
    except OSError as error:
        raise _corrupt(path, error.strerror or "it cannot be read") from error
    return _manifest(path, table)


def _manifest(path: Path, table: object) -> Manifest:
    if not isinstance(table, dict) or not isinstance(table.get("format"), int):
        raise _corrupt(path, "it names no format")
    if table["format"] != FORMAT:
        raise ModelUnsupported(
            f"{path} has format {table['format']}", why=f"This version reads {FORMAT}", remedy="Update edgeai"
        )
    rows = _get(path, table, "files", list)
    if not rows:
        raise _corrupt(path, "it names no files")
    manifest = Manifest(
        id=_get(path, table, "id", str),
        engine=_get(path, table, "engine", str),
        quantization=_get(path, table, "quantization", str),
        parameters=_get(path, table, "parameters", int),
        context=_get(path, table, "context", int),
        template_sha256=_get_or_none(path, table, "template_sha256"),
        licence=_get_or_none(path, table, "licence"),
        files=tuple(_file(path, row) for row in rows),
        provenance={str(k): str(v) for k, v in _get(path, table, "provenance", dict).items()},
        variants=_variants(path, table),
        head=_head(path, _get(path, table, "head", dict)) if "head" in table else None,
    )
    parts = valid_id(manifest.id)
    if not parts or (parts["engine"], parts["quantization"]) != (manifest.engine, manifest.quantization):
        raise _corrupt(path, f"the id {manifest.id!r} does not fit engine and quantization")
    if manifest.engine not in ENGINES:
        raise ModelUnsupported(
            f"{path} is for the engine {manifest.engine!r}",
            why=f"This version has {' and '.join(ENGINES)}",
            remedy="Update edgeai, or use another package of the model",
        )
    if min(manifest.parameters, manifest.context) <= 0:
        raise _corrupt(path, "parameters and context must be positive")
    return manifest


def _file(path: Path, row: object) -> PackageFile:
    if not isinstance(row, dict):
        raise _corrupt(path, "files must be tables")
    file = PackageFile(
        path=_get(path, row, "path", str),
        sha256=_get(path, row, "sha256", str),
        size=_get(path, row, "size", int),
    )
    inside = PurePosixPath(file.path)
    if (
        inside.is_absolute()
        or ".." in inside.parts
        or "\\" in file.path
        or ":" in file.path
        or not inside.name
    ):
        raise _corrupt(path, f"the file {file.path!r} is not inside the package")
    if not re.fullmatch("[0-9a-f]{64}", file.sha256 or "") or file.size < 0:
        raise _corrupt(path, f"sha256 or size of {file.path!r} is not sound")
    return file


def _variants(path: Path, table: Mapping[str, Any]) -> Variants:
    rows = _get(path, table, "variants", dict) if "variants" in table else {}
    listed = {file.get("path") for file in table["files"]}
    found = {}
    for device in rows:
        works = _get(path, rows, device, dict)
        found[device] = {work: _variant(path, f"{device}.{work}", works[work], listed) for work in works}
    return found


def _variant(path: Path, name: str, row: object, listed: set[str]) -> Variant:
    if not isinstance(row, dict) or set(row) != {"graph", "tokens"}:
        raise _corrupt(path, f"the variant {name} must have graph and tokens, and nothing else")
    found = Variant(graph=_get(path, row, "graph", str), tokens=_get(path, row, "tokens", int))
    if found.graph not in listed or found.tokens <= 0:
        raise _corrupt(path, f"the variant {name} has no length, or is a file that the package does not list")
    return found


def _head(path: Path, table: Mapping[str, Any]) -> Head:
    head = Head(
        task=_get(path, table, "task", str),
        pooling=_get(path, table, "pooling", str),
        normalized=table.get("normalized") is True,
        labels=tuple(map(str, _get(path, table, "labels", list))),
    )
    if head.task not in TASKS or head.pooling not in POOLINGS:
        raise ModelUnsupported(
            f"{path} is for the task {head.task!r} with {head.pooling!r} pooling", remedy="Update edgeai"
        )
    if (head.task == "classification") is not (len(set(head.labels)) == len(head.labels) >= 2):
        raise _corrupt(path, "a classifier has two labels or more, all different, and nothing else has any")
    return head


def _get(path: Path, table: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = table.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _corrupt(path, f"{key} is missing or not of type {kind.__name__}")
    return value


def _get_or_none(path: Path, table: Mapping[str, Any], key: str) -> str | None:
    return None if table.get(key) is None else _get(path, table, key, str)


def _corrupt(path: Path, why: str) -> ModelCorrupt:
    return ModelCorrupt(f"{path} is not a sound manifest", why=why, remedy="Pull or import the model again")
