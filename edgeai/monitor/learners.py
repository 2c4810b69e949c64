"""The learners, behind plain arrays. The one module that needs scikit-learn."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from edgeai.errors import MissingExtra

try:
    from sklearn.decomposition import PCA
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits
except ImportError as error:
    raise MissingExtra("Fitting a score needs scikit-learn", extra="calibrate", why=str(error)) from error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Rows = NDArray[np.intp]

__all__ = ["folds", "isotonic", "logistic", "one_thread", "principal", "ridge", "small_network"]

FOLDS = 5


def one_thread() -> AbstractContextManager[object]:
    """While it is open numeric libraries use one thread: on small matrices more only wait for another."""
    limits: AbstractContextManager[object] = threadpool_limits(limits=1)
    return limits


def folds(y: "Bools", seed: int = 0) -> "Iterator[tuple[Rows, Rows]]":
    """Pairs of (fit on, judge on) row numbers, five of them or as many as the rarer class allows."""
    n = max(2, min(FOLDS, int(y.sum()), int((~y).sum())))
    yield from StratifiedKFold(n, shuffle=True, random_state=seed).split(np.zeros(len(y)), y)


def logistic(x: "Floats", y: "Bools", c: float) -> "tuple[Floats, float]":
    """Weights and intercept of an L2-regularised logistic regression; ``c`` is the inverse penalty.

    Without features it is the base rate.
    """
    if not x.shape[1]:
        return np.empty(0), float(np.log(y.mean() / (1 - y.mean())))
    model = LogisticRegression(C=c, solver="newton-cholesky", max_iter=100).fit(x, y)
    return np.asarray(model.coef_[0], float), float(model.intercept_[0])


def ridge(x: "Floats", y: "Floats", penalty: float) -> "tuple[Floats, float]":
    """Weights and intercept of a ridge regression."""
    model = Ridge(alpha=penalty).fit(x, y)
    return np.asarray(model.coef_, float), float(model.intercept_)


def isotonic(scores: "Floats", y: "Bools") -> tuple[tuple[float, float], ...]:
    """The steps (score, confidence) of an isotonic regression: each holds from its score upwards."""
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, y.astype(float))
    xs, ys = model.X_thresholds_, model.y_thresholds_
    first = np.flatnonzero(np.diff(ys, prepend=-1.0) > 0)
    return tuple((float(xs[at]), float(ys[at])) for at in first)


def principal(x: "Floats", most: int) -> "tuple[Floats, Floats]":
    """Mean and components (rows, scaled so that projections have variance 1), at most ``most``."""
    n = min(most, x.shape[0] - 1, x.shape[1])
    model = PCA(n, random_state=0).fit(x)
    scale = np.sqrt(np.maximum(model.explained_variance_, 1e-12))
    return np.asarray(model.mean_, float), np.asarray(model.components_ / scale[:, None], float)


def small_network(x: "Floats", y: "Bools", width: int = 8) -> "list[tuple[Floats, Floats]]":
    """(weights, bias) of the layers of a small network with tanh between them and one logit at its end."""
    model = MLPClassifier(
        (width,), activation="tanh", solver="lbfgs", alpha=10.0, max_iter=150, max_fun=30_000, random_state=0
    ).fit(x, y)
    return [
        (np.asarray(weights.T, float), np.asarray(bias, float))
        for weights, bias in zip(model.coefs_, model.intercepts_, strict=True)
    ]
