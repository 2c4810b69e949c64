"""The features of an answer, against their definitions."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.monitor import Features, Monitor, TimeModel
from edgeai.monitor.signals import QUANTILES, WINDOW
from edgeai.testing import fake_token
from edgeai.types import Token

probabilities = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60)


def features_of(values: list[float]) -> dict[str, float | None]:
    features = Features()
    for number, value in enumerate(values):
        features.observe(fake_token("x", value, number=number))
    return features.snapshot()


@given(probabilities)
def test_quantiles_and_sums_are_numpys(values: list[float]) -> None:
    """Quantiles, mean, sum and the share below one half are what numpy computes at the end."""
    logprobs = np.log(values)
    found = features_of(values)
    for q in QUANTILES:
        assert found[f"logprob_q{round(q * 100)}"] == pytest.approx(np.quantile(logprobs, q), abs=1e-9)
    assert found["sum_logprob"] == pytest.approx(logprobs.sum())
    assert found["mean_logprob"] == pytest.approx(logprobs.mean())
    assert found["share_below_half"] == pytest.approx((np.array(values) < 0.5).mean())
    assert found["log_length"] == pytest.approx(math.log(len(values)))


@given(probabilities)
def test_the_lowest_window_is_the_lowest_moving_mean(values: list[float]) -> None:
    """The worst ten tokens in a row, None before there are ten."""
    logprobs = np.log(values)
    means = [logprobs[i : i + WINDOW].mean() for i in range(len(values) - WINDOW + 1)]
    expected = min(means) if means else None
    assert features_of(values)["lowest_window_logprob"] == pytest.approx(expected, abs=1e-9)


def test_repetition_lowers_distinct_trigrams() -> None:
    """A loop of two tokens has few different trigrams."""
    features = Features()
    for number in range(30):
        features.observe(fake_token("x", 0.9, number=number % 2))
    assert features.snapshot()["distinct_3"] == pytest.approx(2 / 28)


def test_nothing_seen_is_unknown() -> None:
    """Before the first token every feature is None, never zero."""
    assert set(Features().snapshot().values()) == {None}


@given(probabilities)
def test_the_score_only_falls(values: list[float]) -> None:
    """A threshold that is passed once stays passed, so that judging may happen mid-stream."""
    monitor = Monitor(TimeModel(), max_tokens=99)
    scores = [monitor.observe(fake_token("x", value)).score for value in values]
    assert all(a is not None and b is not None and a >= b for a, b in pairwise(scores))
    assert scores[-1] == pytest.approx(min(values))


def test_a_finished_answer_has_its_features() -> None:
    """The last signals hold the snapshot; an answer without tokens has no score."""
    monitor = Monitor(None, max_tokens=99)
    assert monitor.finish("stop").score is None
    monitor.observe(fake_token("x", 0.5))
    done = monitor.finish("length", cut_off=True)
    assert (done.finished, done.cut_off, done.n_tokens) == ("length", True, 1)
    assert done.features["first_logprob"] == pytest.approx(math.log(0.5))


def test_the_engines_time_counts_not_the_readers() -> None:
    """Elapsed time is made of the tokens' own times, so that a slow reader does not look slow."""
    monitor = Monitor(None, max_tokens=99)
    monitor.first_s = 0.5
    for _ in range(3):
        token = Token(id=1, text="x", logprob=-0.1, entropy=0.1, margin=0.8, step_s=0.01)
        signals = monitor.observe(token)
    assert signals.elapsed_s == pytest.approx(0.52)
