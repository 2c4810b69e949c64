"""Fit a score on the training split: which features, how strongly regularised, with which probe.

Every choice is made by cross-validation on the training split. The scores that the rest of calibration needs
from training (grid, start, stages) are cross-fitted, since a model flatters the examples it was fitted on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeai.errors import ContractInfeasible
from edgeai.monitor.design import Table, columns, levels, matrix, predict, tabulate
from edgeai.monitor.examples import Example, Observation
from edgeai.monitor.feature_sets import candidates
from edgeai.monitor.learners import folds, isotonic, logistic, one_thread
from edgeai.monitor.probing import Probing, fit_probe
from edgeai.monitor.score import PROBE, Category, Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]
    Rows = NDArray[np.intp]

__all__ = ["Choice", "Fitted", "fit_score", "fit_with"]

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
REPEATS = 3
ISOTONIC_FROM = 500
LEAST_OF_A_CLASS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to fit: numeric features, whether with the categories, and the inverse penalty C."""

    name: str
    features: tuple[str, ...]
    categories: bool
    c: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A score, the cross-fitted scores of its training examples in their order, and how it was chosen.

    ``losses`` are the cross-validated log losses (nats) of every candidate at its best penalty.
    """

    score: Score
    cross_fitted: "Floats"
    choice: Choice
    losses: Mapping[str, float]
    probe: str | None = None


def fit_score(
    examples: Sequence[Example], *, good: float = 1.0, name: str = "edgeai", only: Sequence[str] | None = None
) -> Fitted:
    """Fit a score that predicts "the device's answer is right" (quality of ``good`` or more).

    Labels are ``right``, or ``agrees`` where no example has one. ``only`` limits the candidates of
    `feature_sets.candidates` by name. Raises ContractInfeasible when there is too little of either kind.
    """
    y = targets(examples, good)
    _refuse(y)
    with one_thread():
        probing = fit_probe([example.seen.hidden for example in examples], y)
        table = tabulate(_with_probe(examples, probing))
        choice, losses = _choose(table, y, _distinct(table, y, only))
        return _finish(table, y, choice, losses, probing, name)


def _distinct(table: Table, y: "Bools", only: Sequence[str] | None) -> list[Choice]:
    """The candidates that differ in what they can really use here, simple ones first."""
    found: dict[tuple[frozenset[str], bool], Choice] = {}
    for name, features, categories in candidates(table.places, table.texts):
        usable = frozenset(column.name for column in columns(table, features, y))
        if usable and (only is None or name in only):
            choice = Choice(name=name, features=features, categories=categories, c=1.0)
            found.setdefault((usable, categories), choice)
    if not found:
        raise ContractInfeasible(
            "No signal can be used",
            why="Each is missing for a tenth of the training examples or more, or is always the same",
        )
    return list(found.values())


def _choose(table: Table, y: "Bools", choices: Sequence[Choice]) -> tuple[Choice, Mapping[str, float]]:
    """The candidate and penalty with the lowest cross-validated loss, and each candidate's lowest."""
    tried = {
        choice.name: min((_loss(table, y, replace(choice, c=c)), c) for c in PENALTIES) for choice in choices
    }
    best = min(choices, key=lambda choice: tried[choice.name])
    losses = {name: loss for name, (loss, _) in tried.items()}
    return replace(best, c=tried[best.name][1]), losses


def fit_with(table: Table, y: "Bools", choice: Choice, name: str) -> Score:
    """The score of one way to fit, without a probe of its own."""
    usable = columns(table, choice.features, y)
    known = levels(table) if choice.categories else {}
    weights, intercept = logistic(matrix(table, usable, known), y, choice.c)
    fitted = tuple(replace(column, weight=float(w)) for column, w in zip(usable, weights, strict=False))
    rest = iter(weights[len(usable) :].tolist())
    categories = tuple(
        Category(name=name, weights={value: next(rest) for value in values}) for name, values in known.items()
    )
    return Score(name=name, intercept=intercept, columns=fitted, categories=categories)


def targets(examples: Sequence[Example], good: float = 1.0) -> "Bools":
    """What is predicted: whether the answer is right, or without references whether the cloud agrees."""
    if all(example.right is not None for example in examples):
        return np.array([(example.right or 0.0) >= good for example in examples], bool)
    if all(example.agrees is not None for example in examples):
        return np.array([example.agrees for example in examples], bool)
    raise ContractInfeasible(
        "Some training examples have no outcome",
        why="Every example needs the quality of the device's answer, or whether the cloud agrees",
        remedy="Leave those examples out",
    )


def cross_fit(table: Table, y: "Bools", choice: Choice, seed: int = 0) -> "Floats":
    """For each row the probability by a score that was fitted without it."""
    logits = np.empty(len(y))
    for fit_on, judge_on in folds(y, seed):
        score = fit_with(table.take(fit_on), y[fit_on], choice, "fold")
        logits[judge_on] = predict(score, table.take(judge_on))
    return np.asarray(1 / (1 + np.exp(-logits)), float)


def _loss(table: Table, y: "Bools", choice: Choice) -> float:
    losses = []
    for seed in range(REPEATS):
        p = np.clip(cross_fit(table, y, choice, seed), 1e-6, 1 - 1e-6)
        losses.append(-np.mean(np.where(y, np.log(p), np.log1p(-p))))
    return float(np.mean(losses))


def _finish(
    table: Table,
    y: "Bools",
    choice: Choice,
    losses: Mapping[str, float],
    probing: Probing | None,
    name: str,
) -> Fitted:
    crossed = cross_fit(table, y, choice, seed=REPEATS)
    score = fit_with(table, y, choice, name)
    uses_probe = probing is not None and PROBE in choice.features
    score = replace(score, probe=probing.probe if probing and uses_probe else None, curve=_curve(crossed, y))
    kind = probing.kind if probing and uses_probe else None
    return Fitted(score=score, cross_fitted=crossed, choice=choice, losses=losses, probe=kind)


def _curve(crossed: "Floats", y: "Bools") -> tuple[tuple[float, float], ...]:
    """Isotonic steps when there are enough examples and they lower the 5-fold Brier score, else none."""
    if len(y) < ISOTONIC_FROM:
        return ()
    stepped = np.empty(len(y))
    for fit_on, judge_on in folds(y, seed=1):
        steps = np.array(isotonic(crossed[fit_on], y[fit_on]))
        place = np.searchsorted(steps[:, 0], crossed[judge_on], side="right") - 1
        stepped[judge_on] = steps[np.maximum(place, 0), 1]
    better = np.mean((stepped - y) ** 2) < np.mean((crossed - y) ** 2)
    return isotonic(crossed, y) if better else ()


def _with_probe(examples: Sequence[Example], probing: Probing | None) -> list[Observation]:
    """What was seen, with the cross-fitted logit of the probe among the features."""
    if probing is None:
        return [example.seen for example in examples]
    return [
        replace(example.seen, features={**example.seen.features, PROBE: float(logit)})
        for example, logit in zip(examples, probing.cross_fitted, strict=True)
    ]


def _refuse(y: "Bools") -> None:
    few = min(int(y.sum()), int((~y).sum()))
    if few < LEAST_OF_A_CLASS:
        raise ContractInfeasible(
            f"There is too little to learn from: {int(y.sum())} of {len(y)} training answers are right",
            why=f"A score needs at least {LEAST_OF_A_CLASS} of either kind",
            remedy="Add examples, easy and hard ones",
        )
