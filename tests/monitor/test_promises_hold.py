"""Real answers, 500 calibrations each: a certified promise is broken in δ of them at most.

The score is fitted on one half of a task's recorded answers; calibration sets are drawn with replacement from
the other half, which is the population whose risk is judged. Beside it stands the naive threshold, the lowest
one whose empirical error is within the bound.
"""

from collections.abc import Mapping
from functools import cache
from typing import Literal

import numpy as np
import pytest

from edgeai.monitor.certify import Plan, plan
from edgeai.monitor.certify import test as run_test
from edgeai.monitor.fitting import fit_score
from edgeai.monitor.outcomes import Outcomes, outcomes
from edgeai.monitor.promise import Promise
from edgeai.monitor.stages import Pipeline
from tests.monitor.recorded import TASKS, recorded

RESPLITS = 500
N = 200
PROMISES = ("error<=0.2@0.9", "overall-error<=0.1@0.9", "quality>=0.95@0.9", "disagreement<=0.3@0.9")


@cache
def halves(task: str, device: Literal["full", "weaker"]) -> tuple[Outcomes, Outcomes]:
    """Training with cross-fitted scores, and the population, under a score fitted on training."""
    rows = recorded(task, device=device)
    fitted = fit_score(rows[:N], only=("p", "p+label", "p-mass", "p-mass+label", "label-core+label"))
    return outcomes(rows[:N], fitted.cross_fitted), outcomes(rows[N:], Pipeline(score=fitted.score))


def keeps_promise(promise: Promise, data: Outcomes, threshold: float) -> bool:
    """Whether the promise is true of these queries, or nothing is kept."""
    kept = data.scores >= threshold
    if promise.kind == "quality":
        assert data.weak is not None
        assert data.strong is not None
        hybrid = np.where(kept, data.weak, data.strong)
        return bool(hybrid.mean() >= promise.bound * data.strong.mean() - 1e-12)
    bad = data.differs if promise.kind == "disagreement" else data.wrong
    assert bad is not None
    n = len(data) if promise.kind == "overall-error" else max(1, kept.sum())
    return bool((bad & kept).sum() <= promise.bound * n + 1e-9)


def naive(made: Plan, data: Outcomes) -> float:
    """The lowest threshold with which the calibration set itself keeps the promise."""
    fitting = [value for value in made.grid if keeps_promise(made.promise, data, value)]
    return min(fitting, default=2.0)


def resample(made: Plan, population: Outcomes) -> Mapping[str, float]:
    random = np.random.default_rng(7)
    broken = tricked = 0
    coverage = []
    for _ in range(RESPLITS):
        held = population.take(random.integers(0, len(population), N))
        found = run_test(made, held)
        threshold = made.grid[found.place] if found else 2.0
        broken += not keeps_promise(made.promise, population, threshold)
        tricked += not keeps_promise(made.promise, population, naive(made, held))
        coverage.append(float((population.scores >= threshold).mean()))
    return {"broken": broken / RESPLITS, "naive": tricked / RESPLITS, "coverage": float(np.mean(coverage))}


@pytest.mark.parametrize("text", PROMISES)
def test_certified_promises_hold_and_naive_ones_do_not(text: str) -> None:
    """On every task it is broken in at most δ of the calibrations, plus three standard errors.

    The naive threshold breaks it in more than δ of them, on average over the tasks.
    """
    promise = Promise.parse(text)
    delta, naive_rates = promise.delta, []
    for task in TASKS:
        relative = promise.kind in ("quality", "disagreement")
        train, population = halves(task, "weaker" if relative else "full")
        found = resample(plan(promise, train, N), population)
        print(task, promise, {name: round(value, 3) for name, value in found.items()})  # noqa: T201
        naive_rates.append(found["naive"])
        assert found["broken"] <= delta + 3 * np.sqrt(delta * (1 - delta) / RESPLITS), task
    assert np.mean(naive_rates) > delta
