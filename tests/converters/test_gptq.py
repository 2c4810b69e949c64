"""Rounding that makes up for its errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeai.converters.gptq import Grid, hessian, quantize
from edgeai.converters.quantize import to_int4_zero

GRIDS: tuple[Grid, ...] = ("symmetric", "zero", "minimum")
Floats = NDArray[np.float32]


def data(seed: int, n_columns: int = 64) -> tuple[Floats, Floats]:
    """Weights, and inputs that depend on one another, as those of a language model do."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(n_columns, n_columns)) * np.exp(-np.arange(n_columns) / 12)
    inputs = random.normal(size=(400, n_columns)) @ mixing.T
    weights = random.normal(size=(24, n_columns))
    return weights.astype(np.float32), inputs.astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS)
def test_outputs_are_closer_than_by_rounding_to_the_nearest(grid: Grid) -> None:
    """On inputs that depend on one another GPTQ's outputs err by less than two thirds."""
    weights, inputs = data(1)
    blocks = quantize(weights, hessian(inputs), grid)
    step = np.repeat(blocks.scale, 32, axis=1)
    low = np.repeat(blocks.offset, 32, axis=1)
    nearest = np.clip(np.rint((weights - low) / step), 0, 15) * step + low
    wrong = [np.square((found - weights) @ inputs.T).mean() for found in (blocks.floats(), nearest)]
    assert wrong[0] < 0.66 * wrong[1]


@given(seed=st.integers(0, 1000), grid=st.sampled_from(GRIDS))
def test_inputs_that_do_not_depend_on_one_another_leave_plain_rounding(seed: int, grid: Grid) -> None:
    """Where no column can make up for another, each weight goes to its nearest level."""
    weights, _ = data(seed)
    blocks = quantize(weights, np.eye(64), grid)
    step, low = (np.repeat(part, 32, axis=1) for part in (blocks.scale, blocks.offset))
    nearest = np.clip(np.rint((weights - low) / step), 0, 15)
    np.testing.assert_array_equal(blocks.codes.reshape(24, 64), nearest)


@given(seed=st.integers(0, 1000), grid=st.sampled_from(GRIDS))
def test_blocks_are_what_the_formats_hold(seed: int, grid: Grid) -> None:
    """Codes have four bits, scales are half-precision numbers, and offsets are those of the grid."""
    weights, inputs = data(seed)
    blocks = quantize(weights, hessian(inputs), grid)
    assert blocks.codes.max() <= 15
    assert (blocks.scale == blocks.scale.astype(np.float16)).all()
    if grid == "symmetric":
        np.testing.assert_array_equal(blocks.offset, -8 * blocks.scale)
    if grid == "minimum":
        assert (blocks.offset == blocks.offset.astype(np.float16)).all()
    if grid == "zero":
        packed = to_int4_zero(blocks)
        np.testing.assert_allclose(packed.floats(64), blocks.floats(), atol=1e-6)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    """Dead columns, even all of them, give finite numbers."""
    weights, inputs = data(3)
    inputs[:, 5:20] = 0
    for curvature in (hessian(inputs), np.zeros((64, 64))):
        assert np.isfinite(quantize(weights, curvature, "zero").floats()).all()
