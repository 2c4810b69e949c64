"""From source blocks or floats to the packed weights of ONNX Runtime's MatMulNBits, with the error counted.

What the source's grid allows is carried over bit for bit; the rest goes to 8 bit on a scale that keeps the
source's steps on the grid; 4 bit rounding happens only on request.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Floats, Matrix
from edgeai.errors import ModelCorrupt

BLOCK = 32
"""Weights that share a scale."""

Format = Literal["int4", "int4+zero", "int4+offset", "int8"]
"""``int4+zero`` is 4 bit with a whole number as each block's zero point, as fast as ``int4``; ``int4+offset``
is 4 bit plus one float for each block, which multiplies the block's sum of inputs."""

_CHUNK = 1 << 22  # weights at a time: bounds the memory for floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Weights as MatMulNBits takes them: ``data`` (rows, blocks, bytes), ``scale`` (rows, blocks).

    The weight is ``scale * (code - zero) + offset``; ``zero`` is ``2 ** (bits - 1)`` unless given.
    """

    bits: int
    data: NDArray[np.uint8]
    scale: Floats
    offset: Floats | None = None
    zero: NDArray[np.uint8] | None = None

    def floats(self, n_columns: int) -> Floats:
        """The weights as floats."""
        codes = _unpack_nibbles(self.data) if self.bits == 4 else self.data
        zero = 1 << (self.bits - 1) if self.zero is None else self.zero[..., None].astype(np.float32)
        values = (codes.astype(np.float32) - zero) * self.scale[..., None]
        if self.offset is not None:
            values += self.offset[..., None]
        return values.reshape(len(self.data), -1)[:, :n_columns]


@dataclass(slots=True)
class Loss:
    """What packing did to all tensors of one role: errors of the weights, sizes before and after."""

    source: str
    target: str
    n_weights: int = 0
    n_bytes: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    sum_squares: float = 0.0
    sum_weight_squares: float = 0.0

    @property
    def mean_abs(self) -> float:
        """Mean absolute error of a weight."""
        return self.sum_abs / max(self.n_weights, 1)

    @property
    def relative_rms(self) -> float:
        """Root mean square error over the root mean square weight."""
        return float(np.sqrt(self.sum_squares / self.sum_weight_squares)) if self.sum_weight_squares else 0.0

    def count(self, before: Floats, after: Floats) -> None:
        """Add the errors of a piece."""
        error = np.abs(after - before)
        self.n_weights += before.size
        self.max_abs = max(self.max_abs, float(error.max(initial=0.0)))
        self.sum_abs += float(error.sum(dtype=np.float64))
        self.sum_squares += float(np.vdot(error, error))
        self.sum_weight_squares += float(np.vdot(before, before))


@dataclass(slots=True)
class Losses:
    """All losses of a conversion, by role, source format and target format."""

    entries: dict[tuple[str, str, str], Loss] = field(default_factory=dict)

    def of(self, role: str, source: str, target: str) -> Loss:
        """The entry to count into."""
        return self.entries.setdefault((role, source, target), Loss(source, target))

    def report(self) -> list[dict[str, str | int | float]]:
        """One row for each role and format, ready for JSON."""
        return [
            {
                "tensors": role,
                "source": loss.source,
                "target": loss.target,
                "weights": loss.n_weights,
                "bytes": loss.n_bytes,
                "max_abs_error": loss.max_abs,
                "mean_abs_error": loss.mean_abs,
                "relative_rms_error": loss.relative_rms,
            }
            for (role, _, _), loss in sorted(self.entries.items())
        ]


def pieces(matrix: Matrix) -> Iterator[tuple[Blocks | Floats, Floats]]:
    """The matrix some rows at a time, as it is and as floats. Raises ModelCorrupt for what is no number."""
    n_rows, n_columns = matrix.shape
    step = max(1, _CHUNK // n_columns)
    for start in range(0, n_rows, step):
        rows = matrix.rows(start, min(start + step, n_rows))
        values = rows.floats() if isinstance(rows, Blocks) else rows
        if not np.isfinite(values).all():
            raise ModelCorrupt("The model has weights that are not numbers", remedy="Fetch it again")
        yield rows, values


def pack(matrix: Matrix, target: Format, loss: Loss) -> Packed:
    """Read the matrix piece by piece, pack it and count the error."""
    parts = []
    for rows, before in pieces(matrix):
        part = _PACKERS[target](rows)
        loss.count(before, part.floats(matrix.shape[1]))
        parts.append(part)
    packed = join(parts)
    loss.n_bytes += n_bytes(packed)
    return packed


def n_bytes(packed: Packed) -> int:
    """Bytes in the package."""
    zeros = 0 if packed.zero is None else packed.data.shape[0] * -(-packed.data.shape[1] // 2)
    offsets = 0 if packed.offset is None else packed.offset.nbytes
    return packed.data.nbytes + packed.scale.nbytes + zeros + offsets


def join(pieces: list[Packed]) -> Packed:
    """Stack rows; all pieces have the same format."""
    if len(pieces) == 1:
        return pieces[0]
    offsets = [piece.offset for piece in pieces if piece.offset is not None]
    zeros = [piece.zero for piece in pieces if piece.zero is not None]
    return Packed(
        bits=pieces[0].bits,
        data=np.concatenate([piece.data for piece in pieces]),
        scale=np.concatenate([piece.scale for piece in pieces]),
        offset=np.concatenate(offsets) if offsets else None,
        zero=np.concatenate(zeros) if zeros else None,
    )


def pack_zeros(zero: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Zero points of a row two to a byte, as MatMulNBits takes them: (rows, blocks) to (rows, bytes)."""
    gap = zero.shape[1] % 2
    return _pack_nibbles(np.pad(zero, ((0, 0), (0, gap))) if gap else zero)


