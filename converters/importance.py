"""Importance matrices: how large each input of each matrix is on ordinary text, for llama.cpp's quantizers.

A quantizer that knows them keeps small the errors that are multiplied with large inputs. The inputs are read
from the model's layers in floats, one after the other.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.decoder import Decoder, Floats, Source
from edgeai.converters.fewer_bits import calibration_tokens
from edgeai.converters.layers import embed, layer, normed
from edgeai.converters.running import cores

__all__ = ["importance"]

_WINDOW: Final = 256
_NAMES: Final = {
    "attn_q": "qkv",
    "attn_k": "qkv",
    "attn_v": "qkv",
    "attn_output": "o",
    "ffn_gate": "gate_up",
    "ffn_up": "gate_up",
    "ffn_down": "down",
}
_PACKED: Final = {"attn_qkv": "qkv", "attn_output": "o", "ffn_up": "gate_up", "ffn_down": "down"}
"""The tensors of phi3, which holds several matrices in one."""


def importance(
    source: Source, *, tokens: int = 4096, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Floats]:
    """By tensor of the GGUF file, the mean square of each input over ``tokens`` tokens of calibration text.

    The text shares no topic with that of proofs. One layer at a time is in memory. Raises ModelUnsupported
    for a tokenizer that makes too little of the text, and MissingExtra without ONNX Runtime.
    """
    ids = calibration_tokens(source).reshape(-1)[:tokens]
    length = min(_WINDOW, len(ids))
    states = embed(source, ids[: len(ids) // length * length].reshape(-1, length))
    found: dict[str, Floats] = {}
    for number in range(source.decoder.n_layers):
        sums: dict[str, NDArray[np.float64]] = {}
        with layer(source, number, length, cores()) as one:
            for i, window in enumerate(states):
                inputs, states[i] = one.through(window)
                for group, rows in inputs.items():
                    part = _squares(rows)
                    sums[group] = sums[group] + part if group in sums else part
        count = states.shape[0] * length
        found |= {name: (sums[group] / count).astype(np.float32) for name, group in _tensors(source, number)}
        progress(number + 1, source.decoder.n_layers)
    last = sum((_squares(normed(source, window)) for window in states), np.zeros(states.shape[-1]))
    return found | {"output.weight": (last / (states.shape[0] * length)).astype(np.float32)}


def _squares(rows: Floats) -> NDArray[np.float64]:
    return np.asarray(np.square(rows, dtype=np.float64).sum(axis=0))


def _tensors(source: Source, number: int) -> Iterator[tuple[str, str]]:
    for name, group in _names(source.decoder).items():
        yield f"blk.{number}.{name}.weight", group


def _names(decoder: Decoder) -> Mapping[str, str]:
    return _PACKED if decoder.architecture == "phi3" else _NAMES
