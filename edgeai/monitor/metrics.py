"""How good a score is: ranking, calibration, and what escalating by it buys. Needs numpy only.

``scores``: higher is safer. ``right``: whether the device's answer is right. ``weak`` and ``strong`` are the
qualities of device and cloud from 0 to 1. A metric that does not exist for the data is None.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "Pairs",
    "apgr",
    "auprc_wrong",
    "aurc",
    "auroc",
    "bootstrap",
    "brier",
    "coverage_at_risk",
    "cpt",
    "deferral",
    "ece",
    "pairs",
    "risk_coverage",
]

RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)


def auroc(scores: "ArrayLike", right: "ArrayLike") -> float | None:
    """The probability that a right answer scores above a wrong one, ties counting half."""
    s, good = np.asarray(scores, float), np.asarray(right, bool)
    n_good = int(good.sum())
    n_bad = len(good) - n_good
    if not n_good or not n_bad:
        return None
    _, place, count = np.unique(s, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    return float((ranks[good].sum() - n_good * (n_good + 1) / 2) / (n_good * n_bad))


def auprc_wrong(scores: "ArrayLike", right: "ArrayLike") -> float | None:
    """Average precision of finding the wrong answers by their low scores."""
    s, bad = np.asarray(scores, float), ~np.asarray(right, bool)
    if not bad.any():
        return None
    _, place = np.unique(s, return_inverse=True)
    hits = np.cumsum(np.bincount(place, bad))
    seen = np.cumsum(np.bincount(place))
    return float(np.sum(np.diff(hits, prepend=0) * hits / seen) / bad.sum())


def brier(confidence: "ArrayLike", right: "ArrayLike") -> float:
    """The mean squared difference between confidence and outcome."""
    return float(np.mean((np.asarray(confidence, float) - np.asarray(right, float)) ** 2))


def ece(confidence: "ArrayLike", right: "ArrayLike", bins: int = 10) -> float:
    """The expected calibration error over bins of equal mass."""
    p, good = np.asarray(confidence, float), np.asarray(right, float)
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return float(sum(len(part) * abs(p[part].mean() - good[part].mean()) for part in parts) / len(p))


def risk_coverage(scores: "ArrayLike", right: "ArrayLike") -> "tuple[Floats, Floats]":
    """Coverages and the risks among the kept, for each threshold that the scores allow, from high to low."""
    s, bad = np.asarray(scores, float), ~np.asarray(right, bool)
    _, place = np.unique(-s, return_inverse=True)
    kept = np.cumsum(np.bincount(place))
    return kept / len(s), np.cumsum(np.bincount(place, bad)) / kept


def aurc(scores: "ArrayLike", right: "ArrayLike") -> float:
    """The mean risk over all coverages 1/n … 1; within a tie the expected risk of a random order."""
    s, bad = np.asarray(scores, float), ~np.asarray(right, bool)
    _, place = np.unique(-s, return_inverse=True)
    size, wrong = np.bincount(place), np.bincount(place, bad)
    expected = np.repeat(wrong / size, size)
    return float(np.mean(np.cumsum(expected) / np.arange(1, len(s) + 1)))


def coverage_at_risk(scores: "ArrayLike", right: "ArrayLike", risk: float) -> float:
    """The largest share that can be kept with at most this empirical risk; not certified."""
    coverage, risks = risk_coverage(scores, right)
    return float(np.max(coverage, initial=0.0, where=risks <= risk + 1e-12))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Who is right, as shares of the queries. W: device, S: cloud. PGR and APGR depend on these."""

    n: int
    W: float
    S: float
    only_s: float
    only_w: float
    neither: float

    def __str__(self) -> str:
        return (
            f"n={self.n} W={self.W:.3f} S={self.S:.3f} only-S={self.only_s:.3f} "
            f"only-W={self.only_w:.3f} neither={self.neither:.3f}"
        )


