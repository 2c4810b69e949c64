"""From a model and a wish to a package that is proved to be the same model, or to a reason why not."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Literal

from edgeai.converters import gates as gate_rules
from edgeai.converters.encoder import Encoder, open_encoder
from edgeai.converters.fit import check_fits, large_option
from edgeai.converters.formats import Form, Format, NpuQuant, format_of
from edgeai.converters.gates import Gates
from edgeai.converters.licence import licence_of
from edgeai.converters.make import MODEL, kept_halfway, make, write_plain
from edgeai.converters.onnx_package import export, open_source
from edgeai.converters.origin import Origin, located, open_origin, slug
from edgeai.converters.proof import Proof, Trial, faults, insist, prove, versions
from edgeai.converters.running import cores, folder_voice, running
from edgeai.converters.stages import Stage, Tell
from edgeai.converters.texts import text_hash
from edgeai.converters.timing import Speed, measure
from edgeai.errors import ConfigError, MissingExtra, ModelUnsupported
from edgeai.models.disk import parent_made
from edgeai.models.package import Manifest, read_manifest, write_manifest

__all__ = [
    "DEFAULTS",
    "Package",
    "add_graph",
    "convert",
    "convert_into",
    "machine",
    "measure_package",
    "prove_package",
    "staging_for",
]

DEFAULTS: dict[Form, str] = {"gguf": "q4_k_m", "onnx": "int8", "hf": "f32"}
"""What each form is made as when nothing is said."""

REFERENCE_CONTEXT = 2048
"""Tokens of context of a graph that is made for proofs only."""

_MAKERS = ("edgeai", "numpy", "gguf", "llama-cpp-python", "onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What was made: a package's folder, or a Hugging Face folder (which has no manifest), and its proof."""

    folder: Path
    manifest: Manifest | None
    proof: Proof


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: Form = "gguf",
    quant: str | None = None,
    size: int | None = None,
    name: str | None = None,
    gates: Gates = Gates(),  # noqa: B008  # frozen
    test: Trial = Trial(),  # noqa: B008  # frozen
    npu: NpuQuant | None = None,
    allow_large: bool = False,
    tell: Tell = lambda stage: None,
) -> Package:
    """The source in one format, in the folder ``out``, and proved; see `edgeai.converters.wishes.convert`.

    ``size``: bytes that a "mixed" package may have. ``npu``: an ONNX package gets a graph for NPUs, too, in
    whole numbers: of an encoder, or of a decoder for a prompt's start. Encoders become ONNX packages by
    optimum, in floats, and are compared with transformers. ``out`` must not exist, and appears only when
    the package is whole and keeps all gates. Raises GateFailed (its ``proof`` holds what was measured),
    ModelError's leaves, ConfigError, OutOfMemory, DiskFull, MissingExtra, or DownloadFailed for a hub id.
    """
    out = Path(out).expanduser()
    if out.exists():
        raise ConfigError(f"{out} exists already", remedy="Give a folder that is to be made")
    if npu is not None and to != "onnx":
        raise ConfigError("Graphs for NPUs are part of ONNX packages", remedy='Use to="onnx"')
    source = located(source)
    if (encoder := open_encoder(source)) is not None:
        return _encoder(encoder, out, to, quant, name, gates, test, npu, tell, allow_large=allow_large)
    form = replace(format_of(to, quant or DEFAULTS[to]), size=size)
    _need_engines(form, "gguf" if Path(source).suffix == ".gguf" else None)
    if size is not None and form.quant != "mixed":
        raise ConfigError(f"{form.quant} has one size only", remedy='Use quant="mixed" with a size')
    tell(Stage(step="hash", what=str(source)))
    origin = open_origin(source)
    check_fits(origin, form, out.parent, allow_large=allow_large, max_memory=gates.max_memory, npu=npu)
    with staging_for(out) as staging:
        package = convert_into(origin, staging, form, name, gates, test, tell, npu)
        os.replace(package.folder, out)
    return replace(package, folder=out)


