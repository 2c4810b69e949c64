"""A whole model in four bits by GPTQ, layer after layer: each sees what the rounded ones before it make."""

from collections.abc import Callable, Collection, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeai.converters import gptq
from edgeai.converters.decoder import Floats, Matrix, Source
from edgeai.converters.layers import Layer, Tokens, embed, layer
from edgeai.converters.linear import floats
from edgeai.converters.quantize import BLOCK
from edgeai.converters.tuned import Packed4, Tuned
from edgeai.errors import ModelCorrupt

__all__ = ["GROUPS", "Site", "round_model"]

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "qkv": ("q", "k", "v"),
    "o": ("o",),
    "gate_up": ("gate", "up"),
    "down": ("down",),
}
"""Matrices that get the same inputs."""

Site = tuple[str, int]
"""A group in a layer."""

_KINDS: Final[Mapping[gptq.Grid, str]] = {"symmetric": "Q4_0", "zero": "U4", "minimum": "Q4_1"}


def round_model(
    source: Source,
    tokens: Tokens,
    *,
    grid: gptq.Grid = "zero",
    keep: Collection[Site] = (),
    n_threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuned:
    """The source with its layers' matrices in four bits, except for those of the sites in ``keep``.

    ``tokens`` are windows of text like that which the model will see, some thousand tokens in all.
    """
    tuned = Tuned(source=source)
    states = embed(source, tokens)
    n_layers = source.decoder.n_layers
    for number in range(n_layers):
        groups = [group for group in GROUPS if (group, number) not in keep]
        with layer(tuned, number, tokens.shape[1], n_threads) as before:
            curvatures = _curvatures(before, states, groups)
        for group in groups:
            for role in GROUPS[group]:
                tuned.matrices[role, number] = _round(source, role, number, curvatures[group], grid)
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


def _round(source: Source, role: str, number: int, curvature: NDArray[np.float64], grid: gptq.Grid) -> Matrix:
    matrix = source.matrix(role, number)
    if matrix is None:
        raise ModelCorrupt(f"The model has no matrix for {role} in layer {number}")
    if matrix.shape[1] % BLOCK:
        return matrix  # its rows do not fill whole blocks: it keeps its precision
    blocks = gptq.quantize(floats(matrix), curvature, grid)
    return Packed4(blocks=blocks, kind=_KINDS[grid])