def to_int8(rows: Blocks | Floats) -> Packed:
    """Eight bits: exact for symmetric blocks of 32, the finest fitting scale for blocks with an offset."""
    if isinstance(rows, Blocks) and rows.codes.shape[-1] == BLOCK:
        return _carry8(rows) if rows.zero is not None else _fine8(rows)
    return _round8(rows.floats() if isinstance(rows, Blocks) else rows)


def to_int4(rows: Blocks | Floats) -> Packed:
    """Four bits: exact for Q4_0, rounded to nearest with a searched scale for everything else."""
    if isinstance(rows, Blocks):
        if rows.zero == 8 and rows.bits == 4:
            return Packed(bits=4, data=_pack_nibbles(rows.codes), scale=rows.scale)
        return _round4(rows.floats())
    return _round4(rows)


def to_int4_zero(rows: Blocks | Floats) -> Packed:
    """Four bits with zero points: exact where the zero points are whole numbers already, else rounded."""
    if isinstance(rows, Blocks) and rows.bits == 4 and rows.codes.shape[-1] == BLOCK:
        zero = np.rint(-rows.offset / np.where(rows.scale == 0, 1, rows.scale))
        if ((zero >= 0) & (zero <= 15)).all() and np.allclose(-zero * rows.scale, rows.offset):
            codes, scale = _pack_nibbles(rows.codes), rows.scale
            return Packed(bits=4, data=codes, scale=scale, zero=zero.astype(np.uint8))
    return _round4_zero(rows.floats() if isinstance(rows, Blocks) else rows)


def to_int4_offset(rows: Blocks | Floats) -> Packed:
    """Four bits and an offset for each block: exact for every 4 bit format in blocks of 32."""
    if not isinstance(rows, Blocks) or rows.bits != 4:
        raise TypeError("only 4 bit blocks can be carried this way")
    offset = rows.offset + 8 * rows.scale
    return Packed(bits=4, data=_pack_nibbles(rows.codes), scale=rows.scale, offset=offset)


def _carry8(rows: Blocks) -> Packed:
    assert rows.zero is not None
    return Packed(bits=8, data=rows.codes + np.uint8(128 - rows.zero), scale=rows.scale)


