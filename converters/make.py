"""Writes one package or folder of an origin in one format; nothing is proved here."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

from edgeai.converters.convert import MAX_CONTEXT, export, open_source
from edgeai.converters.encode import Plain
from edgeai.converters.formats import Format
from edgeai.converters.graph import Progress
from edgeai.converters.hf_writer import write_folder
from edgeai.converters.linear import Quant
from edgeai.converters.origin import Origin
from edgeai.converters.running import cores
from edgeai.errors import ModelUnsupported
from edgeai.models.disk import hash_file
from edgeai.models.gguf import read_header
from edgeai.models.package import Manifest, PackageFile, write_manifest
from edgeai.models.shelf import manifest_of

__all__ = ["MODEL", "make"]

MODEL = "model.gguf"
_PLAINS = ("f32", "f16", "bf16")


def make(
    origin: Origin, form: Format, folder: Path, provenance: dict[str, str], progress: Progress, title: str
) -> Manifest | None:
    """Write the origin into ``folder``, which must not exist; its manifest, None for a Hugging Face folder.

    Raises ModelError's leaves, EngineError's for what llama.cpp refuses, MissingExtra or DiskFull.
    """
    if form.form == "onnx":
        manifest = export(
            origin.path, folder, quant=cast("Quant", form.quant), max_context=MAX_CONTEXT, progress=progress
        ).manifest
        manifest = replace(manifest, id=f"{title}@onnx-{manifest.quantization}")
    elif form.form == "gguf":
        folder.mkdir(parents=True)
        manifest = _gguf(origin, form, folder, provenance, title)
    else:
        folder.mkdir(parents=True)
        write_folder(open_source(origin.path), folder, cast("Plain", form.quant))
        _carry(origin, folder)
        return None
    files = (*manifest.files, *_carry(origin, folder))
    facts = {**manifest.provenance, **provenance}
    manifest = replace(manifest, licence=origin.licence, files=files, provenance=facts)
    write_manifest(folder, manifest)
    return manifest


def write_plain(origin: Origin, path: Path, kind: Plain) -> None:
    """Write a Hugging Face folder as a GGUF file in a plain format."""
    from edgeai.converters.gguf_writer import write_gguf

    write_gguf(open_source(origin.path), path, kind)


def _gguf(origin: Origin, form: Format, folder: Path, provenance: dict[str, str], title: str) -> Manifest:
    target = folder / MODEL
    if origin.form == "gguf":
        _requantize(origin.path, target, form.quant)
    elif form.quant in _PLAINS:
        write_plain(origin, target, cast("Plain", form.quant))
    else:
        draft = folder / "draft.gguf"
        write_plain(origin, draft, origin.plain)
        _requantize(draft, target, form.quant)
        draft.unlink()
    file = PackageFile(path=MODEL, sha256=hash_file(target), size=target.stat().st_size)
    package_id = f"{title}@llamacpp-{form.quant}"
    return manifest_of(
        package_id, read_header(target), file, licence=origin.licence, provenance={"kind": "converted"}
    )


def _requantize(source: Path, target: Path, kind: str) -> None:
    from edgeai.engines.llamacpp.requantize import requantize

    requantize(source, target, kind, n_threads=cores())
    if not target.is_file():
        raise ModelUnsupported(f"llama.cpp wrote no {kind} file of {source.name}")


def _carry(origin: Origin, folder: Path) -> tuple[PackageFile, ...]:
    """Copy the texts of the source's licence; what they are as files of the package."""
    carried = []
    for text in origin.licence_texts:
        copy = folder / text.name
        shutil.copyfile(text, copy)
        carried.append(PackageFile(path=copy.name, sha256=hash_file(copy), size=copy.stat().st_size))
    return tuple(carried)
