"""The data of a test: each query's effective score, and what became of it, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeai.monitor.examples import Example
from edgeai.monitor.stages import Pipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]

__all__ = ["Outcomes", "outcomes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """One entry a query. ``scores`` are effective (REMOVED where a stage sent the query away).

    ``wrong`` the device's answer; ``differs`` from the cloud's; ``weak`` and ``strong`` the qualities of
    device and cloud from 0 to 1. An array is None where its labels are unknown.
    """

    keys: tuple[str, ...]
    scores: "Floats"
    wrong: "Bools | None" = None
    differs: "Bools | None" = None
    weak: "Floats | None" = None
    strong: "Floats | None" = None

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: "NDArray[np.intp]") -> "Outcomes":
        """These rows, in this order, repeated where repeated."""
        return Outcomes(
            keys=tuple(self.keys[row] for row in rows) if self.keys else (),
            scores=self.scores[rows],
            wrong=None if self.wrong is None else self.wrong[rows],
            differs=None if self.differs is None else self.differs[rows],
            weak=None if self.weak is None else self.weak[rows],
            strong=None if self.strong is None else self.strong[rows],
        )


def outcomes(examples: Sequence[Example], scores: "Pipeline | Floats", *, good: float = 1.0) -> Outcomes:
    """The examples under a frozen pipeline, or with scores of their own (cross-fitted ones in training).

    An answer counts as right when its quality is ``good`` or more.
    """
    effective = (
        np.array([scores.effective(example.seen) for example in examples], float)
        if isinstance(scores, Pipeline)
        else np.asarray(scores, float)
    )
    weak = _known([example.right for example in examples])
    differs = _known([None if example.agrees is None else float(not example.agrees) for example in examples])
    return Outcomes(
        keys=tuple(example.key for example in examples),
        scores=effective,
        wrong=None if weak is None else weak < good,
        differs=None if differs is None else differs > 0,
        weak=weak,
        strong=_known([example.cloud for example in examples]),
    )


def _known(values: Sequence[float | None]) -> "Floats | None":
    if not values or any(value is None for value in values):
        return None
    return np.array(values, float)