def _fine8(rows: Blocks) -> Packed:
    """``step * code + offset`` on a symmetric 8 bit grid whose scale is ``step`` divided by a whole number.

    All differences between codes stay exact; of the whole numbers that fit the one is taken that puts the
    offset nearest to the grid. Blocks where none fits (a huge offset, a zero step) are rounded.
    """
    step, offset, top = rows.scale, rows.offset, (1 << rows.bits) - 1
    best = np.full(step.shape, np.inf, np.float32)
    parts = np.zeros(step.shape, np.float32)
    shift = np.zeros(step.shape, np.float32)
    safe = np.where(step == 0, 1, step)
    for n in range(1, 255 // top + 1):
        whole = np.rint(n * offset / safe)
        error = np.abs(whole * safe / n - offset)
        fits = (whole >= -128) & (whole + n * top <= 127) & (step != 0)
        better = fits & (error < best)
        best, parts, shift = (np.where(better, a, b) for a, b in ((error, best), (n, parts), (whole, shift)))
    lost = parts == 0
    codes = rows.codes * parts[..., None].astype(np.int16) + (shift[..., None].astype(np.int16) + 128)
    packed = Packed(bits=8, data=codes.astype(np.uint8), scale=np.asarray(step / np.maximum(parts, 1)))
    return _patch(packed, rows, lost) if lost.any() else packed


def _patch(packed: Packed, rows: Blocks, lost: NDArray[np.bool_]) -> Packed:
    """Round the blocks in ``lost`` to the nearest."""
    values = rows.codes[lost] * rows.scale[lost][:, None] + rows.offset[lost][:, None]
    rounded = _round8(values.astype(np.float32))
    packed.data[lost], packed.scale[lost] = rounded.data[:, 0], rounded.scale[:, 0]
    return packed


def _in_blocks(rows: Floats) -> Floats:
    """Rows cut into blocks, padded with zeros: (rows, blocks, BLOCK)."""
    gap = -rows.shape[1] % BLOCK
    padded = np.pad(rows, ((0, 0), (0, gap))) if gap else rows
    return padded.reshape(len(rows), -1, BLOCK)


def _round8(rows: Floats) -> Packed:
    values = _in_blocks(rows)
    scale = np.abs(values).max(axis=-1) / np.float32(127)
    codes = np.rint(values / np.where(scale == 0, 1, scale)[..., None]) + 128
    return Packed(bits=8, data=codes.astype(np.uint8), scale=scale)


def _round4(rows: Floats) -> Packed:
    """The scale puts the largest weight near -8; of some candidates the one with the least square error."""
    values = _in_blocks(rows)
    peak = np.take_along_axis(values, np.abs(values).argmax(axis=-1, keepdims=True), axis=-1)
    best = np.full(peak.shape, np.inf, np.float32)
    scale = np.zeros_like(peak)
    for reach in np.linspace(6.6, 8.8, 9, dtype=np.float32):
        trial = peak / -reach
        error = np.square(_codes4(values, trial) * trial - values).sum(axis=-1, keepdims=True)
        scale, best = np.where(error < best, trial, scale), np.minimum(error, best)
    codes = (_codes4(values, scale) + 8).astype(np.uint8)
    return Packed(bits=4, data=_pack_nibbles(codes), scale=scale[..., 0])


def _round4_zero(rows: Floats) -> Packed:
    """The range of each block from its least weight to its largest, with zero in it, in 15 steps."""
    values = _in_blocks(rows)
    low, high = np.minimum(values.min(axis=-1), 0), np.maximum(values.max(axis=-1), 0)
    scale = np.where(high == low, 1, (high - low) / 15).astype(np.float32)
    zero = np.clip(np.rint(-low / scale), 0, 15)
    codes = np.clip(np.rint(values / scale[..., None]) + zero[..., None], 0, 15).astype(np.uint8)
    return Packed(bits=4, data=_pack_nibbles(codes), scale=scale, zero=zero.astype(np.uint8))


def _codes4(values: Floats, scale: Floats) -> Floats:
    return np.clip(np.rint(values / np.where(scale == 0, 1, scale)), -8, 7)


def _pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Neighbours share a byte, the first one in its low half."""
    return codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))


def _unpack_nibbles(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([data & 0x0F, data >> 4], axis=-1).reshape(*data.shape[:-1], -1)


_PACKERS = {"int4": to_int4, "int4+zero": to_int4_zero, "int4+offset": to_int4_offset, "int8": to_int8}
