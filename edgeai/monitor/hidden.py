"""The model's own state: the last layer at the last prompt token, and its mean over the answer."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

__all__ = ["HiddenStates"]


class HiddenStates:
    """Collects the states of one answer from the pass that is made anyway; O(width) a token, no history."""

    def __init__(self) -> None:
        self._prompt: Vector | None = None
        self._sum: Vector | None = None
        self._n = 0

    def prompt(self, state: "Vector") -> None:
        """The state at the last prompt token (always recomputed, so independent of the prefix cache)."""
        self._prompt = np.array(state, np.float32)

    def observe(self, state: "Vector") -> None:
        """The state at the next generated token."""
        self._sum = np.array(state, np.float32) if self._sum is None else self._sum + state
        self._n += 1

    def vector(self) -> "Vector | None":
        """Both as one vector, the mean being the prompt's state before any token; None without a prompt's."""
        if self._prompt is None:
            return None
        mean = self._prompt if self._sum is None else self._sum / np.float32(self._n)
        return np.concatenate([self._prompt, mean])
