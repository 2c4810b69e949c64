"""An encoder becomes an ONNX package, and is proved to be the same encoder: `convert_encoder`."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.encoder import Encoder
from edgeai.converters.fit import check_encoder_fits, large_option
from edgeai.converters.formats import NpuQuant
from edgeai.converters.gates import Gate, Gates, check
from edgeai.converters.npu_variants import add_encoder, paragraphs
from edgeai.converters.optimum_export import export_encoder, reference
from edgeai.converters.proof import Proof, Trial, insist, versions
from edgeai.converters.running import cores
from edgeai.converters.samples import MULTILINGUAL
from edgeai.converters.stages import Stage, Step, Tell, counted
from edgeai.converters.texts import text_hash
from edgeai.converters.timing import measure
from edgeai.engines import DevicePlan
from edgeai.engines.onnx.encoder import open_encoder, pooled
from edgeai.engines.onnx.encoder_text import EncoderText
from edgeai.errors import ConfigError
from edgeai.models.disk import hash_file
from edgeai.models.package import Manifest, PackageFile, read_manifest, write_manifest

__all__ = ["convert_encoder"]

_LEAST_COSINE = 0.9999
_MOST_KL, _LEAST_AGREEMENT = 0.001, 0.99
_TEXTS = 32
_MAKERS = ("edgeai", "numpy", "onnx", "onnxruntime", "optimum", "optimum-onnx", "torch", "transformers")


def convert_encoder(
    source: Encoder,
    staging: Path,
    name: str,
    *,
    npu: NpuQuant | None,
    gates: Gates,
    test: Trial,
    machine: str,
    allow_large: bool,
    tell: Tell = lambda stage: None,
) -> tuple[Path, Manifest, Proof]:
    """Write ``staging / "package"`` and prove it against transformers; GateFailed leaves it there.

    Raises MissingExtra, ModelUnsupported, ModelTooLarge, OutOfMemory, ConfigError, DiskFull.
    """
    _check_asked(source, gates, test)
    check_encoder_fits(source, staging, npu, allow_large=allow_large, max_memory=gates.max_memory)
    folder = staging / "package"
    folder.mkdir()
    step = counted(partial(_told, tell, "convert", "f32"), 2)
    shutil.move(export_encoder(source, staging / "export", step=step), folder / "model.onnx")
    names = ["model.onnx", "tokenizer.json", *(text.name for text in source.licence_texts)]
    for copied in (source.path / "tokenizer.json", *source.licence_texts):
        shutil.copyfile(copied, folder / copied.name)
    manifest = Manifest(
        id=f"{name}@onnx-f32",
        engine="onnx",
        quantization="f32",
        parameters=source.parameters,
        context=source.max_tokens,
        template_sha256=None,
        licence=source.licence,
        files=tuple(_file(folder / name) for name in names),
        provenance={
            **source.provenance,
            "kind": "converted",
            "command": _command(source, npu, name),
            "made_with": ", ".join(f"{name} {number}" for name, number in versions(_MAKERS).items()),
        },
        head=source.head,
    )
    more: list[Gate] = []
    if npu is not None:
        made = add_encoder(source, folder, staging, npu, partial(_told, tell, "convert", npu))
        manifest = replace(
            manifest,
            files=(*manifest.files, made.file),
            variants=made.variants,
            provenance={**manifest.provenance, "npu": made.bits},
        )
        more.extend(made.gates)
    write_manifest(folder, manifest)
    proof = _prove(source, folder, manifest, gates, test, machine, tell)
    proof = insist(folder, proof, more, "Take npu=a16w8 or none, or other gates")
    return folder, manifest, proof


def _told(tell: Tell, step: Step, what: str, done: int, total: int) -> None:
    tell(Stage(step=step, what=what, done=done, total=total))


def _check_asked(source: Encoder, gates: Gates, test: Trial) -> None:
    """What is measured of decoders only."""
    asked: dict[str, object] = {"task": test.task}
    if source.head.task == "embedding":
        asked |= {"max_kl": gates.max_kl, "min_agreement": gates.min_agreement}
    for name, value in asked.items():
        if value is not None:
            raise ConfigError(f"{name} is not for an encoder for {source.head.task}", remedy="Leave it out")


def _prove(
    source: Encoder, folder: Path, manifest: Manifest, gates: Gates, test: Trial, machine: str, tell: Tell
) -> Proof:
    """The package in the engine against the source in transformers, on the same texts."""
    text = EncoderText((source.path / "tokenizer.json").read_text("utf-8"))
    texts = [part for part in paragraphs(test.words, _TEXTS) if len(text.ids(part)) <= source.max_tokens]
    if not texts:
        raise ConfigError("The text has no paragraph for a proof", remedy="Give a longer text")
    rows = [text.ids(part) for part in texts]
    step = counted(partial(_told, tell, "prove", "f32"), 2 * len(rows))
    plan = DevicePlan(n_ctx=source.max_tokens, n_threads=cores())
    engine = open_encoder(folder, manifest, plan, name=manifest.id)
    try:
        ours = [_heard(engine.run([row])[0], step) for row in rows]
    finally:
        engine.close()
    theirs = reference(source, rows, step)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    found = _classifier if source.head.task == "classification" else _embedding
    tell(Stage(step="measure", what="f32"))
    speed = measure(folder, n_ctx=source.max_tokens) if test.speed else None
    bounds = Gates(max_size=gates.max_size, max_memory=gates.max_memory, min_speed=gates.min_speed)
    faults = {"tokenizer": _tokenizer_fault(text, folder), "licence": _licence_fault(source, folder)}
    equal, measured = check(Gates(), None, size, None, faults), check(bounds, None, size, speed, {})
    return Proof(
        package=manifest.id,
        reference="the source itself, in transformers",
        text_sha256=text_hash(test.words),
        size=size,
        source_size=source.n_bytes,
        divergence=None,
        task=None,
        speed=speed,
        source_speed=None,
        gates=(*equal, *found(source, theirs, ours, gates), *measured),
        machine=machine,
        versions=versions(_MAKERS),
    )


def _heard(values: NDArray[np.float32], step: Callable[[], None]) -> NDArray[np.float32]:
    step()
    return values


def _tokenizer_fault(source: EncoderText, folder: Path) -> str | None:
    ours = EncoderText((folder / "tokenizer.json").read_text("utf-8"))
    differs = next((line for line in MULTILINGUAL if source.ids(line) != ours.ids(line)), None)
    return None if differs is None else f"its tokenizer gives other ids, for example for {differs[:30]!r}"


def _licence_fault(source: Encoder, folder: Path) -> str | None:
    kept = read_manifest(folder).licence
    if kept != source.licence:
        return f"its licence is {kept or 'lost'}, the source's {source.licence}"
    lost = sorted(text.name for text in source.licence_texts if not (folder / text.name).is_file())
    return f"its licence's text is lost: {', '.join(lost)}" if lost else None


def _embedding(
    source: Encoder, raw: list[NDArray[np.float32]], ours: list[NDArray[np.float32]], gates: Gates
) -> list[Gate]:
    theirs = [pooled(s[None], np.ones((1, len(s)), np.int64), source.head)[0] for s in raw]
    found = min(float(a @ b) for a, b in zip(ours, theirs, strict=True))
    reason = (
        f"its embeddings are others: one has a cosine of {found:.6f} with the source's, not {_LEAST_COSINE}"
    )
    kept = found >= _LEAST_COSINE
    return [Gate(name="cosine", found=found, bound=_LEAST_COSINE, reason=None if kept else reason)]


def _classifier(
    source: Encoder, raw: list[NDArray[np.float32]], ours: list[NDArray[np.float32]], gates: Gates
) -> list[Gate]:
    theirs = np.array(raw, np.float64)
    p, q = _log_shares(theirs), _log_shares(np.array(ours, np.float64))
    kl = float((np.exp(p) * (p - q)).sum(axis=1).mean())
    same = float((p.argmax(axis=1) == q.argmax(axis=1)).mean())
    most = _MOST_KL if gates.max_kl is None else gates.max_kl
    least = _LEAST_AGREEMENT if gates.min_agreement is None else gates.min_agreement
    other = f"its labels are others: KL {kl:.4f} nats, at most {most}"
    fewer = f"it agrees on {same:.1%} of labels, not {least:.1%}"
    return [
        Gate(name="kl", found=kl, bound=most, reason=None if kl <= most else other),
        Gate(name="agreement", found=same, bound=least, reason=None if same >= least else fewer),
    ]


def _log_shares(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    top = logits.max(axis=1, keepdims=True)
    shares: NDArray[np.float64] = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return shares


def _command(source: Encoder, npu: NpuQuant | None, name: str) -> str:
    """What makes the package again, on every machine."""
    named = source.provenance.get("source_hub") or source.provenance["source_folder"]
    title = "" if name == source.name else f" --name {name}"
    large = large_option(source.parameters)
    return f"edgeai convert {named} --to onnx{title}{large}" + (f" --npu {npu}" if npu else "")


def _file(path: Path) -> PackageFile:
    return PackageFile(path=path.name, sha256=hash_file(path), size=path.stat().st_size)
