"""The number formats that a package can have, and what may be expected of each."""

from dataclasses import dataclass
from typing import Literal

from edgeai.errors import ConfigError

__all__ = ["FORMATS", "Form", "Format", "NpuQuant", "format_of", "formats", "meant", "whole_bytes"]

Form = Literal["gguf", "onnx", "hf"]
"""A GGUF package for llama.cpp, an ONNX package, or a Hugging Face folder."""

NpuQuant = Literal["a16w8", "a8w8"]
"""Bits of activations and weights in a graph for NPUs, see `edgeai.converters.npu`."""

Care = Literal["exact", "eight", "five", "four"]
"""About how many bits are left of a weight, for bounds on what may get lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """``bits`` a weight takes in the file, about; ``quant`` is its name on the command line.

    ``size`` is how many bytes the package may have, for formats that can be mixed to a size.
    """

    form: Form
    quant: str
    bits: float
    care: Care
    size: int | None = None


def _format(form: Form, quant: str, bits: float, care: Care) -> Format:
    return Format(form=form, quant=quant, bits=bits, care=care)


FORMATS: tuple[Format, ...] = (
    _format("gguf", "f32", 32, "exact"),
    _format("gguf", "bf16", 16, "exact"),
    _format("gguf", "f16", 16, "exact"),
    _format("gguf", "q8_0", 8.5, "eight"),
    _format("gguf", "q6_k", 8.2, "eight"),
    _format("gguf", "q5_k_m", 6.6, "five"),
    _format("gguf", "q4_k_m", 6.2, "five"),
    _format("gguf", "iq4_nl", 5.4, "four"),
    _format("gguf", "q4_0", 5.4, "four"),
    _format("onnx", "f32", 32, "exact"),
    _format("onnx", "f16", 16, "exact"),
    _format("onnx", "int8", 9, "eight"),
    _format("onnx", "int8_dynamic", 8.7, "eight"),
    _format("onnx", "exact", 9, "eight"),
    _format("onnx", "int4", 7, "four"),
    _format("onnx", "awq", 6.5, "five"),
    _format("onnx", "gptq", 6.5, "five"),
    _format("onnx", "awq_gptq", 6.5, "five"),
    _format("onnx", "mixed", 6.9, "five"),
    _format("gguf", "exact", 6, "eight"),  # after those of ONNX, which their bare names mean
    _format("gguf", "gptq", 5.9, "five"),
    _format("gguf", "mixed", 6.4, "five"),
    _format("hf", "f32", 32, "exact"),
    _format("hf", "bf16", 16, "exact"),
    _format("hf", "f16", 16, "exact"),
)


def formats(form: Form | Literal["auto"]) -> tuple[Format, ...]:
    """All formats of a form; of ``auto`` those that can be run, which excludes Hugging Face folders."""
    return tuple(f for f in FORMATS if f.form == form or (form == "auto" and f.form != "hf"))


def format_of(form: Form, quant: str) -> Format:
    """The format of that name. Raises ConfigError with the names that there are."""
    for known in formats(form):
        if known.quant == quant.lower():
            return known
    names = ", ".join(known.quant for known in formats(form))
    raise ConfigError(f"quant={quant!r} is unknown for {form}", remedy=f"Give one of {names}, or auto")


def meant(to: Form | Literal["auto"], quant: str | None) -> Form | None:
    """The one form that a wish means; None: search. Raises ConfigError with the names that there are."""
    wanted = (quant or "auto").lower()
    if wanted == "auto" and (to == "auto" or quant is not None):
        return None
    if to != "auto":
        return to
    known = [form.form for form in FORMATS if form.quant == wanted]
    if not known:
        names = ", ".join(dict.fromkeys(form.quant for form in FORMATS))
        raise ConfigError(f"quant={quant!r} is unknown", remedy=f"Give one of {names}, or auto")
    return known[0]


def whole_bytes(parameters: int, embedding: int) -> int:
    """Bytes of a graph for NPUs, about: 8 bits a weight, 16 in the table of so many ``embedding`` weights."""
    return parameters + embedding + (4 << 20)
