"""The exact tests that contracts rest on, and how many labels they need. The one module that needs scipy.

Every p-value here is valid at any sample size: under its hypothesis P(p ≤ t) ≤ t.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from edgeai.errors import MissingExtra

try:
    from scipy import stats
except ImportError as error:
    raise MissingExtra("Certifying needs scipy", extra="calibrate", why=str(error)) from error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "betting_p",
    "binomial_p",
    "labels_as_good",
    "labels_for_power",
    "labels_without_error",
    "upper_bound",
]

MAX_LABELS = 200_000
_BET_CAP = 0.95  # of the largest stake that cannot lose everything; lower caps cost coverage here


def upper_bound(errors: "ArrayLike", n: "ArrayLike", delta: float) -> "Floats":
    """The Clopper–Pearson upper bound of a rate at confidence 1 − δ, 1 where all were errors."""
    e, total = np.asarray(errors, float), np.asarray(n, float)
    bound = stats.beta.ppf(1 - delta, e + 1, np.maximum(total - e, 1e-12))
    return np.asarray(np.where(e >= total, 1.0, bound), float)


def binomial_p(errors: "ArrayLike", kept: "ArrayLike", alpha: float) -> "Floats":
    """P(Bin(kept, α) ≤ errors): the p-value of "the risk among the kept is α or more", 1 if none was kept."""
    return np.asarray(stats.binom.cdf(np.asarray(errors), np.asarray(kept), alpha), float)


def betting_p(x: "Floats", mean: float, delta: float) -> "Floats":
    """The p-value of "the expectation is ``mean`` or more" for values in [0, 1], along the last axis.

    Waudby-Smith and Ramdas 2024: a gambler who bets on lower values with their predictable plug-in stakes
    (tuned for level δ) multiplies the capital beyond 1/p with probability p at most (Ville).
    """
    n = x.shape[-1]
    if n == 0:
        return np.ones(x.shape[:-1])
    seen = np.arange(1, n + 1)
    average = (0.5 + np.cumsum(x, axis=-1)) / (seen + 1)
    variance = (0.25 + np.cumsum((x - average) ** 2, axis=-1)) / (seen + 1)
    before = np.concatenate([np.full((*x.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)
    stake = np.minimum(np.sqrt(2 * math.log(1 / delta) / (n * before)), _BET_CAP / (1 - mean))
    capital = np.cumsum(np.log1p(stake * (mean - x)), axis=-1).max(axis=-1)
    return np.asarray(np.exp(-np.maximum(capital, 0.0)), float)


def labels_without_error(bound: float, level: float) -> int:
    """The least number of kept answers, none of them wrong, that proves the ``bound`` at ``level``."""
    return math.ceil(math.log(level) / math.log1p(-bound) - 1e-9)


def labels_as_good(share: float, delta: float) -> int:
    """Queries on which the device equals a cloud that is always right, until ``quality>=share`` is proved."""
    n = 1
    while n <= MAX_LABELS and betting_p(np.full(n, share / (1 + share)), 1 / (1 + share), delta) > delta:
        n = max(n + 1, n * 21 // 20)
    return n


def labels_for_power(bound: float, risk: float, level: float, power: float = 0.8) -> int | None:
    """The least number of kept answers with which one binomial test proves ``risk`` < ``bound`` so often.

    The power moves in a saw-tooth with the number of labels; this is the first tooth that reaches it. None if
    the risk is not below the bound, or more than 200,000 labels would be needed.
    """
    if risk >= bound:
        return None
    high = 16
    while high <= MAX_LABELS:
        enough = np.flatnonzero(_power(np.arange(1, high + 1), bound, risk, level) >= power)
        if len(enough):
            return int(enough[0]) + 1
        high *= 4
    return None


def _power(n: "NDArray[np.int_]", bound: float, risk: float, level: float) -> "Floats":
    most = stats.binom.ppf(level, n, bound)  # the largest count that may still fail the test
    most = np.where(stats.binom.cdf(most, n, bound) > level, most - 1, most)
    return np.asarray(np.where(most < 0, 0.0, stats.binom.cdf(most, n, risk)), float)
