"""Weights that others packed as whole numbers into words of 32 bits, with scales and zero points by group."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import Blocks, Bytes
from edgeai.converters.decoder import Floats
from edgeai.converters.quantize import BLOCK
from edgeai.converters.safetensors_file import StoredMatrix

__all__ = ["PackedMatrix", "Words"]

_SYMMETRIC = {4: "Q4_0", 8: "Q8_0"}
_BLOCKS = {*_SYMMETRIC.values(), "U4", "U8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Codes of ``bits`` bits: ``raw`` has a row for each output and a column for each input (or group),

    but neighbours ``along`` one of the two share a word. The neighbour i is at ``places[i]`` in the word.
    """

    raw: NDArray[Any]
    bits: int
    along: Literal["outputs", "inputs"]
    places: tuple[int, ...]

    def rows(self, start: int, stop: int) -> Bytes:
        """The codes of the outputs ``start`` to ``stop``: (outputs, inputs), padding included."""
        per = len(self.places)
        if self.along == "inputs":
            return self._codes(self.raw[start:stop]).reshape(stop - start, -1)
        first = start // per
        codes = self._codes(self.raw[first : -(-stop // per)])
        whole = codes.swapaxes(1, 2).reshape(-1, self.raw.shape[1])
        return whole[start - first * per : stop - first * per]

    def _codes(self, words: NDArray[Any]) -> Bytes:
        shifts = np.array(self.places, np.uint32) * np.uint32(self.bits)
        plain = np.ascontiguousarray(words).view(np.uint32)
        return ((plain[..., None] >> shifts) & np.uint32((1 << self.bits) - 1)).astype(np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMatrix:
    """A `Matrix` whose weight is ``scale * (code - zero)``; read piece by piece, as blocks where they fit.

    ``scales`` and ``zeros`` are (outputs, groups); ``zeros`` None means the middle of the range; ``shift`` is
    added to them, modulo the range. ``groups`` has each input's group.
    """

    shape: tuple[int, int]
    codes: Words
    scales: StoredMatrix
    zeros: Words | None
    shift: int
    groups: NDArray[np.intp]
    kind: str = ""
    first: int = 0

    def named(self) -> "PackedMatrix":
        """The same with its ``kind``: as GGUF's blocks are called where these are such blocks.

        With whole zero points blocks are called U4 or U8.
        """
        bits = self.codes.bits
        if not self._in_blocks:
            return replace(self, kind=f"{bits} bits in groups")
        return replace(self, kind=_SYMMETRIC[bits] if self.symmetric else f"U{bits}")

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are the middle of the range."""
        middle = 1 << (self.codes.bits - 1)
        return self.zeros is None or bool((self.zero_points(0, self.shape[0]) == middle).all())

    @property
    def size(self) -> int:
        """Weights."""
        return self.shape[0] * self.shape[1]

    @property
    def n_bytes(self) -> int:
        """Bytes in the file."""
        zeros = 0 if self.zeros is None else self.zeros.raw.nbytes
        return int(self.codes.raw.nbytes + self.scales.raw.nbytes + zeros)

    def part(self, rows: slice) -> "PackedMatrix":
        """Some of its rows, as a matrix."""
        start, stop, _ = rows.indices(self.shape[0])
        return replace(self, shape=(stop - start, self.shape[1]), first=self.first + start)

    def zero_points(self, start: int, stop: int) -> Bytes:
        """The zero points of the outputs ``start`` to ``stop``: (outputs, groups)."""
        top, bits = (1 << self.codes.bits) - 1, self.codes.bits
        if self.zeros is None:
            return np.full((stop - start, self.scales.shape[1]), 1 << (bits - 1), np.uint8)
        found = self.zeros.rows(self.first + start, self.first + stop)[:, : self.scales.shape[1]]
        return ((found.astype(np.int16) + self.shift) & top).astype(np.uint8)

    def rows(self, start: int, stop: int) -> Blocks | Floats:
        """Rows ``start`` to ``stop``."""
        part = slice(self.first + start, self.first + stop)
        codes = self.codes.rows(part.start, part.stop)[:, : self.shape[1]]
        scale, zero = self.scales.floats(part), self.zero_points(start, stop)
        if self.kind not in _BLOCKS:
            values = codes.astype(np.float32) - zero[:, self.groups]
            return np.asarray(values * scale[:, self.groups], np.float32)
        groups, bits = self.groups[::BLOCK], self.codes.bits
        scale, zero = scale[:, groups], zero[:, groups]
        symmetric = self.kind in _SYMMETRIC.values()
        return Blocks(
            codes=codes.reshape(len(codes), -1, BLOCK),
            scale=scale,
            offset=-zero.astype(np.float32) * scale,
            bits=bits,
            zero=1 << (bits - 1) if symmetric else None,
        )

    @property
    def _in_blocks(self) -> bool:
        """Whether every 32 neighbours are one group's."""
        if self.codes.bits not in _SYMMETRIC or self.shape[1] % BLOCK:
            return False
        blocks = self.groups.reshape(-1, BLOCK)
        return bool((blocks == blocks[:, :1]).all())