def pairs(weak: "ArrayLike", strong: "ArrayLike", good: float = 0.5) -> Pairs:
    """Count who is right; a quality of ``good`` or more counts as right."""
    w, s = np.asarray(weak, float), np.asarray(strong, float)
    a, b = w >= good, s >= good
    return Pairs(
        n=len(w), W=float(w.mean()), S=float(s.mean()), only_s=float((b & ~a).mean()),
        only_w=float((a & ~b).mean()), neither=float((~a & ~b).mean()),
    )  # fmt: skip


def deferral(scores: "ArrayLike", weak: "ArrayLike", strong: "ArrayLike") -> "tuple[Floats, Floats]":
    """Escalation rates 0 … 1 and the quality of the hybrid that escalates the lowest scores first.

    Queries with equal scores escalate in a random order, of which this is the expectation.
    """
    s, w, c = (np.asarray(values, float) for values in (scores, weak, strong))
    _, place = np.unique(s, return_inverse=True)
    size = np.bincount(place)
    gain = np.repeat(np.bincount(place, c - w) / size, size)
    quality = (w.sum() + np.concatenate([[0.0], np.cumsum(gain)])) / len(s)
    return np.asarray(np.arange(len(s) + 1) / len(s), float), np.asarray(quality, float)


def apgr(
    scores: "ArrayLike", weak: "ArrayLike", strong: "ArrayLike", *, bins: int | None = None
) -> float | None:
    """The mean share of the gap between device and cloud that is recovered, over all escalation rates.

    Exact (the trapezium rule on the whole curve), or with ``bins=10`` RouteLLM's: ten quantile bins.
    None where the cloud is no better than the device.
    """
    rates, gaps = _pgr(scores, weak, strong, bins)
    return None if gaps is None else float(np.trapezoid(gaps, rates))


def cpt(
    scores: "ArrayLike", weak: "ArrayLike", strong: "ArrayLike", share: float, *, bins: int | None = None
) -> float | None:
    """The least escalation rate, in percent, that recovers this share of the gap; ``bins`` as in `apgr`.

    The binned form interpolates between its points, as RouteLLM does.
    """
    rates, gaps = _pgr(scores, weak, strong, bins)
    if gaps is None:
        return None
    first = int(np.argmax(gaps >= share - 1e-12))
    if bins is None or first == 0:
        return float(100 * rates[first])
    low, high = gaps[first - 1], gaps[first]
    return float(100 * (rates[first - 1] + (share - low) / (high - low) * (rates[first] - rates[first - 1])))


def _pgr(
    scores: "ArrayLike", weak: "ArrayLike", strong: "ArrayLike", bins: int | None
) -> "tuple[Floats, Floats | None]":
    rates, quality = deferral(scores, weak, strong)
    gap = quality[-1] - quality[0]
    if gap <= 0:
        return rates, None
    recovered = (quality - quality[0]) / gap
    if bins is None:
        return rates, recovered
    points = np.linspace(0, 1, bins + 1)
    return points, np.asarray(recovered[np.rint(points * (len(rates) - 1)).astype(int)], float)


def oracle(weak: "ArrayLike", strong: "ArrayLike") -> "Floats":
    """Scores that escalate the largest gains first: the best any score can do."""
    difference: Floats = np.asarray(weak, float) - np.asarray(strong, float)
    return difference


def random_scores(n: int, seed: int = 0) -> "Floats":
    """Scores that know nothing."""
    return np.random.default_rng(seed).random(n)


def bootstrap(
    statistic: "Callable[[NDArray[np.intp]], float | None]",
    n: int, *, resamples: int = 1000, level: float = 0.95, seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """The percentile interval of a statistic of row numbers; paired when it compares scores on equal rows."""
    random = np.random.default_rng(seed)
    found = [statistic(random.integers(0, n, n)) for _ in range(resamples)]
    values = [value for value in found if value is not None]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summary(scores: "ArrayLike", right: "ArrayLike") -> Mapping[str, float | None]:
    """The metrics that need no cloud, by name."""
    return {
        "auroc": auroc(scores, right),
        "auprc_wrong": auprc_wrong(scores, right),
        "aurc": aurc(scores, right),
        **{f"coverage_at_{risk:g}": coverage_at_risk(scores, right, risk) for risk in RISKS},
    }
