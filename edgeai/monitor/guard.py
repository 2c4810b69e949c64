"""A contract at work on one query: the stages before, while and after the device answers."""

from typing import TYPE_CHECKING

from edgeai.monitor.examples import FeatureMap, Observation

if TYPE_CHECKING:
    from edgeai.monitor.contract import Contract

__all__ = ["Guard"]


class Guard:
    """Judges one answer by a contract's pipeline, in the order in which it was calibrated.

    What an early stage sends away stays sent away: if the query cannot leave, its answer is not one that the
    contract keeps, whatever its score.
    """

    def __init__(self, contract: "Contract") -> None:
        self._contract = contract
        self._removed = False

    @property
    def score_name(self) -> str:
        """The name of the contract's score."""
        return self._contract.pipeline.score.name

    @property
    def threshold(self) -> float:
        """The least score of an answer that stays."""
        return self._contract.certificate.threshold

    @property
    def needs_hidden(self) -> bool:
        """Whether the engine has to hand out hidden states."""
        return self._contract.pipeline.score.needs_hidden

    @property
    def strength(self) -> float | None:
        """How strongly a classification's labels are corrected, None for the ordinary strength."""
        return self._contract.pipeline.strength

    def routes(self, before: Observation) -> bool:
        """Stage 1: whether the query leaves before anything is generated."""
        router = self._contract.pipeline.router
        self._removed = self._removed or (router is not None and router.leaves(before))
        return self._removed

    def futile(self, n_tokens: int, prefix: FeatureMap) -> bool:
        """Stage 2: whether it leaves after ``n_tokens`` tokens, whose features are ``prefix``."""
        futility = self._contract.pipeline.futility
        if futility is None or not futility.leaves(n_tokens, Observation(features=prefix)):
            return False
        self._removed = True
        return True

    def judge(self, seen: Observation) -> tuple[float | None, float | None, bool]:
        """Stage 3, at the end: the score, the calibrated probability of being right, whether it stays."""
        score = self._contract.pipeline.score(seen)
        confidence = self._contract.pipeline.score.confidence(score)
        return score, confidence, not self._removed and self._contract.keeps(score)
