"""Four bits where they cost little: every matrix by GPTQ, then eight bits back where a byte buys the most."""

from collections.abc import Callable, Mapping
from typing import Final

from edgeai.converters.decoder import Source
from edgeai.converters.gptq import Grid
from edgeai.converters.halfway import Halfway
from edgeai.converters.layers import Tokens
from edgeai.converters.quantize import BLOCK
from edgeai.converters.rounding import Method, round_model
from edgeai.converters.scaling import GROUPS, Site
from edgeai.converters.sensitivity import costs, sites_to_keep
from edgeai.converters.tuned import Tuned
from edgeai.errors import ConfigError

__all__ = ["mix", "weight_bytes"]

_LOW: Final = (4 * BLOCK + 4 + 32) / BLOCK / 8  # codes, a zero point and a float scale, for each weight
_HIGH: Final = (8 * BLOCK + 32) / BLOCK / 8
_PROBE: Final = 256
"""Tokens that sites are ranked on."""


def mix(
    source: Source,
    tokens: Tokens,
    *,
    method: Method = "gptq",
    size: int | None = None,
    grid: Grid = "zero",
    n_threads: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    halfway: Halfway | None = None,
) -> Tuned:
    """The source with its layers in four bits on the ``grid``, rounded by ``method``.

    With ``size``, the most bytes that all matrices may take, as many groups as fit keep eight bits: those
    whose lowering was measured to cost most for each byte saved. ``tokens`` are windows of calibration text.
    ``halfway`` is as of `round_model`. Raises ConfigError for a size that even four bits do not reach.
    """
    everything = weight_bytes(source)
    spare = 0 if size is None else size - everything
    if spare < 0:
        raise ConfigError(
            f"The model does not fit into {(size or 0) / 1e6:.0f} MB",
            why=f"With all of its layers in four bits it takes {everything / 1e6:.0f} MB",
            remedy=f"Allow {everything / 1e6 + 1:.0f} MB, or take a smaller model",
        )
    steps = source.decoder.n_layers * (2 if spare else 1)
    progress(0, steps)
    tuned = round_model(
        source,
        tokens,
        method=method,
        grid=grid,
        n_threads=n_threads,
        progress=lambda done, total: progress(done, steps),
        halfway=halfway,
    )
    if not spare:
        return tuned
    n_rounded = source.decoder.n_layers
    priced = costs(
        tuned.source,
        tuned,
        tokens[:1, :_PROBE],
        n_threads=n_threads,
        progress=lambda done, total: progress(n_rounded + done, steps),
        halfway=halfway,
    )
    keep = sites_to_keep(priced, _savings(source, priced), spare)
    kept = {(role, number) for group, number in keep for role in GROUPS[group]}
    lowered = {key: matrix for key, matrix in tuned.matrices.items() if key not in kept}
    return Tuned(source=tuned.source, matrices=lowered)


def weight_bytes(source: Source) -> int:
    """What the matrices take with the layers in four bits, embedding and head in eight."""
    layers = range(source.decoder.n_layers)
    low = sum(
        _n_weights(source, role, number) for roles in GROUPS.values() for role in roles for number in layers
    )
    high = _n_weights(source, "embed", None) + _n_weights(source, "head", None)
    return int(low * _LOW + high * _HIGH)


def _savings(source: Source, sites: Mapping[Site, float]) -> dict[Site, int]:
    return {
        (group, number): int(sum(_n_weights(source, role, number) for role in GROUPS[group]) * (_HIGH - _LOW))
        for group, number in sites
    }


def _n_weights(source: Source, role: str, number: int | None) -> int:
    matrix = source.matrix(role, number)
    return 0 if matrix is None else matrix.shape[0] * matrix.shape[1]
