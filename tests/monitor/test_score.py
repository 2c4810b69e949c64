"""The fitted score at run time: nothing unknown looks safe, and the probe is what it says."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.monitor.examples import Observation
from edgeai.monitor.hidden import HiddenStates
from edgeai.monitor.probe import Layer, Probe, pack, unpack
from edgeai.monitor.score import PROBE, Category, Column, Score, sigmoid

weights = st.floats(-5, 5)
values = st.none() | st.floats(-1e6, 1e6)


def column(name: str, weight: float) -> Column:
    return Column(name=name, mean=0.5, scale=2.0, low=-3.0, high=4.0, weight=weight)


@given(weights, weights, values, values, st.sampled_from(["a", "b", None, "new"]))
def test_the_unknown_is_never_confident(
    w1: float, w2: float, v1: float | None, v2: float | None, label: str | None
) -> None:
    """Taking a feature or the label away never raises the score."""
    score = Score(
        name="s", intercept=0.3, columns=(column("x", w1), column("y", w2)),
        categories=(Category(name="label", weights={"a": w1, "b": w2}),),
    )  # fmt: skip
    full = score(Observation(features={"x": v1, "y": v2}, categories={"label": label}))
    less = score(Observation(features={"x": None, "y": v2}, categories={"label": label}))
    none = score(Observation(features={"x": v1, "y": v2}, categories={"label": None}))
    assert full is None or less is None or less <= full
    assert full is None or none is None or none <= full
    assert score(Observation(features={})) is None


def test_it_is_a_logistic_model() -> None:
    """Inside the range of training it is the sigmoid of the weighted standard scores."""
    score = Score(name="s", intercept=0.2, columns=(column("x", 1.5),))
    assert score(Observation(features={"x": 2.5})) == pytest.approx(1 / (1 + math.exp(-(0.2 + 1.5 * 1.0))))
    assert score(Observation(features={"x": 1e9})) == score(Observation(features={"x": 4.0}))
    assert score(Observation(features={"x": math.nan})) == score(Observation(features={"x": -3.0}))


def test_the_sigmoid_does_not_overflow() -> None:
    """From never to always."""
    assert [sigmoid(x) for x in (-1e4, 0, 1e4)] == [0, 0.5, 1]


@given(st.floats(0, 1), st.floats(0, 1))
def test_confidence_follows_the_steps(a: float, b: float) -> None:
    """It is a monotone function of the score: the step at or below it, the first one before all."""
    score = Score(name="s", intercept=0, columns=(), curve=((0.2, 0.1), (0.5, 0.6), (0.9, 0.95)))
    low, high = (score.confidence(value) or 0 for value in sorted((a, b)))
    assert low <= high
    assert [score.confidence(x) for x in (0.0, 0.2, 0.5, 0.89, 0.9)] == [0.1, 0.1, 0.6, 0.6, 0.95]
    assert score.confidence(None) is None
    assert Score(name="s", intercept=0, columns=()).confidence(a) == a


def test_the_probe_is_its_layers() -> None:
    """W2·tanh(W1·x + b1) + b2, as numpy computes it; a vector of another model gives None."""
    random = np.random.default_rng(0)
    w1, b1, w2 = random.normal(size=(3, 5)), random.normal(size=3), random.normal(size=(1, 3))
    probe = Probe(layers=(Layer(weights=pack(w1), bias=tuple(b1)), Layer(weights=pack(w2), bias=(0.25,))))
    x = random.normal(size=5).astype(np.float32)
    assert probe.logit(x) == pytest.approx(float((w2 @ np.tanh(w1 @ x + b1))[0] + 0.25), rel=1e-5)
    assert probe.logit(x[:4]) is None
    assert probe.logit(None) is None
    assert probe.logit(x * np.float32(np.nan)) is None


def test_a_score_with_a_probe_asks_for_the_state() -> None:
    """The logit of the probe is one of the features; without a state it is missing, thus least confident."""
    probe = Probe(layers=(Layer(weights=pack(np.ones((1, 2))), bias=(0.0,)),))
    score = Score(name="s", intercept=0, columns=(column(PROBE, 1.0), column("x", 1.0)), probe=probe)
    assert score.needs_hidden
    with_state = score(Observation(features={"x": 1.0}, hidden=np.array([1, 1], np.float32)))
    without = score(Observation(features={"x": 1.0}))
    assert with_state is not None
    assert without is not None
    assert without < with_state


def test_packing_keeps_float32() -> None:
    """Any float32 array comes back bit for bit; other bytes and infinities are a ValueError."""
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    assert (unpack(pack(x)).reshape(4, 3) == x).all()
    for bad in ("%", "AAA=", pack(np.array([np.inf]))):
        with pytest.raises(ValueError, match=r"\w"):
            unpack(bad)


def test_hidden_states_are_averaged() -> None:
    """The prompt's state, then the running mean over the answer, without keeping its tokens."""
    states = HiddenStates()
    assert states.vector() is None
    states.prompt(np.array([1, 2], np.float32))
    assert np.array_equal(np.asarray(states.vector()), [1, 2, 1, 2])
    rows = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    for row in rows:
        states.observe(row)
    found = states.vector()
    assert found is not None
    assert found[2:] == pytest.approx(rows.mean(axis=0), abs=1e-5)
