"""Weights as GGUF's blocks of 32: packs what `edgeai.converters.blocks` unpacks."""

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import Blocks, Bytes
from edgeai.converters.decoder import Floats
from edgeai.converters.quantize import BLOCK

__all__ = ["PACKERS", "block_format", "taken"]

_CARRIED = {"Q4_0": "Q4_0", "Q4_1": "Q4_1", "U4": "Q4_1"}
"""What 4-bit matrices become, by their kind; a whole zero point is a minimum, rounded to a half."""


def block_format(kinds: Collection[str], n_columns: int) -> str:
    """The format of a tensor that stacks matrices of these kinds: four bits stay, else Q8_0, or F16."""
    if n_columns % BLOCK:
        return "F16"
    found = {_CARRIED.get(kind, "Q8_0") for kind in kinds}
    return found.pop() if len(found) == 1 else "Q8_0"


def taken(rows: Blocks | Floats, order: NDArray[np.intp]) -> Blocks | Floats:
    """The rows in another order."""
    if not isinstance(rows, Blocks):
        return rows[order]
    codes, scale, offset = rows.codes[order], rows.scale[order], rows.offset[order]
    return Blocks(codes=codes, scale=scale, offset=offset, bits=rows.bits, zero=rows.zero)


def _four(rows: Blocks | Floats) -> Blocks:
    if not isinstance(rows, Blocks) or rows.bits != 4 or rows.codes.shape[-1] != BLOCK:
        raise TypeError("only four-bit blocks of 32 can be written this way")
    return rows


def _halves(values: Floats) -> Bytes:
    """Numbers as two bytes each: (rows, blocks) to (rows, blocks, 2)."""
    return np.ascontiguousarray(values.astype(np.float16)[..., None]).view(np.uint8)


def _nibbles(codes: Bytes) -> Bytes:
    """The first half of a block in the low halves of its bytes."""
    return codes[..., : BLOCK // 2] | (codes[..., BLOCK // 2 :] << np.uint8(4))


def _q4_0(rows: Blocks | Floats) -> Bytes:
    blocks = _four(rows)
    return np.concatenate([_halves(blocks.scale), _nibbles(blocks.codes)], axis=-1)


def _q4_1(rows: Blocks | Floats) -> Bytes:
    blocks = _four(rows)
    parts = [_halves(blocks.scale), _halves(blocks.offset), _nibbles(blocks.codes)]
    return np.concatenate(parts, axis=-1)


def _q8_0(rows: Blocks | Floats) -> Bytes:
    """Carried over where they are such blocks, else rounded to nearest."""
    if isinstance(rows, Blocks) and rows.zero == 128 and rows.codes.shape[-1] == BLOCK:
        return np.concatenate([_halves(rows.scale), rows.codes ^ np.uint8(0x80)], axis=-1)
    values = rows.floats() if isinstance(rows, Blocks) else rows
    values = values.reshape(len(values), -1, BLOCK)
    scale = (np.abs(values).max(axis=-1) / 127).astype(np.float16).astype(np.float32)
    steps = np.where(scale == 0, 1, scale)[..., None]
    codes = np.clip(np.rint(values / steps), -127, 127).astype(np.int8)
    return np.concatenate([_halves(scale), codes.view(np.uint8)], axis=-1)


PACKERS: dict[str, Callable[[Blocks | Floats], Bytes]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q8_0": _q8_0}
"""From rows to bytes (rows, blocks, bytes), by GGUF's name of the format."""
