"""Which promise to make about a task: the tightest one that training shows to be clearly feasible.

The rule looks at the training split only, at its cross-fitted scores. Each promise of the menu, the tightest
first, is certified on resamples of the training split, as many labels each as calibration has; the first one
that passes in nearly all of them, with a share of kept answers worth having, is the one. No label that then
certifies has been seen, so that its test is as good as one of a promise that was fixed beforehand.
"""

from dataclasses import dataclass

import numpy as np

from edgeai.monitor.certify import plan
from edgeai.monitor.certify import test as run_test
from edgeai.monitor.outcomes import Outcomes
from edgeai.monitor.promise import Promise

__all__ = ["MENU", "Tried", "tightest", "tried"]

MENU = (
    "error<=0.05@0.9", "error<=0.1@0.9", "error<=0.15@0.9", "error<=0.2@0.9", "error<=0.25@0.9",
    "error<=0.3@0.9", "overall-error<=0.05@0.9", "overall-error<=0.1@0.9", "overall-error<=0.15@0.9",
    "overall-error<=0.2@0.9",
)  # fmt: skip
"""Promises about the kept answers first, which say more; then those about all queries."""
RESAMPLES = 300
PASSES, LEAST_KEPT = 0.95, 0.2
"""Clearly feasible: in how many of the resamples at least how many answers stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A promise in training: the share of resamples that certify `LEAST_KEPT`, and their mean coverage."""

    promise: Promise
    passes: float
    coverage: float


def tightest(train: Outcomes, n: int) -> Tried | None:
    """The first of the menu that is clearly feasible with ``n`` calibration labels, if any is."""
    found = (tried(Promise.parse(text), train, n) for text in MENU)
    return next((one for one in found if one.passes >= PASSES), None)


def tried(promise: Promise, train: Outcomes, n: int) -> Tried:
    """How the promise fares in resamples of the training split of ``n`` labels each."""
    made, random = plan(promise, train, n), np.random.default_rng(5)
    kept = []
    for _ in range(RESAMPLES):
        held = train.take(random.integers(0, len(train), n))
        found = run_test(made, held)
        threshold = made.grid[found.place] if found else 2.0
        kept.append(float((held.scores >= threshold).mean()))
    return Tried(
        promise=promise,
        passes=float(np.mean(np.array(kept) >= LEAST_KEPT)),
        coverage=float(np.mean(kept)),
    )
