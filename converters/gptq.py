"""GPTQ: rounding that makes up for its own errors (Frantar et al. 2023, arXiv:2210.17323).

Columns are rounded one after the other, those with the largest inputs first. The columns that are still to
come take up each error, as far as the inputs that the matrix really gets allow it. Scales belong to blocks of
neighbouring columns and are fixed beforehand, so that the order costs nothing at run time.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Floats
from edgeai.converters.quantize import BLOCK

__all__ = ["Grid", "hessian", "nearest", "quantize"]

Grid = Literal["symmetric", "zero", "minimum"]
"""Where a block's 16 levels lie: around zero; with a whole number as zero point; or from any minimum on."""

_DAMPING: Final = 0.1
_STRIDE: Final = 128  # columns whose errors are handed on together
_LEVELS: Final = 15
_TRIES: Final = 16


def hessian(inputs: Floats) -> NDArray[np.float64]:
    """The sum of the inputs' outer products: inputs (tokens, features) to (features, features)."""
    return np.asarray(inputs.T @ inputs, np.float64)


def quantize(weights: Floats, curvature: NDArray[np.float64], grid: Grid) -> Blocks:
    """Four-bit blocks for ``weights`` (rows, columns) whose inputs have the `hessian` ``curvature``.

    Columns must be a multiple of 32.
    """
    importance = np.maximum(np.diag(curvature), 0)
    scale, offset = _scales(weights, importance, grid)
    order = np.argsort(-importance, kind="stable")
    factor = _factor(curvature[np.ix_(order, order)])
    columns = np.ascontiguousarray(weights.T[order])
    codes = np.empty(columns.shape, np.uint8)
    for start in range(0, len(columns), _STRIDE):
        stop = min(start + _STRIDE, len(columns))
        errors = np.empty((stop - start, columns.shape[1]), np.float32)
        for i in range(start, stop):
            block = order[i] // BLOCK
            step, low = scale[:, block], offset[:, block]
            code = np.clip(np.rint((columns[i] - low) / step), 0, _LEVELS)
            errors[i - start] = (columns[i] - (code * step + low)) / factor[i, i]
            codes[i] = code
            columns[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], errors[i - start])
        columns[stop:] -= factor[start:stop, stop:].T @ errors
    back = np.empty_like(codes)
    back[order] = codes
    return _blocks(np.ascontiguousarray(back.T).reshape(len(weights), -1, BLOCK), scale, offset, grid)


def nearest(weights: Floats, importance: NDArray[np.float64], grid: Grid, *, tries: int = _TRIES) -> Blocks:
    """Four-bit blocks in which each weight went to its nearest level.

    ``importance`` are the inputs' squares; ``tries`` is how many scales each block chooses from.
    """
    scale, offset = _scales(weights, np.maximum(importance, 0), grid, tries)
    values = weights.reshape(len(weights), -1, BLOCK)
    codes = np.clip(np.rint((values - offset[..., None]) / scale[..., None]), 0, _LEVELS)
    return _blocks(codes.astype(np.uint8), scale, offset, grid)


def _blocks(codes: NDArray[np.uint8], scale: Floats, offset: Floats, grid: Grid) -> Blocks:
    zero = 8 if grid == "symmetric" else None
    return Blocks(codes=codes, scale=scale, offset=offset, bits=4, zero=zero)


def _factor(curvature: NDArray[np.float64]) -> Floats:
    """The upper Cholesky factor of the inverse; its rows say how later columns take up an error."""
    diagonal = np.diag_indices_from(curvature)
    mean = float(curvature[diagonal].mean()) or 1.0
    curvature[diagonal] += _DAMPING * mean
    inverse = np.linalg.inv(curvature)
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T, np.float32)


def _scales(
    weights: Floats, importance: NDArray[np.float64], grid: Grid, tries: int = _TRIES
) -> tuple[Floats, Floats]:
    """Scale and offset of each block, (rows, blocks) both: the least error, weighed by the inputs' squares.

    Scales are half-precision numbers, so that GGUF's formats hold them as they are.
    """
    values = weights.reshape(len(weights), -1, BLOCK)
    weight = (importance / (importance.mean() or 1.0) + 1e-3).astype(np.float32).reshape(1, -1, BLOCK)
    best = np.full(values.shape[:2], np.inf, np.float32)
    scale, offset = np.zeros_like(best), np.zeros_like(best)
    for shrink in np.linspace(0.72, 1.2 if grid == "symmetric" else 1.0, tries, dtype=np.float32):
        for step, low in _candidates(values, shrink, grid):
            codes = np.clip(np.rint((values - low[..., None]) / step[..., None]), 0, _LEVELS)
            error = np.square(codes * step[..., None] + low[..., None] - values)
            loss = (error * weight).sum(axis=-1)
            better = loss < best
            best = np.where(better, loss, best)
            scale, offset = np.where(better, step, scale), np.where(better, low, offset)
    return scale, offset


def _candidates(values: Floats, shrink: np.float32, grid: Grid) -> list[tuple[Floats, Floats]]:
    if grid == "symmetric":  # the largest weight may be at either end, and the end of -8 reaches farther
        peak = np.take_along_axis(values, np.abs(values).argmax(axis=-1)[..., None], axis=-1)[..., 0]
        step = _half(peak * shrink / -np.float32(8))
        return [(step, -8 * step)]
    low, high = np.minimum(values.min(axis=-1), 0), np.maximum(values.max(axis=-1), 0)
    if grid == "minimum":
        low, high = values.min(axis=-1), values.max(axis=-1)
    middle = (low + high) / 2
    low, high = middle + (low - middle) * shrink, middle + (high - middle) * shrink
    step = _half((high - low) / _LEVELS)
    if grid == "minimum":
        return [(step, low.astype(np.float16).astype(np.float32))]
    zero = np.clip(np.rint(-low / step), 0, _LEVELS)
    return [(step, -zero * step)]


def _half(step: Floats) -> Floats:
    """As a half-precision number that is not zero."""
    tiny = np.float32(np.finfo(np.float16).tiny)
    rounded = step.astype(np.float16).astype(np.float32)
    return np.where(np.abs(rounded) < tiny, tiny, rounded).astype(np.float32)
