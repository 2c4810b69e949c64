"""A whole model in four bits, layer after layer: each sees what the rounded ones before it make."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeai.converters import gptq
from edgeai.converters.awq import best_scale
from edgeai.converters.decoder import Floats, Matrix, Source, need
from edgeai.converters.layers import Layer, Tokens, embed, layer
from edgeai.converters.linear import floats
from edgeai.converters.quantize import BLOCK
from edgeai.converters.scaling import GROUPS, Site, fold, tied
from edgeai.converters.tuned import Packed4, Tuned

__all__ = ["Method", "round_model"]

Method = Literal["gptq", "awq", "awq+gptq"]
"""Errors made up for by later columns; inputs scaled, then the nearest level; or both."""

_KINDS: Final[Mapping[gptq.Grid, str]] = {"symmetric": "Q4_0", "zero": "U4", "minimum": "Q4_1"}


def round_model(
    source: Source,
    tokens: Tokens,
    *,
    method: Method = "gptq",
    grid: gptq.Grid = "zero",
    keep: Collection[Site] = (),
    n_threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuned:
    """The source with its layers' matrices in four bits, except for those of the sites in ``keep``.

    ``tokens`` are windows of text like that which the model will see, some thousand tokens in all. The
    result's own ``source`` is what was rounded: the given one, or with AWQ the one that was scaled.
    """
    scaled = Tuned(source=source)
    tuned = Tuned(source=source if method == "gptq" else scaled)
    states = embed(source, tokens)
    n_layers = source.decoder.n_layers
    for number in range(n_layers):
        groups = [group for group in GROUPS if (group, number) not in keep]
        with layer(tuned, number, tokens.shape[1], n_threads) as before:
            curvatures = _curvatures(before, states, groups)
        if method != "gptq":
            for group in groups:
                curvatures[group] = _scale(scaled, group, number, curvatures[group], grid)
        for group in groups:
            for role in GROUPS[group]:
                tuned.matrices[role, number] = _round(
                    need(tuned.source, role, number), curvatures[group], grid, method
                )
        with layer(tuned, number, tokens.shape[1], n_threads) as after:
            states = np.stack([after.run(window) for window in states])
        progress(number + 1, n_layers)
    return tuned


def _curvatures(before: Layer, states: Floats, groups: Collection[str]) -> dict[str, NDArray[np.float64]]:
    totals: dict[str, NDArray[np.float64]] = {}
    for window in states:
        inputs = before.inputs(window)
        for group in groups:
            part = gptq.hessian(inputs[group])
            totals[group] = totals[group] + part if group in totals else part
    return totals


def _scale(
    model: Tuned, group: str, number: int, curvature: NDArray[np.float64], grid: gptq.Grid
) -> NDArray[np.float64]:
    """Scale the group's inputs; what has become of their curvature."""
    weights = np.concatenate([floats(need(model, role, number)) for role in GROUPS[group]])
    if weights.shape[1] % BLOCK:
        return curvature
    scale = best_scale(weights, curvature, grid, partial(tied, model.decoder, group))
    fold(model, group, number, scale)
    return np.asarray(curvature / np.outer(scale, scale), np.float64)


def _round(matrix: Matrix, curvature: NDArray[np.float64], grid: gptq.Grid, method: Method) -> Matrix:
    if matrix.shape[1] % BLOCK:
        return matrix  # its rows do not fill whole blocks: it keeps its precision
    if method == "awq":
        blocks = gptq.nearest(floats(matrix), np.diag(curvature), grid)
    else:
        blocks = gptq.quantize(floats(matrix), curvature, grid)
    return Packed4(blocks=blocks, kind=_KINDS[grid])
