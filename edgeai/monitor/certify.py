"""Contracts from labels: which threshold keeps a promise, proved by an exact test.

A plan (grid, starting point, preset levels) is made from the training split alone; the calibration split
then passes or fails it once. Procedures, with δ = 1 − confidence:

    overall-error  risk-controlling prediction set (Bates et al. 2021): Clopper–Pearson at δ. The loss only
                   grows as the threshold falls, so the walk goes on while the bound holds.
    error          fixed sequence (Learn then Test, Angelopoulos et al. 2021) of binomial tests at 0.7 δ from
                   the start to lower thresholds, and Bonferroni over six preset levels at 0.3 δ.
    disagreement   the same, with the cloud's answer as the label.
    quality        fixed sequence at δ of betting tests (Waudby-Smith and Ramdas 2024).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeai.monitor.contract import Certificate
from edgeai.monitor.exact import betting_p, binomial_p, upper_bound
from edgeai.monitor.examples import digest
from edgeai.monitor.outcomes import Outcomes
from edgeai.monitor.promise import Promise
from edgeai.monitor.refusal import refuse_data, refuse_result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["Plan", "Tested", "certify", "plan", "test"]

SEQUENCE_SHARE = 0.7
PRESET_COVERAGES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
GRID = 40
RESAMPLES = 200
AUDIT_SHARE = 4  # α_d is the upper bound at δ / 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is tested, in which order: fixed before the calibration split is looked at.

    ``grid`` are thresholds from high to low; ``start`` and ``presets`` are places in it.
    """

    promise: Promise
    grid: tuple[float, ...]
    start: int
    presets: tuple[int, ...] = ()

    @property
    def sequence_level(self) -> float:
        """The level of each test of the fixed sequence."""
        return self.promise.delta * (SEQUENCE_SHARE if self.presets else 1.0)

    @property
    def preset_level(self) -> float:
        """The level of each preset test."""
        return self.promise.delta * (1 - SEQUENCE_SHARE) / len(PRESET_COVERAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """The lowest threshold that passed, at ``place`` in the grid, by the named procedure."""

    place: int
    procedure: str
    p_value: float
    level: float


def certify(promise: Promise, train: Outcomes, calibration: Outcomes) -> Certificate:
    """The certificate of ``promise``, from a frozen pipeline's outcomes on two disjoint splits.

    ``train`` holds cross-fitted scores. Raises ContractInfeasible, with the labels that would be needed,
    when the data cannot support the promise: nothing is ever approximated.
    """
    refuse_data(promise, train, calibration)
    made = plan(promise, train, len(calibration))
    found = test(made, calibration)
    if found is None:
        raise refuse_result(promise, made.sequence_level, train, calibration, made.grid)
    return _certificate(made, found, train, calibration)


def plan(promise: Promise, train: Outcomes, n: int) -> Plan:
    """What to test with ``n`` calibration labels, from the training split alone.

    The start of a fixed sequence is the one with the largest coverage, on average, in resamples of the
    training split: the highest scores of small models hold confident errors, and starting there ends at once.
    """
    grid = _grid(train.scores)
    presets: tuple[int, ...] = ()
    if promise.kind in ("error", "disagreement"):
        coverage = _kept(train.scores, grid).mean(axis=-1)
        presets = tuple(sorted({int(np.abs(coverage - share).argmin()) for share in PRESET_COVERAGES}))
    made = Plan(promise=promise, grid=tuple(grid.tolist()), start=0, presets=presets)
    if promise.kind == "overall-error":
        return made
    start = _best_start(made, train, n)
    return Plan(promise=promise, grid=made.grid, start=start, presets=presets)


def test(made: Plan, calibration: Outcomes) -> Tested | None:
    """The lowest threshold that the calibration split proves, None if there is none."""
    p = p_values(made, calibration)
    place = int(_reach(p[None, :] <= made.sequence_level)[0, made.start])
    best = Tested(
        place=place, procedure=_NAMES[made.promise.kind], p_value=p[place], level=made.sequence_level
    )
    passed = [at for at in made.presets if p[at] <= made.preset_level]
    if passed and max(passed) > place:
        place = max(passed)
        best = Tested(place=place, procedure=_PRESET, p_value=p[place], level=made.preset_level)
    return best if place >= 0 else None


_PRESET = "Bonferroni over six preset levels of binomial tests at 0.3 δ"
_NAMES = {
    "overall-error": "monotone Clopper–Pearson bounds at δ",
    "error": "fixed sequence of binomial tests at 0.7 δ",
    "disagreement": "fixed sequence of binomial tests at 0.7 δ",
    "quality": "fixed sequence of betting tests at δ",
}


def p_values(made: Plan, data: Outcomes) -> "Floats":
    """The p-value of "the promise is broken" at each threshold of the grid."""
    kept = _kept(data.scores, np.asarray(made.grid))
    if not kept.any():
        return np.ones(len(kept))
    found: Floats = _p(made.promise, kept, data, np.arange(len(data))[None, :])[0]
    return found


def _p(promise: Promise, kept: "Bools", data: Outcomes, rows: "NDArray[np.intp]") -> "Floats":
    """P-values of shape (resamples, grid) for the resamples whose row numbers are given."""
    if promise.kind == "quality":
        return _quality_p(promise, kept, data, rows)
    wrong = labels(promise, data)
    share = np.stack([np.bincount(row, minlength=len(data)) for row in rows]).astype(float)
    errors = share @ (kept & wrong).T
    n = np.full_like(errors, rows.shape[1]) if promise.kind == "overall-error" else share @ kept.T
    return binomial_p(np.rint(errors), np.rint(n), promise.bound)


def _quality_p(promise: Promise, kept: "Bools", data: Outcomes, rows: "NDArray[np.intp]") -> "Floats":
    assert data.weak is not None
    assert data.strong is not None
    rho = promise.bound
    z = kept * (data.strong - data.weak) - (1 - rho) * data.strong
    x = (z + 1) / (1 + rho)
    found = [betting_p(x[:, row], 1 / (1 + rho), promise.delta) for row in rows]
    return np.asarray(np.stack(found), float)


def labels(promise: Promise, data: Outcomes) -> "Bools":
    """The losses that the promise counts: differing from the cloud, or wrong."""
    found = data.differs if promise.kind == "disagreement" else data.wrong
    assert found is not None
    return found


def _grid(scores: "Floats") -> "Floats":
    """Thresholds from high to low: quantiles of training's scores, and 0, which keeps all that have one."""
    real = scores[scores >= 0]
    inner = np.linspace(0, 1, GRID + 1)[1:-1]
    levels = np.quantile(real, inner, method="higher") if len(real) else np.empty(0)
    return np.asarray(np.unique(np.append(levels, 0.0))[::-1], float)


def _kept(scores: "Floats", grid: "Floats") -> "Bools":
    return np.asarray(scores[None, :] >= np.asarray(grid)[:, None], bool)


def _reach(passed: "Bools") -> "NDArray[np.intp]":
    """For each start the last place of the unbroken run of passes from there, −1 if the start fails."""
    reach = np.full(passed.shape, -1)
    for at in range(passed.shape[1] - 1, -1, -1):
        later = reach[:, at + 1] if at + 1 < passed.shape[1] else np.full(len(passed), -1)
        reach[:, at] = np.where(passed[:, at], np.maximum(later, at), -1)
    return reach


def _best_start(made: Plan, train: Outcomes, n: int) -> int:
    kept = _kept(train.scores, np.asarray(made.grid))
    random = np.random.default_rng(0)
    resamples = RESAMPLES if made.promise.kind != "quality" else RESAMPLES // 4
    p = _p(made.promise, kept, train, random.integers(0, len(train), (resamples, n)))
    reach = _reach(p <= made.sequence_level)
    presets = np.full(len(p), -1)
    for at in made.presets:
        presets = np.where(p[:, at] <= made.preset_level, at, presets)
    coverage = np.append(kept.mean(axis=-1), 0.0)  # place −1 covers nothing
    return int(coverage[np.maximum(reach, presets[:, None])].mean(axis=0).argmax())


def _certificate(made: Plan, found: Tested, train: Outcomes, calibration: Outcomes) -> Certificate:
    promise, threshold = made.promise, made.grid[found.place]
    kept = calibration.scores >= threshold
    wrong = calibration.differs if promise.kind == "disagreement" else calibration.wrong
    return Certificate(
        threshold=threshold,
        procedure=found.procedure,
        p_value=float(found.p_value),
        level=found.level,
        n=len(calibration),
        kept=int(kept.sum()),
        errors=0 if wrong is None else int((wrong & kept).sum()),
        coverage=float(kept.mean()),
        base_error=None if wrong is None else float(wrong.mean()),
        n_train=len(train),
        calibration=digest(calibration.keys),
        audit_rate=_audit_rate(promise, calibration, kept),
    )


def _audit_rate(promise: Promise, calibration: Outcomes, kept: "Bools") -> float | None:
    """The rate of disagreement that audits have to expect while all is well."""
    if promise.kind == "disagreement":
        return promise.bound
    if calibration.differs is None:
        return None
    bound = float(upper_bound((calibration.differs & kept).sum(), kept.sum(), promise.delta / AUDIT_SHARE))
    return bound if math.isfinite(bound) else None