def convert_into(
    origin: Origin, staging: Path, form: Format, name: str | None, gates: Gates, test: Trial, tell: Tell,
    npu: NpuQuant | None = None,
) -> Package:  # fmt: skip
    """Make the package in ``staging / "package"`` and prove it; GateFailed leaves it there."""
    _need_engines(form, origin.form)
    title, folder = slug(name) if name else origin.name, staging / "package"

    def heard(done: int, total: int) -> None:
        tell(Stage(step="convert", what=form.quant, done=done, total=total))

    heard(0, 0)
    with kept_halfway(origin, form) as known:  # until it is proved
        manifest = make(origin, form, folder, _provenance(origin, form, name), heard, title, known)
        more: tuple[gate_rules.Gate, ...] = ()
        if npu is not None and manifest is not None:
            manifest, more = add_graph(origin, folder, manifest, staging, npu, tell)
        proof = prove_package(origin, folder, manifest, form, staging, gates, test, tell)
        proof = insist(folder, proof, more, "Take a larger quantization, or other gates")
    return Package(folder=folder, manifest=manifest, proof=proof)


def add_graph(
    origin: Origin, folder: Path, manifest: Manifest, staging: Path, npu: NpuQuant, tell: Tell
) -> tuple[Manifest, tuple[gate_rules.Gate, ...]]:
    """Write a graph for NPUs into the ONNX package; its manifest then, and how near the graph is."""
    from edgeai.converters.npu_variants import add_prefill

    def heard(done: int, total: int) -> None:
        tell(Stage(step="convert", what=npu, done=done, total=total))

    made = add_prefill(open_source(origin.path), folder, staging, npu, heard)
    command = f"{manifest.provenance['command']} --npu {npu}"
    said = {**manifest.provenance, "command": command, "npu": made.bits}
    manifest = replace(manifest, files=(*manifest.files, made.file), variants=made.variants, provenance=said)
    write_manifest(folder, manifest)
    return manifest, made.gates


