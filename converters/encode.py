"""Floats as the plain number formats of model files."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.decoder import Floats
from edgeai.errors import ModelCorrupt, ModelUnsupported

Plain = Literal["f32", "f16", "bf16"]
"""The formats of model files that are not quantized."""


def checked(values: Floats, name: str) -> Floats:
    """The values. Raises ModelCorrupt when one is not a number, or infinite."""
    if not np.isfinite(values).all():
        raise ModelCorrupt(f"{name} has weights that are not numbers", remedy="Fetch the model again")
    return values


def encoded(values: Floats, kind: Plain) -> NDArray[Any]:
    """The values in that format; bf16 as whole numbers of 16 bits, since numpy has none.

    Raises ModelUnsupported for weights beyond the range of f16.
    """
    if kind == "f32":
        return np.asarray(values, np.float32)
    if kind == "bf16":  # to the nearest, ties to even
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ModelUnsupported(
            "The model has weights beyond the range of f16", remedy="Convert to bf16 or f32"
        )
    return halves
