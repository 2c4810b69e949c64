"""From a model of others (a GGUF file, a Hugging Face folder) to a package that the ONNX engine runs."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from edgeai.errors import ConfigError, MissingExtra, ModelCorrupt, ModelNotFound, ModelUnsupported
from edgeai.models.catalog import entries, valid_id
from edgeai.models.disk import check_room, hash_file, parent_made
from edgeai.models.package import Manifest, PackageFile, write_manifest
from edgeai.models.shelf import InstalledModel, refuse_large
from edgeai.models.workbench import install, working_on

try:
    from edgeai.converters.gguf_source import GgufSource
    from edgeai.converters.gguf_vocab import load as load_tokenizer
    from edgeai.converters.graph import CONTRACT, Progress, write_graph
    from edgeai.converters.onnx_source import is_graph, open_graph
except ModuleNotFoundError as error:
    raise MissingExtra("Converting models needs onnx and tokenizers", extra="convert") from error
from edgeai.converters.decoder import Source, TokenizerData
from edgeai.converters.linear import Plan, Quant
from edgeai.converters.quantize import Losses
from edgeai.converters.safetensors_source import SafetensorsSource

__all__ = ["Conversion", "convert", "export", "open_source"]

MAX_CONTEXT = 32768
"""Tokens that the rotary tables are made for, unless asked otherwise: at most 17 MB for heads of 128."""

MODEL, WEIGHTS, TOKENIZER, TEMPLATE = "model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja"
REPORT = "conversion.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A finished conversion: the package's manifest, and what packing did to the weights, as numbers."""

    folder: Path
    manifest: Manifest
    losses: tuple[Mapping[str, str | int | float], ...]


def convert(
    source: str | Path,
    name: str | None = None,
    *,
    quant: Quant = "auto",
    max_context: int = MAX_CONTEXT,
    allow_large: bool = False,
    progress: Progress = lambda done, total: None,
) -> Conversion:
    """Convert a `.gguf` file or a Hugging Face folder and install it in the store, whole or not at all.

    ``quant``: ``auto`` carries the source's numbers (4 bit where it has no offsets, else 8); ``exact``
    keeps 4 bit with offsets, too (a quarter smaller than 8 bit, nothing lost, but slower); ``int8``;
    ``int4`` (smaller and faster, at a loss that the report tells); ``f16`` (halves in the file, floats in
    memory); ``f32`` (for proofs). ``progress`` hears layers done and all.
    Raises ModelError's leaves, ConfigError, DiskFull or StoreLocked.
    """
    opened = open_source(source)
    title = name or _known_name(opened) or _slug(opened.decoder.name)
    draft = _draft_id(title, opened, quant, allow_large=allow_large)
    with working_on(draft) as staging:
        package = staging / "package"
        package.mkdir()
        made = _write(opened, package, title, quant, max_context, progress)
        installed: InstalledModel = install(package, made.manifest)
    return replace(made, folder=installed.path.parent)


