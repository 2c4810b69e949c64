"""Does it fit, before anything is loaded: parameters, memory and disk, for converting and for running."""

from dataclasses import dataclass
from pathlib import Path

import psutil

from edgeai.converters.encoder import Encoder
from edgeai.converters.fewer_bits import CALIBRATED
from edgeai.converters.formats import Format, NpuQuant, whole_bytes
from edgeai.converters.origin import Origin
from edgeai.errors import ModelTooLarge, OutOfMemory
from edgeai.models.disk import check_room
from edgeai.models.shelf import MAX_PARAMETERS, refuse_large

__all__ = ["Estimate", "check_encoder_fits", "check_fits", "estimate", "large_option"]

RUN_CONTEXT = 2048
"""Tokens of context that an estimate of memory for running counts with."""

_LIBRARIES = 150 << 20  # Python with an engine
_TORCH = 400 << 20  # the same with optimum and torch
_CALIBRATION = 400 << 20  # what calibration computes: layer after layer, or for NPUs all of them at once
_HALFWAY = ("awq", "gptq", "awq_gptq", "mixed")  # layers in four bits are kept on the disk
_CHUNK_BYTES = 64 << 20  # pieces of matrices as floats, of which some are alive at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes, about: of the package, of disk for making it, of memory for converting, proving, running."""

    package: int
    disk: int
    converting: int
    proving: int
    running: int


def estimate(origin: Origin, form: Format, *, proved: bool = True, npu: NpuQuant | None = None) -> Estimate:
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
    draft += origin.parameters * 5 // 4 if form.quant in _HALFWAY else 0  # a byte each, and the scales
    looked = _CALIBRATION if form.care in ("five", "four") or form.quant in CALIBRATED else 0
    graph = whole_bytes(origin.parameters, origin.largest) if npu is not None else 0
    tried = max(_CALIBRATION, 2 * graph) if npu is not None else 0  # it is parsed when it is loaded
    return Estimate(
        package=package + graph,
        disk=package + draft + reference + graph + _floats(origin.parameters, npu),
        converting=max(largest + 4 * _CHUNK_BYTES, tried, looked) + _LIBRARIES,
        proving=proving if proved else 0,
        running=running + graph,
    )


def check_fits(
    origin: Origin,
    form: Format,
    folder: Path,
    *,
    allow_large: bool,
    max_memory: int | None,
    npu: NpuQuant | None = None,
) -> Estimate:
    """The estimate, if it is kept here.

    Raises ModelTooLarge (too many parameters, or more memory while it runs than ``max_memory``),
    OutOfMemory (for converting or proving) or DiskFull.
    """
    refuse_large(origin.name, origin.parameters, allow_large=allow_large)
    found = estimate(origin, form, npu=npu)
    _check_device(f"{origin.name} as {form.quant}", found.running, max_memory)
    _check_memory(f"{origin.name} to {form.quant}", max(found.converting, found.proving))
    check_room(folder, found.disk)
    return found


def check_encoder_fits(
    source: Encoder, folder: Path, npu: NpuQuant | None, *, allow_large: bool, max_memory: int | None = None
) -> None:
    """The same for an encoder, which optimum exports: it holds the floats in several forms at once.

    Raises ModelTooLarge, OutOfMemory or DiskFull.
    """
    refuse_large(source.name, source.parameters, allow_large=allow_large)
    floats = 4 * source.parameters
    whole = whole_bytes(source.parameters, source.parameters) if npu is not None else 0
    _check_device(f"{source.name} as f32", floats + whole + _LIBRARIES, max_memory)
    needed = _TORCH + 6 * floats + (2 * floats + _CALIBRATION if npu is not None else 0)
    _check_memory(f"{source.name} with optimum", needed)
    check_room(folder, 3 * floats + whole + _floats(source.parameters, npu))


def large_option(parameters: int) -> str:
    """What a recorded command needs beside the rest, so that it takes a model of this size."""
    return " --allow-large" if parameters > MAX_PARAMETERS else ""


def _check_device(what: str, running: int, max_memory: int | None) -> None:
    if max_memory is not None and running > max_memory:
        raise ModelTooLarge(
            f"{what} does not fit the device",
            why=f"It takes about {running / 1e6:,.0f} MB of {max_memory / 1e6:,.0f} MB of memory",
            remedy="Take a smaller quantization, or a smaller model",
        )


def _check_memory(what: str, needed: int) -> None:
    free = psutil.virtual_memory().available
    if needed > free:
        raise OutOfMemory(
            f"Converting {what} does not fit into this machine's memory",
            why=f"It takes about {needed / 1e6:,.0f} MB; {free / 1e6:,.0f} MB are free",
            remedy="Close other programs, or convert on a larger machine",
        )


def _floats(parameters: int, npu: NpuQuant | None) -> int:
    """Bytes of a graph in floats, which a graph for NPUs is made of; twice where its weights are changed."""
    return 4 * parameters * {None: 0, "a16w8": 1, "a8w8": 2}[npu]


def _bits(origin: Origin) -> int:
    return 32 if origin.plain == "f32" else 16


def _reference(origin: Origin, form: Format) -> int:
    """Bytes of what runs as the source in the proof: the other engine's plain form of it."""
    return origin.parameters * (4 if form.form == "gguf" else _bits(origin) // 8)
