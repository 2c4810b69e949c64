"""Unpacking GGUF's block formats, against the gguf package's own reading."""

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeai.converters.blocks import FORMATS, unpack
from edgeai.converters.gguf_blocks import PACKERS


def random_bytes(kind: str, *, rows: int = 6, blocks: int = 4) -> NDArray[np.uint8]:
    """Blocks with random codes and sound scales, of shape (rows, bytes)."""
    form, random = FORMATS[kind], np.random.default_rng(0)
    raw = random.integers(0, 256, (rows, blocks, form.n_bytes), np.uint8)
    halves = random.normal(0, 0.05, (rows, blocks, 2)).astype(np.float16).view(np.uint8)
    if kind == "Q6_K":
        raw[..., -2:] = halves[..., :2]
    else:
        width = 4 if kind.endswith(("_1", "_K")) else 2
        raw[..., :width] = halves[..., :width]
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", FORMATS)
def test_blocks_are_read_without_loss(kind: str) -> None:
    """Every format gives exactly the numbers that the gguf package reads."""
    raw = random_bytes(kind)
    blocks = unpack(kind, raw)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(blocks.floats(), expected)
    assert int(blocks.codes.max()) < 1 << blocks.bits


@pytest.mark.parametrize("kind", FORMATS)
def test_zero_is_named_only_where_it_is_exact(kind: str) -> None:
    """``zero`` says that the offset is that multiple of the scale."""
    blocks = unpack(kind, random_bytes(kind))
    assert (blocks.zero is None) == kind.endswith(("_1", "4_K", "5_K"))
    if blocks.zero is not None:
        np.testing.assert_array_equal(blocks.offset, -blocks.zero * blocks.scale)


@pytest.mark.parametrize("kind", PACKERS)
def test_blocks_are_written_as_they_were_read(kind: str) -> None:
    """Byte for byte."""
    raw = random_bytes(kind)
    np.testing.assert_array_equal(PACKERS[kind](unpack(kind, raw)).reshape(raw.shape), raw)


def test_floats_become_eight_bits_as_others_round_them() -> None:
    """Within a hair of the gguf package's rounding, which takes the scale before it is a half."""
    values = np.random.default_rng(0).normal(0, 1, (8, 128)).astype(np.float32)
    ours = unpack("Q8_0", PACKERS["Q8_0"](values).reshape(8, -1)).floats()
    theirs = gguf.quants.dequantize(
        gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0), gguf.GGMLQuantizationType.Q8_0
    )
    assert np.abs(ours - values).max() < np.abs(theirs - values).max() * 1.05
    assert np.square(ours - values).sum() < np.square(theirs - values).sum() * 1.01
