"""Fewer bits by calibration on ordinary text: what `quant` means where weights alone do not tell how."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import tokenizers

from edgeai.converters.decoder import Source
from edgeai.converters.dynamic import lower
from edgeai.converters.gptq import Grid
from edgeai.converters.graph import Progress
from edgeai.converters.halfway import Halfway
from edgeai.converters.layers import Tokens
from edgeai.converters.mixing import mix, weight_bytes
from edgeai.converters.rounding import Method
from edgeai.converters.running import cores
from edgeai.converters.texts import calibration_text
from edgeai.converters.tuned import Tuned
from edgeai.errors import ConfigError, ModelUnsupported

__all__ = ["CALIBRATED", "calibration_tokens", "fewer_bits"]

_METHODS: Final[Mapping[str, Method]] = {
    "awq": "awq",
    "gptq": "gptq",
    "awq_gptq": "awq+gptq",
    "mixed": "awq+gptq",
}
CALIBRATED: Final = ("int8_dynamic", *_METHODS)
"""Eight bits with rounded inputs where they cost little; all layers in four bits by scaled inputs, by GPTQ,
or by both; and by both with eight bits back where they buy most."""

_WINDOW: Final = 512
_WINDOWS: Final = 16
_MORE: Final = 1.08
_GRAPH_BYTES: Final = 700_000  # the graph itself, norms, and gaps up to the next page


def fewer_bits(
    source: Source,
    quant: str,
    *,
    max_context: int,
    size: int | None = None,
    grid: Grid = "zero",
    progress: Progress,
    halfway: Halfway | None = None,
) -> Tuned:
    """The source with its layers in fewer bits. ``size``: bytes of the whole package, of "mixed" only.

    ``grid``: where the levels of the four bits lie. ``halfway`` keeps the layers that are done.

    Takes about a minute for each 100 million parameters and core. Raises ConfigError for a size that cannot
    be, ModelUnsupported where the tokenizer makes too little of the text for calibration.
    """
    if size is not None and quant != "mixed":
        raise ConfigError(f"{quant} has one size only", remedy='Use quant="mixed" with a size')
    tokens = calibration_tokens(source)
    if quant == "int8_dynamic":
        return lower(source, tokens, n_threads=cores(), progress=progress, halfway=halfway)
    room = None
    if quant == "mixed":
        room = round(weight_bytes(source) * _MORE) if size is None else size - _overhead(source, max_context)
    return mix(
        source,
        tokens,
        method=_METHODS[quant],
        size=room,
        grid=grid,
        n_threads=cores(),
        progress=progress,
        halfway=halfway,
    )


def calibration_tokens(source: Source) -> Tokens:
    """Windows of the text that quantizers may look at, shape (16, 512), or fewer."""
    tokenizer = tokenizers.Tokenizer.from_str(source.tokenizer().json)
    length = min(_WINDOW, source.decoder.max_positions)
    ids = tokenizer.encode(calibration_text()[: _WINDOWS * _WINDOW * 12], add_special_tokens=False).ids
    n_windows = min(_WINDOWS, len(ids) // length)
    if not n_windows:
        raise ModelUnsupported("The text for calibration is too short", why=f"It has {len(ids)} tokens")
    return np.array(ids[: n_windows * length], np.int64).reshape(n_windows, length)


def _overhead(source: Source, max_context: int) -> int:
    """Bytes of a package that are not matrices."""
    decoder = source.decoder
    positions = min(decoder.max_positions, max_context)
    tables = sum(positions * rope.dim * 4 for rope in set(decoder.ropes))
    return tables + len(source.tokenizer().json.encode()) + _GRAPH_BYTES
