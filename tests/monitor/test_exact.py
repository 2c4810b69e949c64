"""The exact tests against closed forms, scipy and simulation, and the tables of labels needed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgeai.monitor.exact import (
    betting_p,
    binomial_p,
    labels_as_good,
    labels_for_power,
    labels_without_error,
    upper_bound,
)


@given(st.integers(0, 60), st.integers(1, 400), st.floats(0.01, 0.3))
def test_the_bound_is_scipys(errors: int, n: int, delta: float) -> None:
    """Clopper–Pearson's upper end is the one that scipy gives; without errors it is 1 − δ^(1/n)."""
    errors = min(errors, n)
    expected = stats.binomtest(errors, n).proportion_ci(1 - 2 * delta, "exact").high
    assert upper_bound(errors, n, delta) == pytest.approx(expected, abs=1e-9)
    assert upper_bound(0, n, delta) == pytest.approx(1 - delta ** (1 / n))


@given(st.integers(0, 40), st.integers(1, 300), st.floats(0.02, 0.5), st.floats(0.01, 0.3))
def test_the_bound_and_the_p_value_are_one_test(errors: int, n: int, alpha: float, delta: float) -> None:
    """The bound is below α exactly where the p-value is below δ."""
    errors = min(errors, n)
    p, bound = float(binomial_p(errors, n, alpha)), float(upper_bound(errors, n, delta))
    if abs(p - delta) > 1e-6:
        assert (p <= delta) == (bound <= alpha)


@given(st.integers(1, 300), st.floats(0.01, 0.5))
def test_a_clean_record(n: int, alpha: float) -> None:
    """Without errors the p-value is (1 − α)^n; with nothing kept it is 1."""
    assert binomial_p(0, n, alpha) == pytest.approx((1 - alpha) ** n)
    assert binomial_p(0, 0, alpha) == 1


@given(st.integers(1, 200), st.integers(0, 100), st.floats(0.01, 0.5))
def test_an_error_more_is_never_better(n: int, errors: int, alpha: float) -> None:
    """P-values and bounds only grow with the number of errors."""
    errors = min(errors, n - 1)
    assert binomial_p(errors + 1, n, alpha) >= binomial_p(errors, n, alpha)
    assert upper_bound(errors + 1, n, 0.1) >= upper_bound(errors, n, 0.1)


def test_labels_without_error() -> None:
    """The published numbers, δ = .05: the sequence at .7 δ, the preset levels at .3 δ / 6, one test at δ."""
    bounds = (0.01, 0.02, 0.05, 0.10, 0.20)
    assert [labels_without_error(bound, 0.035) for bound in bounds] == [334, 166, 66, 32, 16]
    assert [labels_without_error(bound, 0.0025) for bound in bounds] == [597, 297, 117, 57, 27]
    assert [labels_without_error(bound, 0.05) for bound in bounds] == [299, 149, 59, 29, 14]


@pytest.mark.parametrize(("bound", "published"), [(0.05, (105, 285, 875)), (0.10, (55, 140, 390))])
def test_labels_for_power(bound: float, published: tuple[int, ...]) -> None:
    """80 % power at a true risk of .25, .5 and .7 α, δ = .1, as published on a coarse grid of sizes."""
    for share, expected in zip((0.25, 0.5, 0.7), published, strict=True):
        found = labels_for_power(bound, share * bound, 0.1)
        assert found is not None
        assert expected * 0.9 <= found <= expected
        most = stats.binom.ppf(0.1, found, bound)
        most -= stats.binom.cdf(most, found, bound) > 0.1
        assert stats.binom.cdf(most, found, share * bound) >= 0.8


def test_no_number_of_labels_is_enough() -> None:
    """A risk at the bound, or one that differs by nothing, cannot be told from it."""
    assert labels_for_power(0.05, 0.05, 0.1) is None
    assert labels_for_power(0.05, 0.05 - 1e-6, 0.1) is None


def test_labels_until_as_good() -> None:
    """On queries where device and cloud are equal, a promise nearer to 1 needs more."""
    needed = [labels_as_good(share, 0.1) for share in (0.8, 0.9, 0.95)]
    assert needed == sorted(needed)
    assert needed[0] > 5
    assert 40 < needed[2] < 60  # ln(10) / ln(1.05) = 47 at the largest stake


@pytest.mark.parametrize("mean", [0.5, 1 / 1.95, 0.8])
@pytest.mark.parametrize("shape", ["coin", "uniform", "rare"])
def test_the_betting_p_value_is_valid(mean: float, shape: str) -> None:
    """Where the expectation is exactly the bound, p ≤ t happens in t of the samples at most."""
    random = np.random.default_rng(3)
    n, runs = 150, 4000
    if shape == "coin":
        x = (random.random((runs, n)) < mean).astype(float)
    elif shape == "uniform":
        x = np.clip(random.uniform(-1, 1, (runs, n)) * min(mean, 1 - mean) + mean, 0, 1)
    else:  # mostly a little below, rarely far above: the hard case for tests that trust the variance
        rare = (1 - mean) / 0.02 * 0.02
        x = np.where(random.random((runs, n)) < 0.02, min(1.0, mean + rare), 0.0)
        x = np.where(x > 0, x, (mean - 0.02 * min(1.0, mean + rare)) / 0.98)
    p = betting_p(x, mean, 0.1)
    for t in (0.01, 0.05, 0.1, 0.2):
        assert np.mean(p <= t) <= t + 3 * np.sqrt(t * (1 - t) / runs)


def test_the_betting_p_value_has_power() -> None:
    """Values well below the bound are found out, more surely with more of them."""
    random = np.random.default_rng(4)
    x = random.random((500, 300)) * 0.8  # mean .4 against .5
    assert np.mean(betting_p(x, 0.5, 0.1) <= 0.1) > 0.99
    assert np.median(betting_p(x[:, :60], 0.5, 0.1)) > np.median(betting_p(x, 0.5, 0.1))


def test_the_betting_p_value_of_nothing() -> None:
    """No data, no evidence."""
    assert betting_p(np.zeros((3, 0)), 0.5, 0.1) == pytest.approx(np.ones(3))
