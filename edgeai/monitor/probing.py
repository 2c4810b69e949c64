"""Train the probe: principal components of the hidden states, then a line, or a small network if it wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeai.monitor.learners import folds, logistic, principal, small_network
from edgeai.monitor.probe import Layer, Probe, pack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Matrices = list[tuple[Floats, Floats]]

__all__ = ["Probing", "fit_probe"]

COMPONENTS = 32
PENALTIES = (0.001, 0.01, 0.1, 1.0)
NETWORK_FROM = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """A probe with its cross-fitted logits on training and its log loss there (nats)."""

    probe: Probe
    kind: str
    cross_fitted: "Floats"
    loss: float


def fit_probe(states: "Sequence[NDArray[np.float32] | None]", y: "Bools") -> Probing | None:
    """The probe with the lowest cross-validated loss; None unless every example has a state of one width."""
    known = [state for state in states if state is not None]
    if not known or len(known) < len(states) or len({state.size for state in known}) > 1:
        return None
    x = np.stack(known).astype(float)
    kinds: list[float | None] = [*PENALTIES]
    if len(y) >= NETWORK_FROM:
        kinds.append(None)
    crossed = {c: _cross_fit(x, y, c) for c in kinds}
    best = min(kinds, key=lambda c: _loss(crossed[c], y))
    layers = tuple(
        Layer(weights=pack(weights), bias=tuple(float(value) for value in bias))
        for weights, bias in _fit(x, y, best)
    )
    return Probing(
        probe=Probe(layers=layers),
        kind="small network" if best is None else "line",
        cross_fitted=crossed[best],
        loss=_loss(crossed[best], y),
    )


def _fit(x: "Floats", y: "Bools", c: float | None) -> "Matrices":
    """Layers on the raw states: the projection is multiplied into the first one. ``c`` None: a network."""
    mean, components = principal(x, COMPONENTS)
    projected = (x - mean) @ components.T
    if c is None:
        layers = small_network(projected, y)
    else:
        weights, intercept = logistic(projected, y, c)
        layers = [(weights[None, :], np.array([intercept]))]
    first, bias = layers[0]
    whole = first @ components
    return [(whole, bias - whole @ mean), *layers[1:]]


def _cross_fit(x: "Floats", y: "Bools", c: float | None) -> "Floats":
    logits = np.empty(len(y))
    for fit_on, judge_on in folds(y):
        value = x[judge_on]
        layers = _fit(x[fit_on], y[fit_on], c)
        for weights, bias in layers[:-1]:
            value = np.tanh(value @ weights.T + bias)
        weights, bias = layers[-1]
        logits[judge_on] = (value @ weights.T + bias)[:, 0]
    return logits


def _loss(logits: "Floats", y: "Bools") -> float:
    return float(np.mean(np.logaddexp(0, np.where(y, -logits, logits))))
