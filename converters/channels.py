"""Matrices with one scale for each output, whose inputs are rounded to eight bits when they come.

As ONNX Runtime's own ``quantize_dynamic`` does it, channel by channel and with reduced range: weights have
seven bits, because x86 processors without VNNI add two products in 16 bits, which eight would overflow.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Floats, Matrix
from edgeai.converters.quantize import Loss, pieces

__all__ = ["KIND", "Channels", "Rounded", "round_channels"]

KIND: Final = "I8"
_TOP: Final = 64
"""The largest code: two products with inputs of up to 255 just fit into 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """A matrix that is to be stored this way."""

    inner: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Output features, input features."""
        return self.inner.shape

    @property
    def kind(self) -> str:
        """A name that no file uses."""
        return KIND

    def rows(self, start: int, stop: int) -> Floats:
        """Rows ``start`` to ``stop``, before they are rounded."""
        found = self.inner.rows(start, stop)
        return found.floats() if isinstance(found, Blocks) else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """``codes`` (inputs, outputs) times ``scale`` (outputs)."""

    codes: NDArray[np.int8]
    scale: Floats


def round_channels(matrix: Matrix, loss: Loss) -> Rounded:
    """Round the matrix piece by piece, and count the error. Raises ModelCorrupt for what is no number."""
    codes, scales = [], []
    for _, rows in pieces(matrix):
        peak = np.abs(rows).max(axis=1)
        scale = np.where(peak == 0, np.float32(1), peak / np.float32(_TOP))
        codes.append(np.rint(rows / scale[:, None]).astype(np.int8))
        scales.append(scale)
        loss.count(rows, np.asarray(codes[-1] * scale[:, None], np.float32))
        loss.n_bytes += codes[-1].nbytes + scale.nbytes
    return Rounded(codes=np.concatenate(codes).T, scale=np.concatenate(scales))
