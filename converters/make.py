"""Writes one package or folder of an origin in one format; nothing is proved here."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgeai.converters.encode import Plain
from edgeai.converters.fewer_bits import CALIBRATED, fewer_bits
from edgeai.converters.formats import Format
from edgeai.converters.graph import Progress
from edgeai.converters.halfway import Halfway, halfway
from edgeai.converters.hf_writer import write_folder
from edgeai.converters.linear import Quant
from edgeai.converters.onnx_package import MAX_CONTEXT, export, open_source
from edgeai.converters.origin import Origin
from edgeai.converters.proof import versions
from edgeai.converters.running import cores
from edgeai.converters.texts import calibration_text, text_hash
from edgeai.errors import MissingExtra, ModelUnsupported
from edgeai.models.disk import hash_file
from edgeai.models.gguf import read_header
from edgeai.models.package import Manifest, PackageFile, write_manifest
from edgeai.models.shelf import manifest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MODEL", "kept_halfway", "make", "write_plain"]

MODEL = "model.gguf"
_PLAINS = ("f32", "f16", "bf16")


def make(
    origin: Origin, form: Format, folder: Path, provenance: dict[str, str], progress: Progress, title: str,
    halfway: Halfway | None = None,
) -> Manifest | None:  # fmt: skip
    """Write the origin into ``folder``, which must not exist; its manifest, None for a Hugging Face folder.

    Layers that ``halfway`` has are not made again.

    Raises ModelError's leaves, EngineError's for what llama.cpp refuses, MissingExtra or DiskFull.
    """
    if form.form == "onnx":
        manifest = _onnx(origin, form, folder, progress, halfway)
        manifest = replace(manifest, id=f"{title}@onnx-{manifest.quantization}")
    elif form.form == "gguf":
        folder.mkdir(parents=True)
        manifest = _gguf(origin, form, folder, title, progress, halfway)
    else:
        folder.mkdir(parents=True)
        write_folder(open_source(origin.path), folder, cast("Plain", form.quant), progress)
        _carry(origin, folder)
        return None
    files = (*manifest.files, *_carry(origin, folder))
    facts = {**manifest.provenance, **provenance}
    manifest = replace(manifest, licence=origin.licence, files=files, provenance=facts)
    write_manifest(folder, manifest)
    return manifest


def write_plain(
    origin: Origin, path: Path, kind: Plain, progress: Progress = lambda done, total: None
) -> None:
    """Write a Hugging Face folder as a GGUF file in a plain format."""
    from edgeai.converters.gguf_writer import write_gguf

    write_gguf(open_source(origin.path), path, kind, progress)


def _onnx(
    origin: Origin, form: Format, folder: Path, progress: Progress, halfway: Halfway | None
) -> Manifest:
    if form.quant not in CALIBRATED:
        quant = cast("Quant", form.quant)
        return export(origin.path, folder, quant=quant, max_context=MAX_CONTEXT, progress=progress).manifest
    tuned = fewer_bits(
        open_source(origin.path), form.quant, max_context=MAX_CONTEXT, size=form.size, progress=progress,
        halfway=halfway,
    )  # fmt: skip
    manifest = export(tuned, folder, label=form.quant, max_context=MAX_CONTEXT).manifest
    text = f"text {text_hash(calibration_text())[:16]}"
    return replace(manifest, provenance={**manifest.provenance, "calibration": text})


def _gguf(
    origin: Origin, form: Format, folder: Path, title: str, progress: Progress, halfway: Halfway | None
) -> Manifest:
    target = folder / MODEL
    if form.quant in (*CALIBRATED, "exact"):
        return _gguf_blocks(origin, form, target, title, progress, halfway)
    weights, said = _importance(origin, form, progress)
    if origin.form == "gguf":
        _requantize(origin.path, target, form.quant, progress, weights)
    elif form.quant in _PLAINS:
        write_plain(origin, target, cast("Plain", form.quant), progress)
    else:
        draft = folder / "draft.gguf"
        write_plain(origin, draft, origin.plain, progress)
        _requantize(draft, target, form.quant, progress, weights)
        draft.unlink()
    return _gguf_manifest(origin, form, target, title, {"importance": said})


def _gguf_blocks(
    origin: Origin, form: Format, target: Path, title: str, progress: Progress, halfway: Halfway | None
) -> Manifest:
    """Four-bit blocks that calibration made, or that the source has already, written as they are."""
    from edgeai.converters.gguf_writer import write_gguf

    source = open_source(origin.path)
    if form.quant == "exact":
        _refuse_copies(origin)
        write_gguf(source, target, "blocks", progress)
        return _gguf_manifest(origin, form, target, title, {})
    tuned = fewer_bits(
        source, form.quant, max_context=0, size=form.size, grid="minimum", progress=progress, halfway=halfway
    )
    write_gguf(tuned, target, "blocks", progress)
    text = f"text {text_hash(calibration_text())[:16]}"
    return _gguf_manifest(origin, form, target, title, {"calibration": text})


@contextmanager
def kept_halfway(origin: Origin, form: Format) -> Iterator[Halfway | None]:
    """What is done already of a format that looks at a text layer by layer; None for others.

    It is gone after the block, unless that is interrupted. A size is no part of what it depends on: that
    decides only which of the layers are used.
    """
    if form.quant not in CALIBRATED:
        yield None
        return
    facts = {
        "source": [origin.provenance["source_sha256"], origin.form],
        "format": [form.form, form.quant],
        "text": text_hash(calibration_text()),
        "versions": versions(("edgeai", "numpy", "onnxruntime", "tokenizers")),
        "cores": cores(),
    }
    with halfway(facts) as kept:
        yield kept


def _refuse_copies(origin: Origin) -> None:
    if origin.form == "gguf" or not origin.quantized:
        raise ModelUnsupported(
            f"{origin.name} has no blocks to carry over to a GGUF file",
            why="It is one already" if origin.form == "gguf" else "Its weights are not quantized",
            remedy="Take a number format such as q8_0",
        )


def _gguf_manifest(
    origin: Origin, form: Format, target: Path, title: str, facts: Mapping[str, str]
) -> Manifest:
    file = PackageFile(path=MODEL, sha256=hash_file(target), size=target.stat().st_size)
    package_id = f"{title}@llamacpp-{form.quant}"
    said = {"kind": "converted", **facts}
    return manifest_of(package_id, read_header(target), file, licence=origin.licence, provenance=said)


def _importance(
    origin: Origin, form: Format, progress: Progress
) -> "tuple[Mapping[str, NDArray[np.float32]] | None, str]":
    """How large the inputs are, where few bits are left and it can be known; and for the record, whether."""
    if form.care not in ("five", "four"):
        return None, "not needed"
    try:
        from edgeai.converters.importance import importance

        found = importance(open_source(origin.path), progress=progress)
        return found, f"calibration text {text_hash(calibration_text())[:16]}"
    except (ModelUnsupported, MissingExtra) as error:
        return None, f"none: {error.what}"


def _requantize(
    source: Path,
    target: Path,
    kind: str,
    progress: Progress,
    importance: "Mapping[str, NDArray[np.float32]] | None" = None,
) -> None:
    from edgeai.engines.llamacpp.requantize import requantize

    requantize(source, target, kind, n_threads=cores(), importance=importance, progress=progress)
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
