"""A model whose matrices are scaled along their inputs, which is undone where those inputs come from.

What the model computes stays the same. What rounding it does to the weights and to the inputs does not:
that is what AWQ (Lin et al. 2024, arXiv:2306.00978) and SmoothQuant (Xiao et al. 2023, arXiv:2211.10438) use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Decoder, Floats, Matrix, need
from edgeai.converters.tuned import Tuned
from edgeai.errors import ModelCorrupt

__all__ = ["GROUPS", "Scaled", "Site", "fold", "tied"]

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "qkv": ("q", "k", "v"),
    "o": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}
"""Matrices that get the same inputs."""

Site = tuple[str, int]
"""A group in a layer."""

_NORMS: Final = {"qkv": "attn_norm", "gate_up": "ffn_norm"}
_BEFORE: Final = {"o": "v", "down": "up"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A matrix times ``outputs`` along its rows and ``inputs`` along its columns, read piece by piece."""

    inner: Matrix
    outputs: Floats | None = None
    inputs: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Output features, input features."""
        return self.inner.shape

    @property
    def kind(self) -> str:
        """What it is read as: floats."""
        return "F32"

    def rows(self, start: int, stop: int) -> Floats:
        """Rows ``start`` to ``stop``."""
        found = self.inner.rows(start, stop)
        values = found.floats() if isinstance(found, Blocks) else found
        if self.outputs is not None:
            values = values * self.outputs[start:stop, None]
        return values if self.inputs is None else values * self.inputs


def tied(decoder: Decoder, group: str, sizes: Floats) -> Floats:
    """The means of those inputs that can only be scaled together: of the heads that share a value head."""
    if group != "o":
        return sizes
    heads = sizes.reshape(decoder.n_kv_heads, -1, decoder.head_dim)
    return np.broadcast_to(heads.mean(axis=1, keepdims=True), heads.shape).reshape(-1)


def fold(model: Tuned, group: str, number: int, scale: Floats) -> None:
    """Multiply the group's columns by ``scale``, and divide what its inputs come from by it.

    ``scale`` is positive and equal where `tied` makes it so. Inputs come from a norm, from the value matrix
    (``o``), or from the matrix that the activation is multiplied with (``down``).
    """
    for role in GROUPS[group]:
        _multiply(model, role, number, inputs=scale)
    if group in _NORMS:
        _divide_vector(model, _NORMS[group], number, scale)
        return
    if group == "o":
        heads = scale.reshape(model.decoder.n_kv_heads, -1, model.decoder.head_dim)
        scale = np.ascontiguousarray(heads[:, 0]).reshape(-1)
        if model.vector("v_bias", number) is not None:
            _divide_vector(model, "v_bias", number, scale)
    _multiply(model, _BEFORE[group], number, outputs=np.asarray(1 / scale, np.float32))


def _divide_vector(model: Tuned, role: str, number: int, scale: Floats) -> None:
    values = model.vector(role, number)
    if values is None or values.shape != scale.shape:
        raise ModelCorrupt(f"The model has no {role} in layer {number} of length {len(scale)}")
    model.vectors[role, number] = np.asarray(values / scale, np.float32)


def _multiply(
    model: Tuned, role: str, number: int, *, outputs: Floats | None = None, inputs: Floats | None = None
) -> None:
    known: Matrix = need(model, role, number)
    if isinstance(known, Scaled):
        outputs, inputs = _product(known.outputs, outputs), _product(known.inputs, inputs)
        known = known.inner
    model.matrices[role, number] = Scaled(inner=known, outputs=outputs, inputs=inputs)


def _product(one: Floats | None, other: Floats | None) -> Floats | None:
    if one is None or other is None:
        return other if one is None else one
    return one * other