def prove_package(
    origin: Origin,
    folder: Path,
    manifest: Manifest | None,
    form: Format,
    staging: Path,
    gates: Gates,
    test: Trial,
    tell: Tell,
) -> Proof:
    """Measure a package that was made of the origin, and compare it with the gates."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with ExitStack() as stack:
        tell(Stage(step="reference", what=origin.name))
        source_path, reference = _source(origin, form, staging)
        target_path = _target(folder, form, staging)
        source = stack.enter_context(running(source_path, n_ctx=test.window))
        target = stack.enter_context(running(target_path, n_ctx=test.window))
        voice = source.voice if origin.form == "gguf" else folder_voice(origin.path, source.n_vocab)
        kept = licence_of(folder) if manifest is None else read_manifest(folder).licence
        unequal = faults(voice, target.voice, (origin.licence, kept))
        if lost := {text.name for text in origin.licence_texts} - {path.name for path in folder.iterdir()}:
            unequal["licence"] = f"its licence's text is lost: {', '.join(sorted(lost))}"
        divergence, task = prove(
            source,
            target,
            voice,
            test,
            lambda done, total: tell(Stage(step="prove", what=form.quant, done=done, total=total)),
        )
    tell(Stage(step="measure", what=form.quant))
    speed = measure(target_path, n_ctx=512) if test.speed else None
    source_speed = measure(source_path, n_ctx=512) if test.speed and origin.form != "hf" else None
    filled = gates.filled(form, origin.parameters, quantized=origin.quantized)
    return Proof(
        package=manifest.id if manifest else f"{origin.name}-{form.quant}",
        reference=reference,
        text_sha256=text_hash(test.words),
        size=size,
        source_size=origin.n_bytes,
        divergence=divergence,
        task=task,
        speed=speed,
        source_speed=source_speed,
        gates=gate_rules.check(filled, divergence, size, speed, unequal),
        machine=machine(),
        versions=versions(),
    )


def _encoder(
    source: Encoder, out: Path, to: Form, quant: str | None, name: str | None, gates: Gates, test: Trial,
    npu: NpuQuant | None, tell: Tell, *, allow_large: bool,
) -> Package:  # fmt: skip
    from edgeai.converters.encoder_package import convert_encoder

    if to != "onnx" or (quant or "f32").lower() != "f32":
        raise ConfigError(
            f"{source.name} is an encoder, which becomes an ONNX package in floats",
            remedy='Use to="onnx" without quant; npu="a16w8" or "a8w8" adds a graph in whole numbers',
        )
    title = slug(name) if name else source.name
    with staging_for(out) as staging:
        folder, manifest, proof = convert_encoder(
            source, staging, title, npu=npu, gates=gates, test=test, machine=machine(),
            allow_large=allow_large, tell=tell,
        )  # fmt: skip
        os.replace(folder, out)
    return Package(folder=out, manifest=manifest, proof=proof)


def machine() -> str:
    """This machine, in a few words."""
    return f"{platform.system()} {platform.machine()}, {cores()} cores"


def _source(origin: Origin, form: Format, staging: Path) -> tuple[Path, str]:
    """What runs as the source: itself, or its plain form for the engine that the package is not for.

    So no writer is measured against itself, unless the other engine cannot be had.
    """
    if origin.form == "gguf":
        return origin.path, "the source itself, in llama.cpp"
    if origin.form == "onnx":
        import_engine("onnx")
        return origin.path, "the source itself, in ONNX Runtime"
    plain, graph = staging / "reference.gguf", staging / "reference"
    for first in (form.form == "onnx", form.form != "onnx"):
        with suppress(MissingExtra, ModelUnsupported):
            if first:
                if not plain.exists():
                    write_plain(origin, plain, origin.plain)
                import_engine("llamacpp")
                return plain, f"the source as {origin.plain}, in llama.cpp"
            import_engine("onnx")
            if not graph.exists():
                export(origin.path, graph, quant="f32", max_context=REFERENCE_CONTEXT)
            return graph, "the source as f32, in ONNX Runtime"
    raise MissingExtra("No engine can run the source, so nothing can be proved", extra="onnx")


def measure_package(folder: Path, form: Format) -> Speed:
    """How fast a package is here, now. Raises EngineCrashed."""
    return measure(folder / MODEL if form.form == "gguf" else folder, n_ctx=512)


def _target(folder: Path, form: Format, staging: Path) -> Path:
    """What runs as the package; a Hugging Face folder as the graph that is made of it."""
    if form.form == "gguf":
        return folder / MODEL
    if form.form == "onnx":
        return folder
    import_engine("onnx")
    graph = staging / "check"
    export(folder, graph, quant="f32", max_context=REFERENCE_CONTEXT)
    return graph


def _need_engines(form: Format, source: Form | None) -> None:
    """Raise MissingExtra unless what will run package and source in the proof is installed.

    Whichever engine runs the package runs a Hugging Face folder as the source, too.
    """
    for made in (form.form, source or "hf"):
        if made == "gguf":
            import_engine("llamacpp")
        elif made == "onnx" or form.form == "hf":
            import_engine("onnx")


def import_engine(name: Literal["llamacpp", "onnx"]) -> None:
    """Raise MissingExtra unless the engine's library is installed."""
    import_module(
        {"llamacpp": "edgeai.engines.llamacpp.binding", "onnx": "edgeai.engines.onnx.session"}[name]
    )


def _provenance(origin: Origin, form: Format, name: str | None) -> dict[str, str]:
    """How the package came to be, in facts that are the same on every machine."""
    source = origin.provenance.get("source_hub") or origin.provenance.get("source_file")
    named = source or origin.provenance.get("source_folder", origin.name)
    size = "" if form.size is None else f" --size {form.size}"
    title = "" if name is None else f" --name {slug(name)}"
    large = large_option(origin.parameters)
    return {
        **origin.provenance,
        "command": f"edgeai convert {named} --to {form.form} --quant {form.quant}{size}{title}{large}",
        "made_with": ", ".join(f"{name} {number}" for name, number in versions(_MAKERS).items()),
    }


@contextmanager
def staging_for(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, gone afterwards whatever happens."""
    with parent_made(out):
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
