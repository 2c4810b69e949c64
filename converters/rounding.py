"""A whole model in four bits, layer after layer: each sees what the rounded ones before it make."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edgeai.converters import gptq
from edgeai.converters.awq import best_scale
from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Floats, Matrix, Source, need
from edgeai.converters.halfway import Done, Halfway
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
    halfway: Halfway | None = None,
) -> Tuned:
    """The source with its layers' matrices in four bits, except for those of the sites in ``keep``.

    ``tokens`` are windows of text like that which the model will see, some thousand tokens in all. The
    result's own ``source`` is what was rounded: the given one, or with AWQ the one that was scaled. Layers
    that ``halfway`` has are taken from there, and those that are made are kept there.
    """
    scaled = Tuned(source=source)
    tuned = Tuned(source=source if method == "gptq" else scaled)
    groups = {
        number: [group for group in GROUPS if (group, number) not in keep]
        for number in range(source.decoder.n_layers)
    }
    first, states = 0, embed(source, tokens)
    for number, done in enumerate(halfway.known() if halfway is not None else ()):
        for group in (group for group in GROUPS if group in done.scales):
            fold(scaled, group, number, done.scales[group])
        _adopt(tuned, groups[number], number, done, grid)
        first = number + 1
    if halfway is not None and first:
        states = halfway.states(first - 1)
        progress(first, len(groups))
    for number in range(first, len(groups)):
        done = _layer(tuned, scaled, states, groups[number], number, method, grid, n_threads)
        _adopt(tuned, groups[number], number, done, grid)
        with layer(tuned, number, tokens.shape[1], n_threads) as after:
            states = np.stack([after.run(window) for window in states])
        if halfway is not None:
            _adopt(tuned, groups[number], number, halfway.keep(number, done, states), grid)
        progress(number + 1, len(groups))
    return tuned


def _layer(
    tuned: Tuned, scaled: Tuned, states: Floats, groups: Collection[str], number: int, method: Method,
    grid: gptq.Grid, n_threads: int,
) -> Done:  # fmt: skip
    """Round one layer, whose inputs are ``states``; with AWQ ``scaled`` is scaled there."""
    with layer(tuned, number, states.shape[1], n_threads) as before:
        curvatures = _curvatures(before, states, groups)
    scales: dict[str, Floats] = {}
    if method != "gptq":
        for group in groups:
            found = _scale(scaled, group, number, curvatures[group], grid)
            if found is not None:
                scales[group], curvatures[group] = found
    blocks = {}
    for group in groups:
        for role in GROUPS[group]:
            made = _round(need(tuned.source, role, number), curvatures[group], grid, method)
            if made is not None:
                blocks[role] = made
    return Done(blocks=blocks, scales=scales)


def _adopt(tuned: Tuned, groups: Collection[str], number: int, done: Done, grid: gptq.Grid) -> None:
    """Put the layer's matrices into the model."""
    for group in groups:
        for role in GROUPS[group]:
            packed = done.blocks.get(role)
            tuned.matrices[role, number] = (
                need(tuned.source, role, number)
                if packed is None
                else Packed4(blocks=packed, kind=_KINDS[grid])
            )


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
) -> tuple[Floats, NDArray[np.float64]] | None:
    """Scale the group's inputs: by what, and what has become of their curvature. None: they stay."""
    weights = np.concatenate([floats(need(model, role, number)) for role in GROUPS[group]])
    if weights.shape[1] % BLOCK:
        return None
    scale = best_scale(weights, curvature, grid, partial(tied, model.decoder, group))
    fold(model, group, number, scale)
    return scale, np.asarray(curvature / np.outer(scale, scale), np.float64)


def _round(matrix: Matrix, curvature: NDArray[np.float64], grid: gptq.Grid, method: Method) -> Blocks | None:
    """None for a matrix whose rows do not fill whole blocks: it keeps its precision."""
    if matrix.shape[1] % BLOCK:
        return None
    if method == "awq":
        return gptq.nearest(floats(matrix), np.diag(curvature), grid)
    return gptq.quantize(floats(matrix), curvature, grid)
