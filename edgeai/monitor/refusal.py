"""Why a promise cannot be certified, in words, and how many labels it would take."""

from collections.abc import Sequence

import numpy as np

from edgeai.errors import ContractInfeasible
from edgeai.monitor.exact import labels_as_good, labels_for_power, labels_without_error
from edgeai.monitor.metrics import auroc
from edgeai.monitor.outcomes import Outcomes
from edgeai.monitor.promise import Promise

__all__ = ["least_labels", "refuse_data", "refuse_result"]

LEAST_TRAIN = 20
LEAST_OF_A_CLASS = 4
NO_SIGNAL = 0.55


def least_labels(promise: Promise) -> dict[str, int]:
    """Kept answers without one error that each procedure needs at least, by the procedure's name.

    For "quality" it is the number of queries on which the device equals a cloud that is always right.
    """
    delta = promise.delta
    if promise.kind == "overall-error":
        return {"Clopper–Pearson at δ": labels_without_error(promise.bound, delta)}
    if promise.kind == "quality":
        return {"betting at δ": labels_as_good(promise.bound, delta)}
    return {
        "fixed sequence at 0.7 δ": labels_without_error(promise.bound, 0.7 * delta),
        "preset levels at 0.3 δ / 6": labels_without_error(promise.bound, 0.3 * delta / 6),
    }


def refuse_data(promise: Promise, train: Outcomes, calibration: Outcomes) -> None:
    """Raise ContractInfeasible for data that cannot be used at all, whatever they show."""
    for part, name in ((train, "training"), (calibration, "calibration")):
        if missing := _missing(promise, part):
            raise ContractInfeasible(
                f"{promise} cannot be certified: {missing} unknown for some {name} examples",
                remedy="Give what is missing, or leave those examples out",
            )
    shared = set(train.keys) & set(calibration.keys)
    if shared:
        raise ContractInfeasible(
            f"{len(shared)} prompts are in the training and in the calibration split",
            why="The proof holds only for labels that the score has not seen",
            remedy="Divide the data with edgeai's split, which goes by the prompt",
        )
    if len(set(calibration.keys)) < len(calibration.keys):
        raise ContractInfeasible(
            f"{len(calibration.keys) - len(set(calibration.keys))} calibration prompts are there twice",
            why="The tests count independent queries",
            remedy="Give each prompt once",
        )
    _refuse_sizes(promise, train, calibration)


def _refuse_sizes(promise: Promise, train: Outcomes, calibration: Outcomes) -> None:
    least = least_labels(promise)
    if len(calibration) < min(least.values()) and promise.kind != "quality":
        raise ContractInfeasible(
            f"{promise} cannot be certified with {len(calibration)} calibration labels",
            why=_needs(least),
            remedy="Label more examples, or promise less",
            labels=min(least.values()),
        )
    bad = _losses(promise, train)
    few = min(int(bad.sum()), int((~bad).sum()))
    if len(train) < LEAST_TRAIN or few < LEAST_OF_A_CLASS:
        what = "differs from the cloud" if promise.kind == "disagreement" else "is wrong"
        raise ContractInfeasible(
            f"There is too little to learn from: {int(bad.sum())} of {len(train)} training answers {what}",
            why=f"A score needs at least {LEAST_TRAIN} examples and {LEAST_OF_A_CLASS} of either kind",
            remedy="Add examples, easy and hard ones",
        )


def refuse_result(
    promise: Promise, level: float, train: Outcomes, calibration: Outcomes, grid: Sequence[float]
) -> ContractInfeasible:
    """The error for a promise that no threshold passed."""
    bad = _losses(promise, train)
    area = auroc(train.scores, ~bad)
    why = [f"no threshold passed with {len(calibration)} calibration labels", _needs(least_labels(promise))]
    wanted = None if promise.kind == "quality" else _wanted(promise, level, train, grid)
    if area is not None and area < NO_SIGNAL:
        why.append(f"the score hardly tells right from wrong here (AUROC {area:.2f} in training)")
    elif wanted is None and promise.kind != "quality":
        why.append(
            "no threshold has a training risk below the bound, so more labels of this kind do not help"
        )
    remedy = f"Label about {wanted} examples for calibration, or promise less" if wanted else "Promise less"
    return ContractInfeasible(
        f"{promise} cannot be certified", why="; ".join(why), remedy=remedy, labels=wanted
    )


def _wanted(promise: Promise, level: float, train: Outcomes, grid: Sequence[float]) -> int | None:
    """Calibration labels that give 80 % power at the training risk of the most promising threshold."""
    bad, found = _losses(promise, train), []
    for threshold in grid:
        kept = train.scores >= threshold
        n, errors = int(kept.sum()), int((bad & kept).sum())
        if promise.kind == "overall-error":
            n = len(train)
        risk = (errors + 0.5) / (n + 1)  # never 0: a few kept answers prove no perfection
        share = n / len(train)
        if n >= LEAST_OF_A_CLASS and (needed := labels_for_power(promise.bound, risk, level)):
            found.append(needed / share)
    return round(min(found)) if found else None


def _needs(least: dict[str, int]) -> str:
    return "needed without any error: " + ", ".join(f"{n} kept answers ({name})" for name, n in least.items())


def _losses(promise: Promise, data: Outcomes) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    found = data.differs if promise.kind == "disagreement" else data.wrong
    assert found is not None
    return found


def _missing(promise: Promise, data: Outcomes) -> str | None:
    if promise.kind == "disagreement":
        return "the agreement with the cloud is" if data.differs is None else None
    if data.wrong is None:
        return "the quality of the device's answers is"
    if promise.kind == "quality" and data.strong is None:
        return "the quality of the cloud's answers is"
    return None