def export(
    source: str | Path | Source,
    folder: str | Path,
    *,
    quant: Quant = "auto",
    label: str | None = None,
    max_context: int = MAX_CONTEXT,
    progress: Progress = lambda done, total: None,
) -> Conversion:
    """Convert into ``folder``, which must not exist yet and appears only when everything is in it.

    ``label`` is the quantization's name in the manifest, by default that of most weights.
    """
    folder = Path(folder)
    if folder.exists():
        raise ConfigError(f"{folder} exists already", remedy="Give a folder that is to be made")
    opened = open_source(source) if isinstance(source, str | Path) else source
    _draft_id(_slug(opened.decoder.name), opened, quant, allow_large=True)
    with parent_made(folder):
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            made = _write(opened, staging, _slug(opened.decoder.name), quant, max_context, progress, label)
            write_manifest(staging, made.manifest)
            staging.chmod(0o755)
            os.replace(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return replace(made, folder=folder)


def open_source(path: str | Path) -> Source:
    """Open what is at the path; raises ModelNotFound, ModelCorrupt or ModelUnsupported."""
    path = Path(path).expanduser()
    if path.is_dir():
        return open_graph(path) if is_graph(path) else SafetensorsSource(path)
    if not path.exists():
        raise ModelNotFound(f"There is no model at {path}", remedy="Give a .gguf file or a model folder")
    if path.suffix != ".gguf":
        raise ModelUnsupported(
            f"{path.name} cannot be converted", remedy="Give a .gguf file or a model folder"
        )
    return GgufSource(path)


def _draft_id(title: str, source: Source, quant: Quant, *, allow_large: bool) -> str:
    if quant not in get_args(Quant):
        raise ConfigError(f"quant={quant!r} is unknown", remedy=f"Give one of {', '.join(get_args(Quant))}")
    draft = f"{title}@onnx-{quant}"
    if not valid_id(draft):
        raise ConfigError(
            f"{title!r} cannot be the name of a model", remedy="Use small letters, digits, dots and hyphens"
        )
    refuse_large(title, source.n_parameters, allow_large=allow_large)
    return draft


def _write(
    source: Source,
    folder: Path,
    title: str,
    quant: Quant,
    max_context: int,
    progress: Progress,
    label: str | None = None,
) -> Conversion:
    """Write all files but the manifest into an empty folder."""
    if max_context < 1:
        raise ConfigError("max_context must be positive", why=f"It is {max_context}")
    context = min(source.decoder.max_positions, max_context)
    tokenizer = source.tokenizer()
    _check(tokenizer, source.decoder.n_vocab)
    check_room(folder, source.n_parameters * {"f32": 4, "f16": 2}.get(quant, 1) * 9 // 8)
    losses = write_graph(source, folder, Plan(quant=quant), context, progress)
    _write_tokenizer(folder, tokenizer)
    rows = losses.report()
    _write_json(folder / REPORT, {"source": dict(source.provenance), "quant": quant, "weights": rows})
    label = label or _label(losses, quant)
    return Conversion(
        folder=folder, manifest=_manifest(source, folder, title, label, context), losses=tuple(rows)
    )


def _check(tokenizer: TokenizerData, n_vocab: int) -> None:
    """Raise ModelCorrupt unless the tokenizer loads and fits the embedding."""
    loaded = load_tokenizer(tokenizer.json)
    highest = max(loaded.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= n_vocab:
        raise ModelCorrupt(
            "The tokenizer does not match the model",
            why=f"It has token {highest}, the model has {n_vocab} tokens",
        )


def _write_tokenizer(folder: Path, tokenizer: TokenizerData) -> None:
    """Files under the names that other readers of such folders know, too."""
    (folder / TOKENIZER).write_text(tokenizer.json, "utf-8", newline="\n")
    if tokenizer.chat_template is not None:
        (folder / TEMPLATE).write_text(tokenizer.chat_template, "utf-8", newline="")
    _write_json(folder / "tokenizer_config.json", {**tokenizer.tokens, "add_bos_token": tokenizer.add_bos})
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": list(tokenizer.eos_ids)}
    _write_json(folder / "generation_config.json", ends)


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8", newline="\n")


def _label(losses: Losses, quant: Quant) -> str:
    """The quantization's name: the format of most weights in the layers."""
    if quant in ("f32", "f16", "exact"):
        return quant
    totals: dict[str, int] = {}
    for (role, _, target), loss in losses.entries.items():
        if role not in ("embed", "head"):
            totals[target] = totals.get(target, 0) + loss.n_weights
    return (
        quant
        if quant in ("f32", "f16", "exact")
        else max(totals, key=lambda target: totals[target]).partition("+")[0]
    )


def _manifest(source: Source, folder: Path, title: str, label: str, context: int) -> Manifest:
    rest = sorted(path.name for path in folder.iterdir() if path.name != MODEL)
    template = folder / TEMPLATE
    digest = hashlib.sha256(template.read_bytes()).hexdigest() if template.exists() else None
    return Manifest(
        id=f"{title}@onnx-{label}",
        engine="onnx",
        quantization=label,
        parameters=source.n_parameters,
        context=context,
        template_sha256=digest,
        licence=source.decoder.licence,
        files=tuple(_files(folder, [MODEL, *rest])),
        provenance={"kind": "converted", "graph": str(CONTRACT), **_facts(source.provenance)},
    )


def _files(folder: Path, names: Iterable[str]) -> Iterable[PackageFile]:
    for name in names:
        path = folder / name
        yield PackageFile(path=name, sha256=hash_file(path), size=path.stat().st_size)


def _facts(provenance: Mapping[str, object]) -> dict[str, str]:
    return {
        f"source_{key}": str(value) for key, value in provenance.items() if not isinstance(value, Mapping)
    }


def _known_name(source: Source) -> str | None:
    """The catalog's name for this very file."""
    sha256 = source.provenance["sha256"]
    return next((entry.name for entry in entries() if entry.sha256 == sha256), None)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:80] or "model"
