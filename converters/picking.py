"""The best package for a device: every format is made and proved, and the frontier decides."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal

from edgeai.converters.device import keeps
from edgeai.converters.fit import check_fits, estimate
from edgeai.converters.formats import Form, Format, NpuQuant, formats, whole_bytes
from edgeai.converters.gates import Gates, check
from edgeai.converters.npu_variants import TOKENS
from edgeai.converters.onnx_package import open_source
from edgeai.converters.origin import Origin, located, open_origin
from edgeai.converters.points import Point, beats
from edgeai.converters.prefill_chunk import check_chunk
from edgeai.converters.proof import PROOF, Proof, Trial, insist, read_proof, versions, write_proof
from edgeai.converters.stages import Stage, Tell
from edgeai.converters.texts import text_hash
from edgeai.converters.toolchain import add_graph, convert_into, machine, measure_package, staging_for
from edgeai.errors import (
    ConfigError,
    EngineError,
    GateFailed,
    MissingExtra,
    ModelTooLarge,
    ModelUnsupported,
    OutOfMemory,
)
from edgeai.models.disk import writing
from edgeai.models.package import MANIFEST, read_manifest
from edgeai.paths import cache_dir

__all__ = ["AS_GOOD", "Found", "Row", "Skipped", "best", "frontier", "search"]

AS_GOOD = 0.005
"""Nats a token: the engines' own rounding, of 8-bit weights that are nearly exact, costs as much."""

