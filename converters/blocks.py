"""Quantized weights as they lie in a GGUF file, unpacked without loss into codes, scales and offsets."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_FOUR = np.uint8(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """``weight = scale * code + offset`` in blocks along a row.

    ``codes`` has shape (rows, blocks, size), ``scale`` and ``offset`` (rows, blocks). ``bits`` bounds the
    codes. ``zero`` is set where ``offset == -zero * scale`` holds exactly.
    """

    codes: Bytes
    scale: Floats
    offset: Floats
    bits: int
    zero: int | None

    def floats(self) -> Floats:
        """The weights, of shape (rows, blocks * size)."""
        values = self.codes * self.scale[..., None] + self.offset[..., None]
        return np.asarray(values, np.float32).reshape(len(self.codes), -1)


def _half(raw: Bytes) -> Floats:
    """Two bytes as one number: shape (..., 2) to (...)."""
    return np.ascontiguousarray(raw).view(np.float16)[..., 0].astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """Low nibbles, then high nibbles: the order of GGUF's blocks of 32."""
    return np.concatenate([raw & 0x0F, raw >> 4], axis=-1)


def _fifth_bits(raw: Bytes) -> Bytes:
    return np.unpackbits(raw, axis=-1, bitorder="little") << _FOUR


def _symmetric(codes: Bytes, scale: Floats, bits: int, zero: int) -> Blocks:
    return Blocks(codes=codes, scale=scale, offset=-zero * scale, bits=bits, zero=zero)


def _affine(codes: Bytes, scale: Floats, offset: Floats, bits: int) -> Blocks:
    return Blocks(codes=codes, scale=scale, offset=offset, bits=bits, zero=None)


def _q4_0(raw: Bytes) -> Blocks:
    return _symmetric(_nibbles(raw[..., 2:]), _half(raw[..., :2]), 4, 8)


def _q4_1(raw: Bytes) -> Blocks:
    return _affine(_nibbles(raw[..., 4:]), _half(raw[..., :2]), _half(raw[..., 2:4]), 4)


def _q5_0(raw: Bytes) -> Blocks:
    codes = _nibbles(raw[..., 6:]) | _fifth_bits(raw[..., 2:6])
    return _symmetric(codes, _half(raw[..., :2]), 5, 16)


def _q5_1(raw: Bytes) -> Blocks:
    codes = _nibbles(raw[..., 8:]) | _fifth_bits(raw[..., 4:8])
    return _affine(codes, _half(raw[..., :2]), _half(raw[..., 2:4]), 5)


def _q8_0(raw: Bytes) -> Blocks:
    return _symmetric(raw[..., 2:] ^ np.uint8(0x80), _half(raw[..., :2]), 8, 128)


def _k_scales(raw: Bytes) -> tuple[Bytes, Bytes]:
    """Eight 6-bit scales and eight 6-bit minimums out of twelve bytes."""
    low, mid, high = raw[..., :4], raw[..., 4:8], raw[..., 8:12]
    scales = np.concatenate([low & 63, (high & 0x0F) | (low >> 6 << 4)], axis=-1)
    minimums = np.concatenate([mid & 63, (high >> 4) | (mid >> 6 << 4)], axis=-1)
    return scales, minimums


def _flatten(codes: Bytes, scale: Floats, offset: Floats, bits: int) -> Blocks:
    """Super-blocks (rows, super, sub, size) to blocks (rows, super * sub, size)."""
    rows, size = len(codes), codes.shape[-1]
    return _affine(codes.reshape(rows, -1, size), scale.reshape(rows, -1), offset.reshape(rows, -1), bits)


def _k_affine(raw: Bytes, codes: Bytes, bits: int) -> Blocks:
    scales, minimums = _k_scales(raw[..., 4:16])
    scale = _half(raw[..., :2])[..., None] * scales
    offset = -_half(raw[..., 2:4])[..., None] * minimums
    return _flatten(codes, scale.astype(np.float32), offset.astype(np.float32), bits)


def _k_nibbles(raw: Bytes) -> Bytes:
    """128 bytes to 8 sub-blocks of 32: each 32 bytes hold two sub-blocks, low nibbles first."""
    groups = raw.reshape(*raw.shape[:-1], 4, 1, 32)
    return np.concatenate([groups & 0x0F, groups >> 4], axis=-2).reshape(*raw.shape[:-1], 8, 32)


def _q4_k(raw: Bytes) -> Blocks:
    return _k_affine(raw, _k_nibbles(raw[..., 16:]), 4)


def _q5_k(raw: Bytes) -> Blocks:
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    high = (raw[..., None, 16:48] >> shifts) & np.uint8(1)
    return _k_affine(raw, _k_nibbles(raw[..., 48:]) | (high << _FOUR), 5)


def _q6_k(raw: Bytes) -> Blocks:
    lead = raw.shape[:-1]
    low = raw[..., :128].reshape(*lead, 2, 1, 64) >> np.array([[0], [4]], np.uint8) & np.uint8(0x0F)
    shifts = np.array([[0], [2], [4], [6]], np.uint8)
    high = (raw[..., 128:192].reshape(*lead, 2, 1, 32) >> shifts) & np.uint8(3)
    codes = (low.reshape(*lead, 2, 4, 32) | (high << _FOUR)).reshape(*lead, 16, 16)
    scale = _half(raw[..., 208:210])[..., None] * raw[..., 192:208].view(np.int8)
    rows = len(raw)
    return _symmetric(codes.reshape(rows, -1, 16), scale.astype(np.float32).reshape(rows, -1), 6, 32)


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """A GGUF block format: ``n_bytes`` hold ``n_weights``; ``unpack`` takes (rows, blocks, n_bytes)."""

    n_weights: int
    n_bytes: int
    unpack: Callable[[Bytes], Blocks]


FORMATS: dict[str, BlockFormat] = {
    "Q4_0": BlockFormat(32, 18, _q4_0),
    "Q4_1": BlockFormat(32, 20, _q4_1),
    "Q5_0": BlockFormat(32, 22, _q5_0),
    "Q5_1": BlockFormat(32, 24, _q5_1),
    "Q8_0": BlockFormat(32, 34, _q8_0),
    "Q4_K": BlockFormat(256, 144, _q4_k),
    "Q5_K": BlockFormat(256, 176, _q5_k),
    "Q6_K": BlockFormat(256, 210, _q6_k),
}
"""The quantized formats of GGUF that can be read."""


def unpack(kind: str, raw: Bytes) -> Blocks:
    """Unpack rows of bytes, of shape (rows, bytes), in the format ``kind``."""
    form = FORMATS[kind]
    return form.unpack(raw.reshape(len(raw), -1, form.n_bytes))
