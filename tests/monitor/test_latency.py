"""The time model: it learns its own formula, and its quantiles cover."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.monitor import CloudTimes, TimeModel
from edgeai.monitor.latency import GUESSED_CLOUD_S, LeastSquares, conformal_quantile


def device_s(n_in: int, n_out: int, noise: float = 1.0) -> tuple[float, float]:
    """A machine that follows the formula: 2 ms a prompt token, 8 ms a token, slower with a longer past."""
    prefill = 0.02 + 0.002 * n_in + 1e-7 * n_in**2
    decode = n_out * (0.008 + 2e-6 * (n_in + n_out / 2))
    return prefill * noise, decode * noise


def trained(noise: float, n: int = 60, seed: int = 7) -> TimeModel:
    model, chance = TimeModel(), random.Random(seed)
    for _ in range(n):
        n_in, n_out = chance.randint(20, 1500), chance.randint(5, 300)
        prefill_s, decode_s = device_s(n_in, n_out, 1 + noise * chance.uniform(-1, 1))
        model.observe(n_in=n_in, n_out=n_out, prefill_s=prefill_s, decode_s=decode_s)
    return model


def test_an_unmeasured_device_is_unknown() -> None:
    """No prediction before the first answer."""
    assert TimeModel().total_s(n_in=10, max_tokens=10) is None
    assert TimeModel().remaining_s(n_in=10, n_done=1, max_tokens=10) is None


def test_it_learns_the_formula() -> None:
    """On a machine without noise the median prediction is right within 2 %."""
    model = trained(noise=0.0)
    left = model.remaining_s(n_in=400, n_done=100, max_tokens=101, quantile=0.5)
    assert left == pytest.approx(0.008 + 2e-6 * 500, rel=0.05)
    whole = model.total_s(n_in=400, max_tokens=5, quantile=0.5)
    assert whole == pytest.approx(sum(device_s(400, 5)), rel=0.02)


def test_the_upper_prediction_covers_nine_in_ten() -> None:
    """The 90 % prediction, scaled by the conformal ratio, holds for about 90 % of later answers."""
    model, chance = trained(noise=0.3, n=200), random.Random(8)
    held = 0
    for _ in range(400):
        n_in = chance.randint(20, 1500)
        bound = model.total_s(n_in=n_in, max_tokens=40)
        assert bound is not None
        held += sum(device_s(n_in, 40, 1 + 0.3 * chance.uniform(-1, 1))) <= bound
    assert 0.84 <= held / 400 <= 0.97


def test_it_forgets() -> None:
    """After the machine became twice as slow, predictions follow within some fifty answers."""
    model, chance = trained(noise=0.0), random.Random(9)
    for _ in range(100):
        n_in, n_out = chance.randint(20, 1500), chance.randint(5, 300)
        prefill_s, decode_s = device_s(n_in, n_out, 2.0)
        model.observe(n_in=n_in, n_out=n_out, prefill_s=prefill_s, decode_s=decode_s)
    slow = model.total_s(n_in=400, max_tokens=5, quantile=0.5)
    assert slow is not None
    assert slow > 1.5 * sum(device_s(400, 5))


def test_the_cloud_is_guessed_until_it_was_measured() -> None:
    """Three seconds before five answers, then what was seen."""
    times = CloudTimes()
    assert times.total_s() == GUESSED_CLOUD_S
    for _ in range(5):
        times.observe(0.7)
    assert times.total_s() == 0.7


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.05, 0.99))
def test_a_conformal_quantile_is_a_seen_value(values: list[float], quantile: float) -> None:
    """It is one of the values, and at least this share of them is not above it."""
    found = conformal_quantile(values, quantile)
    assert found in values
    assert sum(value <= found for value in values) >= min(quantile * len(values), len(values))


def test_least_squares_finds_the_plane() -> None:
    """Three coefficients from exact data, in any order."""
    fit, chance = LeastSquares(3), random.Random(1)
    for _ in range(50):
        x = (1.0, chance.random(), chance.random())
        fit.observe(x, 1 + 2 * x[1] + 3 * x[2])
    assert fit.weights == pytest.approx([1, 2, 3], abs=1e-3)
