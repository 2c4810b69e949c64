"""Packing weights for MatMulNBits: what is exact, and how large the error is where it is not."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeai.converters.blocks import Blocks, unpack
from edgeai.converters.quantize import Format, Loss, Losses, pack, to_int4, to_int4_offset, to_int8
from edgeai.errors import ModelCorrupt
from tests.converters.test_blocks import random_bytes

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Memory:
    """A matrix in memory."""

    values: Floats
    kind: str = "F32"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.values.shape[0], self.values.shape[1]

    def rows(self, start: int, stop: int) -> Floats:
        """Some rows."""
        return self.values[start:stop]


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q8_0"])
def test_symmetric_blocks_fit_8_bits_exactly(kind: str) -> None:
    """The weights are the same numbers, with the same scales."""
    blocks = unpack(kind, random_bytes(kind))
    packed = to_int8(blocks)
    np.testing.assert_array_equal(packed.floats(blocks.codes[0].size), blocks.floats())
    np.testing.assert_array_equal(packed.scale, blocks.scale)


def test_q4_0_is_carried_in_4_bits_bit_for_bit() -> None:
    """Codes and scales are the file's own, only the order of the nibbles changes."""
    blocks = unpack("Q4_0", random_bytes("Q4_0"))
    packed = to_int4(blocks)
    assert packed.bits == 4
    np.testing.assert_array_equal(packed.floats(128), blocks.floats())


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K"])
def test_4_bits_with_offset_carry_every_4_bit_format(kind: str) -> None:
    """Up to the rounding of one float addition."""
    blocks = unpack(kind, random_bytes(kind))
    packed = to_int4_offset(blocks)
    np.testing.assert_allclose(packed.floats(blocks.codes[0].size), blocks.floats(), atol=2e-6)


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1.0), st.floats(-3.0, 3.0), st.sampled_from([4, 5]))
def test_an_offset_moves_a_block_as_a_whole_and_little(
    seed: int, step: float, ratio: float, bits: int
) -> None:
    """Differences inside a block stay; the shift is at most half of the 8 bit grid's coarsest step."""
    random = np.random.default_rng(seed)
    top = (1 << bits) - 1
    scale = np.full((2, 3), step, np.float32)
    offset = (-step * top / 2 * (1 + ratio / 3) * random.uniform(0.5, 1.5, (2, 3))).astype(np.float32)
    blocks = Blocks(
        codes=random.integers(0, top + 1, (2, 3, 32), np.uint8),
        scale=scale,
        offset=offset,
        bits=bits,
        zero=None,
    )
    error = (to_int8(blocks).floats(96) - blocks.floats()).reshape(2, 3, 32)
    reach = np.abs(blocks.floats()).reshape(2, 3, 32).max(axis=-1).max()
    assert np.abs(error).max() <= max(reach, step * top) / 100 + 1e-6


def test_blocks_without_a_step_keep_their_value() -> None:
    """A scale of zero leaves the offset alone: a constant block."""
    offset = np.array([[0.25, 0.0, -3.0]], np.float32)
    flat = Blocks(
        codes=np.full((1, 3, 32), 7, np.uint8),
        scale=np.zeros((1, 3), np.float32),
        offset=offset,
        bits=4,
        zero=None,
    )
    np.testing.assert_allclose(to_int8(flat).floats(96), flat.floats(), rtol=1e-6)


@pytest.mark.parametrize(("target", "most"), [("int8", 0.006), ("int4", 0.1)])
def test_floats_are_rounded_with_a_known_loss(target: Format, most: float) -> None:
    """Normal weights lose the share of their size that the number of bits implies, and it is counted."""
    values = np.random.default_rng(1).normal(0, 0.02, (64, 96)).astype(np.float32)
    loss = Loss("F32", target)
    packed = pack(Memory(values), target, loss)
    error = np.abs(packed.floats(96) - values)
    assert 0 < loss.relative_rms < most
    assert loss.max_abs == pytest.approx(error.max())
    assert loss.mean_abs == pytest.approx(error.mean(), rel=1e-4)
    assert loss.n_weights == values.size
    assert loss.n_bytes == packed.data.nbytes + packed.scale.nbytes


def test_rows_that_are_no_multiple_of_a_block_are_filled_up() -> None:
    """The filling is zero and is not part of the weights."""
    values = np.random.default_rng(2).normal(0, 1, (5, 40)).astype(np.float32)
    packed = to_int8(values)
    assert packed.data.shape == (5, 2, 32)
    assert set(packed.data[:, 1, 8:].ravel().tolist()) == {128}
    np.testing.assert_allclose(packed.floats(40), values, atol=0.02)


def test_weights_that_are_no_numbers_are_refused() -> None:
    """A damaged scale must not become a model that answers nonsense."""
    values = np.ones((4, 32), np.float32)
    values[2, 3] = np.nan
    with pytest.raises(ModelCorrupt, match="not numbers"), np.errstate(invalid="ignore"):
        pack(Memory(values), "int8", Loss("F32", "int8"))


def test_losses_are_reported_by_role_and_format() -> None:
    """One row of plain numbers each."""
    losses = Losses()
    pack(Memory(np.eye(32, dtype=np.float32)), "int8", losses.of("q", "F32", "int8"))
    pack(Memory(np.eye(32, dtype=np.float32)), "int8", losses.of("q", "F32", "int8"))
    (row,) = losses.report()
    assert (row["tensors"], row["source"], row["target"], row["weights"]) == ("q", "F32", "int8", 2048)
