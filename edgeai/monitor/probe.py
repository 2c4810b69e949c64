"""A small network on the model's hidden states: the strongest single signal published for small models."""

import base64
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

__all__ = ["Layer", "Probe", "pack", "unpack"]


def pack(values: "NDArray[np.floating]") -> str:
    """An array as base64 of little-endian float32, row by row."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


@cache
def unpack(text: str) -> "Vector":
    """The flat array of `pack`. Raises ValueError for anything else."""
    values = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if not np.isfinite(values).all():
        raise ValueError("packed numbers should be finite")
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """x ↦ W·x + bias; ``weights`` is `pack` of W with len(bias) rows."""

    weights: str
    bias: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.bias or unpack(self.weights).size % len(self.bias):
            raise ValueError("weights and bias of a layer should have matching sizes")

    def __call__(self, x: "Vector") -> "Vector":
        """The layer's output; ValueError when ``x`` has another length than the weights' rows."""
        matrix = unpack(self.weights).reshape(len(self.bias), -1)
        return np.asarray(matrix @ x + np.asarray(self.bias, np.float32), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Layers with tanh between them; the last one has one output, the logit of "right".

    The projection to principal components is linear, so it is multiplied into the first layer.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        widths = [len(layer.bias) for layer in self.layers]
        inputs = [unpack(layer.weights).size // len(layer.bias) for layer in self.layers]
        if widths[-1:] != [1] or widths[:-1] != inputs[1:]:
            raise ValueError("the layers of a probe should fit one another and end in one number")

    def logit(self, hidden: "Vector | None") -> float | None:
        """The logit of "right", None when the state is missing or is not of this model."""
        if hidden is None or not self.fits(hidden):
            return None
        x = np.asarray(hidden, np.float32)
        for layer in self.layers[:-1]:
            x = np.tanh(layer(x))
        value = float(self.layers[-1](x)[0])
        return value if np.isfinite(value) else None

    def fits(self, hidden: "Vector") -> bool:
        """Whether the vector has the length that the probe was trained on."""
        first = self.layers[0]
        return unpack(first.weights).size == len(first.bias) * hidden.size
