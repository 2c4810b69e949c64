"""Where a conversion starts: a GGUF file, a Hugging Face folder (of the hub, too), or an ONNX graph."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeai.converters.encode import Plain
from edgeai.converters.formats import Form
from edgeai.converters.licence import licence_files
from edgeai.converters.onnx_source import is_graph, open_graph
from edgeai.converters.packed_words import PackedMatrix
from edgeai.converters.safetensors_source import SafetensorsSource
from edgeai.errors import ModelNotFound, ModelUnsupported
from edgeai.models.catalog import entries
from edgeai.models.disk import remembered_sha256
from edgeai.models.gguf import read_header
from edgeai.models.hubs import fetch_repository
from edgeai.models.package import MANIFEST, read_manifest
from edgeai.models.shelf import find

__all__ = ["Origin", "find_folder", "located", "open_origin", "refuse_folder", "slug"]

_REMEDY = "Give a .gguf file, a model folder, an installed model, or a hub id"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_PLAIN: Mapping[str, Plain] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A source before it is read. ``n_bytes`` are those of its weights; ``largest`` weights of one tensor.

    ``kv_values`` is how many numbers one token adds to the cache of keys and values. ``plain`` is the
    smallest plain format that holds its weights exactly; a ``quantized`` source rounds its inputs, too.
    """

    form: Form
    path: Path
    name: str
    parameters: int
    n_bytes: int
    largest: int
    kv_values: int
    plain: Plain
    quantized: bool
    licence: str | None
    licence_texts: tuple[Path, ...]
    provenance: Mapping[str, str]


def open_origin(source: str | Path) -> Origin:
    """Look at a source: headers only, and hashes. A hub id such as ``org/name@revision`` is fetched first.

    Raises ModelNotFound, ModelCorrupt or ModelUnsupported; MissingExtra and DownloadFailed for the hub.
    """
    if (found := find_folder(source)) is not None:
        return _folder(*found)
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".onnx":
        return _folder(path.parent, {})
    if path.is_file() and path.suffix == ".gguf":
        return _gguf(path)
    if path.exists():
        raise ModelUnsupported(
            f"{path.name} cannot be converted",
            remedy=_REMEDY,
        )
    raise ModelNotFound(
        f"There is no model at {path}",
        remedy=_REMEDY,
    )


def located(source: str | Path) -> str | Path:
    """Where the weights are if ``source`` names an installed model, or a package's folder; else ``source``.

    Raises ModelNotFound with the nearest names, or ModelCorrupt for a damaged package.
    """
    path = Path(source).expanduser()
    named = not path.exists() and len(path.parts) == 1 and path.suffix not in (".gguf", ".onnx")
    if not named and not (path / MANIFEST).is_file():
        return source
    model = find(source, allow_large=True)
    return model.path if model.path.suffix == ".gguf" else model.path.parent


def find_folder(source: str | Path) -> tuple[Path, Mapping[str, str]] | None:
    """The folder that a source is, or is fetched into from the hub, and where it comes from; else None."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path, {}
    if path.exists() or not _HUB_ID.fullmatch(str(source)):
        return None
    folder, revision = fetch_repository(str(source))
    return folder, {"source_hub": str(source).partition("@")[0], "source_revision": revision}


def _gguf(path: Path) -> Origin:
    header = read_header(path)
    sha256 = remembered_sha256(path)
    known = next((entry for entry in entries() if entry.sha256 == sha256), None)
    licence = header.metadata.get("general.license")
    kinds = Counter(tensor.type for tensor in header.tensors if len(tensor.shape) > 1)
    facts = {"source_format": "gguf", "source_file": path.name, "source_sha256": sha256}
    package = read_manifest(path.parent) if (path.parent / MANIFEST).is_file() else None
    licence = licence if isinstance(licence, str) or package is None else package.licence
    return Origin(
        form="gguf",
        path=path,
        name=known.name if known else slug(header.name or path.stem),
        parameters=header.parameters,
        n_bytes=sum(tensor.size for tensor in header.tensors),
        largest=max(_count(tensor.shape) for tensor in header.tensors),
        kv_values=header.n_layer * header.n_head_kv * (header.head_dim_k + header.head_dim_v),
        plain=_PLAIN.get(next(iter(kinds)), "f32") if len(kinds) == 1 else "f32",
        quantized=any(kind not in _PLAIN for kind in kinds),
        licence=known.licence if known else licence if isinstance(licence, str) else None,
        licence_texts=() if package is None else licence_files(path.parent),
        provenance=facts,
    )


def _folder(path: Path, facts: Mapping[str, str]) -> Origin:
    refuse_folder(path)
    graph = is_graph(path)
    source = open_graph(path) if graph else SafetensorsSource(path)
    d = source.decoder
    tensors = source.tensors.values()
    kinds = {t.kind for t in tensors if isinstance(t, PackedMatrix) or t.raw.ndim > 1}
    found = source.provenance
    return Origin(
        form="onnx" if graph else "hf",
        path=path,
        name=slug(facts.get("source_hub", path.resolve().name).rpartition("/")[2]),
        parameters=source.n_parameters,
        n_bytes=sum(tensor.n_bytes for tensor in tensors),
        largest=max((tensor.size for tensor in tensors), default=0),
        kv_values=d.n_layers * d.n_kv_heads * d.head_dim * 2,
        plain=_PLAIN.get(next(iter(kinds)), "f32") if len(kinds) == 1 else "f32",
        quantized=source.quantized,
        licence=d.licence,
        licence_texts=licence_files(path),
        provenance={
            "source_format": str(found["format"]),
            "source_folder": slug(path.resolve().name),
            "source_sha256": str(found["sha256"]),
            **({"source_quantization": str(found["quantization"])} if "quantization" in found else {}),
            **facts,
        },
    )


def refuse_folder(path: Path) -> None:
    """Raise ModelUnsupported for what looks like a model folder, and is none for us."""
    weights = [*path.glob("*.safetensors"), *path.glob("*.safetensors.index.json")]
    pickles = [found.name for pattern in _PICKLES for found in sorted(path.glob(pattern))]
    if pickles and not weights:
        raise ModelUnsupported(
            f"{path.name} has its weights in pickles",
            why=f"Loading {pickles[0]} could run any code",
            remedy="Save the model with safetensors",
        )
    if not is_graph(path) and not (weights and (path / "config.json").is_file()):
        raise _no_model(path, "no *.safetensors" if not weights else "no config.json")


def _no_model(path: Path, why: str) -> ModelNotFound:
    files = sorted(found.name for found in path.glob("*.gguf"))
    return ModelNotFound(
        f"There is no model in {path.resolve()}",
        why=f"It has {why}, and no ONNX graph",
        remedy=f"Give a file of it: {files[0]}"
        if files
        else "Give a .gguf file, a folder with config.json and *.safetensors, or a hub id",
    )


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def slug(name: str) -> str:
    """A name that can be part of a package's id."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:80] or "model"
