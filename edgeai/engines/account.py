"""What guessing tokens ahead has really saved, and so whether it may go on."""

from typing import Final

__all__ = ["Account"]

_SHARE: Final = 0.02
"""Of the time of all steps, what guesses may cost before they are left alone."""

_MOST_STEPS: Final = 8
"""So many plain steps' time is the most that is kept of what was saved: times change."""


class Account:
    """The seconds that guesses have saved, less those they have cost: measured, not estimated.

    ``credit_s`` may be lost at once, to learn what cannot be known otherwise. After that no more is lost in
    the long run than a small share of the time, however wrong the estimates are.
    """

    def __init__(self, credit_s: float = 0.0) -> None:
        self._balance = self._credit = credit_s

    @property
    def is_open(self) -> bool:
        """Whether something may be risked."""
        return self._balance >= 0

    def earn(self, seconds: float) -> None:
        """A step took so long: a share of it may be risked later on."""
        self._balance = min(self._balance + _SHARE * seconds, max(self._balance, self._most(seconds)))

    def settle(self, gain_s: float, step_s: float) -> None:
        """A guess has saved ``gain_s`` (below 0: cost), where a plain step takes ``step_s``."""
        self._balance = min(self._balance + gain_s, max(self._balance, self._most(step_s)))

    def _most(self, step_s: float) -> float:
        return max(self._credit, _MOST_STEPS * step_s)
