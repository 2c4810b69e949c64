"""Scales that are undone elsewhere: nothing changes in floats, and rounding hurts less."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeai.converters import gptq
from edgeai.converters.awq import best_scale
from edgeai.converters.divergence import compare
from edgeai.converters.dynamic import lower, sites_to_lower
from edgeai.converters.linear import floats
from edgeai.converters.onnx_package import export, open_source
from edgeai.converters.rounding import round_model
from edgeai.converters.running import running
from edgeai.converters.scaling import GROUPS, fold, tied
from edgeai.converters.tuned import Tuned
from tests.converters.folders import CONFIGS, write_hf

Floats = NDArray[np.float32]
IDS = [5, 40, 71, 12, 200, 9, 33, 150, 8, 99, 100, 101]
TOKENS = np.random.default_rng(0).integers(3, 250, (2, 48))


def test_scaled_models_compute_the_same_and_rounded_ones_nearly(tmp_path: Path) -> None:
    """Every architecture, all groups of a layer scaled; then in the number formats that calibration makes."""
    for kind in CONFIGS:
        place = tmp_path / kind.replace(" ", "-")
        place.mkdir()
        source = open_source(write_hf(place / "m", kind))
        scaled = Tuned(source=source)
        random = np.random.default_rng(1)
        for group, roles in GROUPS.items():
            matrix = scaled.matrix(roles[0], 1)
            assert matrix is not None
            sizes = np.exp(random.normal(0, 1, matrix.shape[1])).astype(np.float32)
            fold(scaled, group, 1, tied(source.decoder, group, sizes))
        export(source, place / "f32", quant="f32")
        export(scaled, place / "scaled", quant="f32")
        export(source, place / "f16", quant="f16")
        export(round_model(source, TOKENS, method="awq"), place / "awq")
        export(lower(source, TOKENS, budget=50.0), place / "dynamic")
        bounds = {"scaled": 1e-6, "f16": 1e-5, "awq": 0.3, "dynamic": 0.02}
        for name, most in bounds.items():
            with running(place / "f32", n_ctx=64) as one, running(place / name, n_ctx=64) as other:
                assert compare(one, other, [IDS]).kl_mean < most, (kind, name)


def test_all_that_is_scaled_is_different(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    source = open_source(write_hf(tmp_path / "m", "qwen2"))
    scaled = Tuned(source=source)
    for group, roles in GROUPS.items():
        matrix = source.matrix(roles[0], 0)
        assert matrix is not None
        fold(scaled, group, 0, np.full(matrix.shape[1], 2, np.float32))
    changed = {"q": 2, "k": 2, "v": 1, "o": 2, "gate": 2, "up": 1, "down": 2}
    for role, factor in changed.items():  # v and up are doubled for their inputs, and halved for the next
        before, after = source.matrix(role, 0), scaled.matrix(role, 0)
        assert before is not None
        assert after is not None
        np.testing.assert_allclose(floats(after), floats(before) * factor, rtol=1e-6)
    for role in ("attn_norm", "ffn_norm", "v_bias"):
        ours, theirs = scaled.vector(role, 0), source.vector(role, 0)
        assert ours is not None
        assert theirs is not None
        np.testing.assert_allclose(ours, theirs / 2)


def test_heads_that_share_a_value_get_one_scale(tmp_path: Path) -> None:
    """The inputs of ``o`` come from value heads, of which there are fewer."""
    decoder = open_source(write_hf(tmp_path / "m", "llama")).decoder
    sizes = np.arange(1, 65, dtype=np.float32)
    heads = tied(decoder, "o", sizes).reshape(2, 2, 16)
    np.testing.assert_array_equal(heads[:, 0], heads[:, 1])
    np.testing.assert_allclose(heads[0, 0], (sizes[:16] + sizes[16:32]) / 2)
    np.testing.assert_array_equal(tied(decoder, "down", sizes), sizes)


def outliers(seed: int) -> tuple[Floats, NDArray[np.float64]]:
    """Weights, and the curvature of inputs of which a few are large, as in language models."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(300, 64)).astype(np.float32)
    inputs[:, random.choice(64, 4, replace=False)] *= 30
    return random.normal(size=(48, 64)).astype(np.float32), gptq.hessian(inputs)


def loss(weights: Floats, curvature: NDArray[np.float64], scale: Floats) -> float:
    """The square error of the outputs."""
    found = gptq.nearest(weights * scale, np.diag(curvature) / scale**2, "zero").floats() / scale
    return float(np.vdot((found - weights) @ curvature, found - weights))


@pytest.mark.parametrize("seed", range(3))
def test_a_searched_scale_helps_where_inputs_differ(seed: int) -> None:
    """Against levels that know the inputs already, by a third and more; and never harms."""
    weights, curvature = outliers(seed)
    scale = best_scale(weights, curvature, "zero", lambda sizes: sizes)
    plain = loss(weights, curvature, np.ones(64, np.float32))
    assert loss(weights, curvature, scale) < 0.67 * plain
    level = np.eye(64) * 7.0
    np.testing.assert_array_equal(best_scale(weights, level, "zero", lambda sizes: sizes), 1)


def test_a_scale_is_finite_where_inputs_are_dead() -> None:
    """Inputs that are always zero, even all of them."""
    weights, curvature = outliers(5)
    curvature[7:30] = curvature[:, 7:30] = 0
    for found in (curvature, np.zeros((64, 64))):
        scale = best_scale(weights, found, "zero", partial(np.asarray, dtype=np.float32))
        assert np.isfinite(scale).all()
        assert (scale > 0).all()


def test_as_many_sites_are_lowered_as_the_budget_bears() -> None:
    """The cheapest first; none that would go beyond it."""
    price = {("qkv", 0): 0.1, ("o", 0): 0.2, ("down", 0): 5.0}
    assert sites_to_lower(price, 0.05) == frozenset()
    assert sites_to_lower(price, 0.31) == {("qkv", 0), ("o", 0)}
    assert sites_to_lower(price, 6) == set(price)
