"""The fitted score: the probability that the device's answer is right, from everything seen of it.

A logistic model on standardised features. At run time a value outside the range that training saw counts as
the end of that range, and a missing one as the least confident value seen: nothing unknown makes an answer
look safe.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from edgeai.monitor.examples import Observation
from edgeai.monitor.probe import Probe

__all__ = ["Category", "Column", "Score"]

PROBE = "probe_logit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One numeric feature: its mean, scale and range in training, and its weight."""

    name: str
    mean: float
    scale: float
    low: float
    high: float
    weight: float

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.low > self.high:
            raise ValueError(f"the scale and range of {self.name} should be sound")

    def term(self, value: float | None) -> float:
        """What the feature adds to the logit; never more for a missing value than for any other."""
        if value is None or math.isnan(value):
            return min(self.term(self.low), self.term(self.high))
        return self.weight * (min(max(value, self.low), self.high) - self.mean) / self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One text feature, such as the predicted label: a weight for each value that training saw."""

    name: str
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(f"the weights of {self.name} should not be empty")

    def term(self, value: str | None) -> float:
        """What the value adds to the logit; an unknown one counts as the least safe."""
        return self.weights.get(value or "", min(self.weights.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The score of an answer: a probability, higher is safer.

    ``curve`` are the (score, confidence) steps of an isotonic regression; empty when the logistic model is
    itself the better calibrated one.
    """

    name: str
    intercept: float
    columns: tuple[Column, ...]
    categories: tuple[Category, ...] = ()
    probe: Probe | None = None
    curve: tuple[tuple[float, float], ...] = ()

    def __call__(self, seen: Observation) -> float | None:
        """The score of what was seen, None when nothing of what it needs is known."""
        values = dict(seen.features)
        if self.probe is not None:
            values[PROBE] = self.probe.logit(seen.hidden)
        if all(values.get(column.name) is None for column in self.columns):
            return None
        logit = self.intercept
        logit += sum(column.term(values.get(column.name)) for column in self.columns)
        logit += sum(category.term(seen.categories.get(category.name)) for category in self.categories)
        return sigmoid(logit)

    def confidence(self, score: float | None) -> float | None:
        """The calibrated probability of being right that belongs to ``score``."""
        if score is None or not self.curve:
            return score
        place = bisect_right(self.curve, (score, math.inf)) - 1
        return self.curve[max(place, 0)][1]

    @property
    def needs_hidden(self) -> bool:
        """Whether the engine has to hand out hidden states."""
        return self.probe is not None


def sigmoid(logit: float) -> float:
    """1 / (1 + e^−logit), without overflow."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return (rest := math.exp(logit)) / (1 + rest)