_TWINS = {("onnx", "f32"), ("onnx", "f16"), ("gguf", "f32"), ("gguf", "bf16")}
"""Formats that a search leaves out: larger than others of the same care (f16 in memory), and no better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One package of a search, and where it is kept, or its proof alone."""

    form: Format
    folder: Path
    proof: Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A format of which no package was made, and why."""

    form: Format
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """All packages that were made, those that were not, and the one that was chosen."""

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    chosen: Proof


def search(
    source: str | Path,
    out: str | Path,
    *,
    to: Form | Literal["auto"] = "auto",
    goal: Literal["quality", "speed"] = "quality",
    pace: float | None = None,
    name: str | None = None,
    gates: Gates = Gates(),  # noqa: B008  # frozen
    test: Trial = Trial(),  # noqa: B008  # frozen
    npu: NpuQuant | None = None,
    allow_large: bool = False,
    tell: Tell = lambda stage: None,
) -> Found:
    """Make every format that fits, prove each, and put the best into ``out``.

    ``quality`` is the lowest KL among those that keep all gates, and the smallest of those as good; ``speed``
    the fastest decoding. Those that decode ``pace`` tokens a second come before others. What cannot keep the
    gates by its estimated size is not made. What an interrupted search has made is kept in the cache and used
    again; of one that ends the proofs are, so that another goal takes the time of one package. Speeds that
    other programs disturbed are measured again where they decide. ``npu``: the best gets a graph for NPUs if
    it is an ONNX package, with which it must keep the gates, too. Raises GateFailed (``proof`` is a tuple of
    all) when none keeps the gates, and what `toolchain.convert` raises.
    """
    out = Path(out).expanduser()
    if out.exists():
        raise ConfigError(f"{out} exists already", remedy="Give a folder that is to be made")
    tell(Stage(step="hash", what=str(source)))
    origin = open_origin(located(source))
    if npu is not None and to != "gguf":
        check_chunk(open_source(origin.path), TOKENS)
    one = _Maker(origin, _shelf(origin, test, name), name, gates, test, goal, npu, allow_large)
    candidates = _candidates(origin, to, one.bounds)
    rows, skipped = _made(one, candidates, tell)
    chosen = best(rows, goal, pace)
    if chosen is None:
        missed = [f"{r.proof.package}: {', '.join(r.proof.reasons)}" for r in rows]
        reasons = "; ".join([*missed, *(f"{s.form.form} {s.form.quant}: {s.why}" for s in skipped)])
        raise GateFailed(
            "No format keeps the gates", why=reasons or None, remedy="Take other gates, or a smaller model",
            proof=tuple(r.proof for r in rows),
        )  # fmt: skip
    with staging_for(out) as staging:
        if not (chosen.folder / MANIFEST).is_file():
            _make(one, chosen.form, tell)
        folder = staging / "package"
        shutil.copytree(chosen.folder, folder)
        write_proof(folder, chosen.proof)
        proof = chosen.proof if npu is None else _with_graph(one, chosen, folder, npu, tell)
        os.replace(folder, out)
    for row in rows:
        _keep_proof(row.folder)
    return Found(rows=tuple(rows), skipped=tuple(skipped), chosen=proof)


def _with_graph(one: "_Maker", chosen: Row, folder: Path, npu: NpuQuant, tell: Tell) -> Proof:
    """Add the graph to the package that was chosen; its proof then. Raises GateFailed."""
    if chosen.form.form != "onnx":
        return chosen.proof
    _, more = add_graph(one.origin, folder, read_manifest(folder), folder.parent, npu, tell)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != PROOF)
    proof = _judged(replace(chosen.proof, size=size), chosen.form, one.origin, one.gates)
    return insist(folder, proof, more, "Take npu=none, or other gates")


def best(rows: Sequence[Row], goal: Literal["quality", "speed"], pace: float | None = None) -> Row | None:
    """The one to choose of those that keep their gates, and the ``pace`` if any does; None if none does."""
    passed = [row for row in rows if row.proof.passed and row.proof.divergence is not None]
    passed = [row for row in passed if pace is not None and keeps(row.proof, pace)] or passed
    if goal == "speed":
        return max(passed, key=lambda row: row.proof.speed.pace if row.proof.speed else 0.0, default=None)
    least = min(map(_kl, passed), default=0.0)
    return min((row for row in passed if _kl(row) <= least + AS_GOOD), key=_size, default=None)


def frontier(rows: Sequence[Row], *, speed: bool = True) -> tuple[Row, ...]:
    """Those that no other beats in size, in KL and, with ``speed``, in decoding; the smallest first.

    Speeds that others disturbed are not compared, and count as equal where they are about so.
    """
    kept = [row for row in rows if not any(_beats(other, row, speed=speed) for other in rows)]
    return tuple(sorted(kept, key=lambda row: (_size(row), _kl(row))))


def _beats(one: Row, other: Row, *, speed: bool) -> bool:
    return beats(_point(one, speed=speed), _point(other, speed=speed))


def _point(row: Row, *, speed: bool) -> Point:
    found = row.proof.speed
    counts = speed and found is not None and not found.disturbed
    return Point(size=_size(row), kl=_kl(row), pace=found.pace if counts and found is not None else None)


def _size(row: Row) -> int:
    return row.proof.size


def _kl(row: Row) -> float:
    return float("inf") if row.proof.divergence is None else row.proof.divergence.kl_mean


def _candidates(
    origin: Origin, to: Form | Literal["auto"], bounds: Callable[[Format], Gates] = lambda form: Gates()
) -> list[Format]:
    """All that make sense; what can be mixed to a size is, to the largest that may be."""
    own = {"gguf": "bf16"} if origin.plain == "bf16" else {}
    return [
        replace(form, size=bounds(form).max_size) if form.quant == "mixed" else form
        for form in formats(to)
        if ((form.form, form.quant) not in _TWINS or own.get(form.form) == form.quant)
        and (form.quant != "exact" or origin.quantized)  # carries blocks over, where there are some
    ]


@dataclass(frozen=True, slots=True)
class _Maker:
    """What all packages of a search have in common."""

    origin: Origin
    shelf: Path
    name: str | None
    gates: Gates
    test: Trial
    goal: Literal["quality", "speed"]
    npu: NpuQuant | None
    allow_large: bool

    def bounds(self, form: Format) -> Gates:
        """The gates, with room for the graph for NPUs that the package would get."""
        if self.gates.max_size is None or self.npu is None or form.form != "onnx":
            return self.gates
        graph = whole_bytes(self.origin.parameters, self.origin.largest)
        return replace(self.gates, max_size=max(0, self.gates.max_size - graph))

    def place(self, form: Format) -> Path:
        size = "" if form.size is None else f"-{form.size}"
        return self.shelf / f"{form.form}-{form.quant}{size}"


def _made(one: _Maker, candidates: Sequence[Format], tell: Tell) -> tuple[list[Row], list[Skipped]]:
    rows: list[Row] = []
    skipped: list[Skipped] = []
    lacking: list[Exception] = []
    for number, form in enumerate(candidates, 1):
        if (why := _too_large(one.origin, form, one.bounds(form))) is not None:
            skipped.append(Skipped(form=form, why=why))
            continue
        heard = partial(_tell_part, tell, (number, len(candidates)))
        try:
            rows.append(_known(one, form, heard) or _make(one, form, heard))
        except (ModelUnsupported, MissingExtra, OutOfMemory, ModelTooLarge, EngineError) as error:
            lacking.append(error)
            skipped.append(Skipped(form=form, why=" ".join(filter(None, (error.what, error.why)))))
    if not rows and lacking:
        raise lacking[0]
    return rows, skipped


def _tell_part(tell: Tell, part: tuple[int, int], stage: Stage) -> None:
    tell(replace(stage, part=part))


def _too_large(origin: Origin, form: Format, gates: Gates) -> str | None:
    """Whether there is no point in making it: formats can be a fifth smaller than they are estimated."""
    about = estimate(origin, form).package
    if gates.max_size is None or about <= 1.25 * gates.max_size:
        return None
    return f"it would have about {about / 1e6:,.0f} MB of {gates.max_size / 1e6:,.0f} MB"


def _known(one: _Maker, form: Format, tell: Tell) -> Row | None:
    """What an earlier search made and proved, judged by today's gates."""
    place = one.place(form)
    folder = place / "package"
    if not (place / "done").is_file():
        return None
    try:
        proof = read_proof(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if one.goal == "speed" and proof.speed is not None and proof.speed.disturbed:
        if not (folder / MANIFEST).is_file():
            return None
        tell(Stage(step="measure", what=form.quant))
        proof = replace(proof, speed=measure_package(folder, form))
        write_proof(folder, proof)
    return Row(form=form, folder=folder, proof=_judged(proof, form, one.origin, one.bounds(form)))


def _make(one: _Maker, form: Format, tell: Tell) -> Row:
    """The package, made now; it is kept even where it misses a gate, for the table."""
    place = one.place(form)
    npu, memory = one.npu if form.form == "onnx" else None, one.gates.max_memory
    check_fits(one.origin, form, one.shelf, allow_large=one.allow_large, max_memory=memory, npu=npu)
    with writing(one.shelf):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    try:
        proof = convert_into(one.origin, place, form, one.name, one.bounds(form), one.test, tell).proof
    except GateFailed as error:
        if not isinstance(error.proof, Proof):
            raise
        proof = error.proof
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    _empty(place, "package")
    (place / "done").touch()
    return Row(form=form, folder=place / "package", proof=proof)


def _keep_proof(folder: Path) -> None:
    """Packages are large, and the same bytes when they are made again."""
    _empty(folder, PROOF)


def _empty(folder: Path, keep: str) -> None:
    for left in folder.iterdir():
        if left.name != keep:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _judged(proof: Proof, form: Format, origin: Origin, gates: Gates) -> Proof:
    faults = {gate.name: gate.reason for gate in proof.gates if gate.bound == "same"}
    filled = gates.filled(form, origin.parameters, quantized=origin.quantized)
    return replace(proof, gates=check(filled, proof.divergence, proof.size, proof.speed, faults))


def _shelf(origin: Origin, test: Trial, name: str | None) -> Path:
    """Where a search of this source, with this test, these versions and this machine, keeps its packages."""
    facts = {
        "source": [origin.provenance["source_sha256"], name],
        "text": text_hash(test.words),
        "test": [test.tokens, test.window, test.speed, [asdict(question) for question in test.task or ()]],
        "versions": versions(),
        "machine": machine(),
    }
    key = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    return cache_dir() / "searches" / key
