"""From outcomes to a certificate: score and stages on one split, one test on the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeai.calibrate.used import Attempt, fresh, mark
from edgeai.errors import ContractInfeasible
from edgeai.monitor.certify import certify, plan, test
from edgeai.monitor.contract import Binding, Certificate
from edgeai.monitor.examples import Example, split
from edgeai.monitor.fit_stages import Worth, fit_futility, fit_router
from edgeai.monitor.fitting import Fitted, fit_score, targets
from edgeai.monitor.outcomes import Outcomes, outcomes
from edgeai.monitor.promise import Promise
from edgeai.monitor.refusal import least_labels, refuse_data
from edgeai.monitor.stages import REMOVED, Pipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["Fit", "Fitting", "fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """How to fit: an answer of quality ``good`` or more is right; ``share`` of the data certifies.

    ``stages`` allows queries to leave before and while the device answers. ``signals`` limits the sets of
    features that the fit chooses among, by their names in `feature_sets`; None: all. ``worth`` is what the
    router weighs a right answer against.
    """

    good: float = 1.0
    share: float = 0.5
    stages: bool = True
    signals: tuple[str, ...] | None = None
    worth: Worth | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What came out: a certificate, or the refusal that says why there is none.

    ``tested``: the calibration split was looked at, and is used up. ``reused`` labels had been used up before
    and served for training.
    """

    promise: Promise
    fitted: Fitted
    pipeline: Pipeline
    train: tuple[Example, ...]
    calibration: tuple[Example, ...]
    train_outcomes: Outcomes
    calibration_outcomes: Outcomes
    duplicates: int
    reused: int
    tested: bool
    certificate: Certificate | None
    refusal: ContractInfeasible | None


def fit(examples: Sequence[Example], promise: Promise, binding: Binding, settings: Fitting) -> Fit:
    """Fit on the training split and test the promise on the calibration split, once.

    Raises ContractInfeasible when there is too little of either kind to fit a score at all; a promise that
    the test does not bear out is the ``refusal``.
    """
    attempt = Attempt(binding=binding, promise=promise, settings=repr(settings), examples=tuple(examples))
    parts, reused = fresh(attempt, split(examples, calibration=settings.share))
    train = tuple(_for(promise, example) for example in parts.train)
    fitted = fit_score(train, good=settings.good, name=f"p({_TARGET[promise.kind]})", only=settings.signals)
    pipeline, scores = _stages(train, fitted, promise, settings, len(parts.calibration))
    seen = outcomes(parts.train, scores, good=settings.good)
    held = outcomes(parts.calibration, pipeline, good=settings.good)
    tested, found = _certify(attempt, seen, held)
    return Fit(
        promise=promise,
        fitted=fitted,
        pipeline=pipeline,
        train=parts.train,
        calibration=parts.calibration,
        train_outcomes=seen,
        calibration_outcomes=held,
        duplicates=parts.duplicates,
        reused=reused,
        tested=tested,
        certificate=found if isinstance(found, Certificate) else None,
        refusal=_with_reuse(found, reused) if isinstance(found, ContractInfeasible) else None,
    )


_TARGET = {"error": "right", "overall-error": "right", "quality": "right", "disagreement": "agrees"}


def _for(promise: Promise, example: Example) -> Example:
    """Under "disagreement" the score predicts agreement, also where references are known."""
    return replace(example, right=None) if promise.kind == "disagreement" else example


def _certify(
    attempt: Attempt, train: Outcomes, held: Outcomes
) -> tuple[bool, Certificate | ContractInfeasible]:
    """Whether the labels were looked at, and the certificate or why there is none."""
    if not len(held):
        return False, ContractInfeasible(
            f"{attempt.promise} cannot be certified: no labels are left for calibration",
            remedy="Add new prompts",
            labels=min(least_labels(attempt.promise).values()),
        )
    try:
        refuse_data(attempt.promise, train, held)
    except ContractInfeasible as refusal:
        return False, refusal
    mark(attempt, held.keys)
    try:
        return True, certify(attempt.promise, train, held)
    except ContractInfeasible as refusal:
        return True, refusal


def _stages(
    train: Sequence[Example], fitted: Fitted, promise: Promise, settings: Fitting, n: int
) -> "tuple[Pipeline, Floats]":
    """The frozen pipeline, and training's effective scores under it, cross-fitted."""
    scores = fitted.cross_fitted.copy()
    if not settings.stages:
        return Pipeline(score=fitted.score), scores
    right = targets(train, settings.good)
    kept = scores >= _provisional(promise, outcomes(train, scores, good=settings.good), right, n)
    futility = fit_futility(train, right, kept)
    if futility is not None:
        scores[[futility.exit_at(example.seen) is not None for example in train]] = REMOVED
    if not all(_can_route(example) for example in train):
        return Pipeline(score=fitted.score, futility=futility), scores
    router, gains = fit_router(train, right & kept, settings.worth)
    scores[gains > router.threshold] = REMOVED
    return Pipeline(score=fitted.score, router=router, futility=futility), scores


def _can_route(example: Example) -> bool:
    """Whether the router can learn from it: both qualities, and something known before the answer."""
    return example.right is not None and example.cloud is not None and bool(example.seen.words)


def _provisional(promise: Promise, train: Outcomes, right: "Bools", n: int) -> float:
    """The threshold by which training tells whom the stages may not lose: as if it were the calibration.

    Where nothing passes there it is the one that keeps as many as there are right answers.
    """
    known = train.differs if promise.kind == "disagreement" else train.wrong
    if known is not None and (promise.kind != "quality" or train.strong is not None):
        made = plan(promise, train, n or len(train))
        if (found := test(made, train)) is not None:
            return made.grid[found.place]
    return float(np.quantile(train.scores, 1 - right.mean()))


def _with_reuse(refusal: ContractInfeasible, reused: int) -> ContractInfeasible:
    """The refusal, which also says when labels were missing because earlier tests had used them."""
    if not reused:
        return refusal
    spent = f"{reused} labels were used by an earlier calibration of this model, and can only train now"
    return ContractInfeasible(
        refusal.what,
        why=f"{spent}; {refusal.why}" if refusal.why else spent,
        remedy="Add new prompts, which nothing was chosen by",
        labels=refusal.labels,
    )
