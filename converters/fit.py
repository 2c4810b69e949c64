"""Does it fit, before anything is loaded: parameters, memory and disk, for converting and for running."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeai.converters.formats import Format
from edgeai.converters.origin import Origin
from edgeai.errors import ModelTooLarge, OutOfMemory
from edgeai.models.disk import check_room
from edgeai.models.shelf import refuse_large

__all__ = ["Estimate", "check_fits", "estimate"]

RUN_CONTEXT = 2048
"""Tokens of context that an estimate of memory for running counts with."""

_LIBRARIES = 150 << 20  # Python with an engine
_CHUNK_BYTES = 64 << 20  # pieces of matrices as floats, of which some are alive at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes, about: of the package, of disk for making it, of memory for converting, proving, running."""

    package: int
    disk: int
    converting: int
    proving: int
    running: int


def estimate(origin: Origin, form: Format, *, proved: bool = True) -> Estimate:
    """What a conversion will take, from headers alone."""
    package = int(origin.parameters * form.bits / 8) + (8 << 20)
    plain = origin.parameters * _bits(origin) // 8
    draft = plain if origin.form != "gguf" and form.form == "gguf" else 0
    reference = _reference(origin, form) if origin.form == "hf" and proved else 0
    cache = origin.kv_values * 4
    loaded = package
    if form.form == "onnx" and form.quant == "f16":  # becomes floats when it is loaded
        loaded += 2 * origin.parameters
    running = loaded + cache * RUN_CONTEXT + _LIBRARIES
    proving = loaded + (reference or origin.n_bytes) + 2 * cache * 512 + _LIBRARIES
    largest = origin.largest * (8 if form.form == "onnx" else 4) if form.form != "gguf" else 0
    return Estimate(
        package=package,
        disk=package + draft + reference,
        converting=largest + 4 * _CHUNK_BYTES + _LIBRARIES,
        proving=proving if proved else 0,
        running=running,
    )


def check_fits(
    origin: Origin, form: Format, folder: Path, *, allow_large: bool, max_memory: int | None
) -> Estimate:
    """The estimate, if it is kept here.

    Raises ModelTooLarge (too many parameters, or more memory while it runs than ``max_memory``),
    OutOfMemory (for converting or proving) or DiskFull.
    """
    refuse_large(origin.name, origin.parameters, allow_large=allow_large)
    found = estimate(origin, form)
    if max_memory is not None and found.running > max_memory:
        raise ModelTooLarge(
            f"{origin.name} as {form.quant} does not fit the device",
            why=f"It takes about {found.running / 1e6:,.0f} MB of {max_memory / 1e6:,.0f} MB of memory",
            remedy="Take a smaller quantization, or a smaller model",
        )
    free, needed = psutil.virtual_memory().available, max(found.converting, found.proving)
    if needed > free:
        raise OutOfMemory(
            f"Converting {origin.name} to {form.quant} does not fit into this machine's memory",
            why=f"It takes about {needed / 1e6:,.0f} MB; {free / 1e6:,.0f} MB are free",
            remedy="Close other programs, or convert on a larger machine",
        )
    check_room(folder, found.disk)
    return found


def _bits(origin: Origin) -> int:
    return 32 if origin.plain == "f32" else 16


def _reference(origin: Origin, form: Format) -> int:
    """Bytes of what runs as the source in the proof: the other engine's plain form of it."""
    return origin.parameters * (4 if form.form == "gguf" else _bits(origin) // 8)
