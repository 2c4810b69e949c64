"""Scales that make four bits cost least: AWQ (Lin et al. 2024, arXiv:2306.00978).

Inputs that are large get finer weights, at the expense of their neighbours in a block. How much is searched
for: the power of the inputs' size that makes the outputs err least.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.decoder import Floats
from edgeai.converters.gptq import Grid, nearest

__all__ = ["best_scale"]

_POWERS: Final = np.linspace(0.0, 0.9, 10)
_ROWS: Final = 384
_TRIES: Final = 4
"""Rows that are looked at, and scales of each of their blocks: enough to rank, and they bound the time."""


def best_scale(
    weights: Floats, curvature: NDArray[np.float64], grid: Grid, tie: Callable[[Floats], Floats]
) -> Floats:
    """A positive factor for each column of ``weights`` (rows, columns), whose inputs' `hessian` is given.

    ``tie`` makes those equal that cannot differ. All ones where no scale is better than none.
    """
    size = np.sqrt(np.maximum(np.diag(curvature), 0)).astype(np.float32)
    size = tie(np.maximum(size, np.float32(1e-3) * (size.mean() or np.float32(1))))
    rows = weights[:: -(-len(weights) // _ROWS)]
    curved = np.asarray(curvature, np.float32)
    best, least = np.ones_like(size), np.inf
    for power in _POWERS:
        scale = np.asarray((size / np.exp(np.log(size).mean())) ** power, np.float32)
        importance = np.diag(curvature) / np.square(scale)
        error = nearest(rows * scale, importance, grid, tries=_TRIES).floats() / scale - rows
        loss = float(np.vdot(error @ curved, error))
        if loss < least:
            best, least = scale, loss
    return best
