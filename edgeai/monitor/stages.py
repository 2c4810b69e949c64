"""The stages of one query as they run under a contract: before, while and after the device answers.

All of them are frozen before calibration, so that the guarantee covers the pipeline as a whole.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeai.monitor.examples import Observation
from edgeai.monitor.probe import unpack
from edgeai.monitor.score import Column, Score
from edgeai.monitor.watch import CHECKPOINTS

__all__ = ["CHECKPOINTS", "REMOVED", "Checkpoint", "Futility", "Pipeline", "Router"]

REMOVED = -1.0
"""The effective score of a query that left early or has no score: below every threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """Stage 1, before generation: the gain E[cloud's − device's quality | prompt] by ridge regression.

    ``columns`` are numeric prompt features, ``idf`` and ``words`` packed weights of hashed words. A query
    leaves when its gain is above ``threshold``.
    """

    intercept: float
    columns: tuple[Column, ...]
    idf: str
    words: str
    threshold: float

    def __post_init__(self) -> None:
        if unpack(self.idf).size != unpack(self.words).size:
            raise ValueError("idf and words of the router should have equal sizes")

    def gain(self, seen: Observation) -> float:
        """How much better the cloud is expected to be, in quality from −1 to 1."""
        return (
            self.intercept
            + sum(column.term(seen.features.get(column.name)) for column in self.columns)
            + self._words(seen.words)
        )

    def leaves(self, seen: Observation) -> bool:
        """Whether the query goes to the cloud before anything is generated."""
        return self.gain(seen) > self.threshold

    def _words(self, counts: Mapping[int, float]) -> float:
        idf, weights = unpack(self.idf), unpack(self.words)
        values = {at: (1 + math.log(n)) * float(idf[at]) for at, n in counts.items() if at < len(idf)}
        norm = math.sqrt(sum(value * value for value in values.values()))
        return sum(value * float(weights[at]) for at, value in values.items()) / norm if norm else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Stage 2 after this many tokens: leave when the prefix's score is below ``threshold``."""

    tokens: int
    score: Score
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Futility:
    """Stage 2, while generating: stop early where hardly any query ends kept and right.

    ``lost`` is the share of training's kept and right queries that all checkpoints together remove.
    """

    checkpoints: tuple[Checkpoint, ...]
    lost: float

    def leaves(self, tokens: int, seen: Observation) -> bool:
        """Whether to escalate now; ``seen.features`` are those of the first ``tokens`` tokens."""
        return any(_futile(check, seen) for check in self.checkpoints if check.tokens == tokens)

    def exit_at(self, seen: Observation) -> int | None:
        """After how many tokens a recorded query would have left, by ``seen.prefixes``; None: never."""
        for check in self.checkpoints:
            prefix = seen.prefixes.get(check.tokens)
            if prefix is not None and self.leaves(check.tokens, Observation(features=prefix)):
                return check.tokens
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The score with the stages before it.

    ``strength`` is that of the contextual calibration of a classification's labels, which decides what the
    answer is; None: the ordinary one (`edgeai.choose.STRENGTH`).
    """

    score: Score
    router: Router | None = None
    futility: Futility | None = None
    strength: float | None = None

    def effective(self, seen: Observation) -> float:
        """The score that decides: REMOVED where a stage sends the query away or no score exists."""
        if self.router is not None and self.router.leaves(seen):
            return REMOVED
        if self.futility is not None and self.futility.exit_at(seen) is not None:
            return REMOVED
        score = self.score(seen)
        return REMOVED if score is None else score


def _futile(check: Checkpoint, seen: Observation) -> bool:
    score = check.score(seen)
    return score is not None and score < check.threshold
