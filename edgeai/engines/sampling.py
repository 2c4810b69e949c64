"""Signals from raw logits, and the choice of the next token. Shared by all engines.

Filters work on the tempered distribution and each keeps its most likely tokens, so that together they keep
the shortest of these heads: ``top_k`` the k most likely, ``top_p`` the fewest that hold this mass, ``min_p``
those with at least this fraction of the most likely one's probability.
"""

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from edgeai.errors import EngineError
from edgeai.types import Sampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Choice", "Sampler", "Scratch", "draw"]

_WIDTHS: Final = (4.0, 8.0, 16.0, math.inf)
"""How far (nats) below the most likely token candidates are looked for, step by step."""

_COLD: Final = 1e-3
"""Below this temperature the most likely token is taken: dividing by it would overflow."""

_NEAR: Final = 40.0
"""Logits below this need no shift before they are exponentiated: neither overflow nor underflow matters."""

_PART: Final = 8192
"""Sums are dot products of parts: the fastest way, and too short for BLAS to start threads of its own."""


class Choice(NamedTuple):
    """The chosen token and what the unconstrained distribution at temperature 1 said of it (nats)."""

    token: int
    logprob: float
    entropy: float
    margin: float


class Scratch:
    """Room to compute in, for all queries of one thread."""

    def __init__(self, n_vocab: int) -> None:
        self.below = np.empty(n_vocab, np.float32)
        self.weight = np.empty(n_vocab, np.float32)
        ones = np.ones(_PART, np.float32)
        starts = range(0, n_vocab, _PART)
        weights = [self.weight[start : start + _PART] for start in starts]
        self.parts = [
            (weight, ones[: weight.size], slice(start, start + _PART))
            for weight, start in zip(weights, starts, strict=True)
        ]


class Sampler:
    """Chooses the tokens of one query, on the thread that owns ``scratch``."""

    def __init__(self, sampling: Sampling, scratch: Scratch) -> None:
        self._sampling = sampling
        self._random = (
            np.random.Generator(np.random.PCG64(sampling.seed)) if sampling.temperature >= _COLD else None
        )
        self._scratch = scratch

    def choose(self, logits: "NDArray[np.float32]", allowed: "NDArray[np.bool_] | None" = None) -> Choice:
        """The next token among the ``allowed`` ones (None: all).

        Raises EngineError when the logits hold no number. Few and direct calls: after a decode step each
        one starts with cold caches and costs more than its arithmetic.
        """
        weight = self._scratch.weight
        top = int(logits.argmax())
        peak = logits[top]
        if not math.isfinite(peak):
            raise EngineError("The model computed no usable probabilities", why="its logits are not numbers")
        if abs(peak) > _NEAR:
            logits = np.subtract(logits, peak, self._scratch.below)
        np.exp(logits, weight)
        total = spread = 0.0
        for some, ones, place in self._scratch.parts:
            total += float(np.dot(some, ones))
            spread += float(np.dot(some, logits[place]))
        lead = float(weight[top])
        weight[top] = 0
        margin = (lead - float(np.maximum.reduce(weight))) / total
        token = top if self._random is None and allowed is None else self._pick(logits, top, allowed)
        nats = math.log(total)
        logprob = min(0.0, float(logits[token]) - nats)
        return Choice(token, logprob, max(0.0, nats - spread / total), margin)

    def _pick(self, logits: "NDArray[np.float32]", top: int, allowed: "NDArray[np.bool_] | None") -> int:
        if allowed is not None and (self._random is not None or not allowed[top]):
            logits = np.where(allowed, logits, np.float32(-math.inf))
            top = int(logits.argmax())
        if self._random is None:
            return top
        return draw(logits, self._sampling, self._random, top)


def draw(
    logits: "NDArray[np.float32]", sampling: Sampling, random: np.random.Generator, top: int | None = None
) -> int:
    """Draw a token id; ``top`` is the most likely one's id if known. Needs ``temperature > 0``."""
    peak = logits[logits.argmax() if top is None else top]
    tempered = (logits - peak) / np.float32(sampling.temperature)
    if sampling.top_k <= 0 and sampling.top_p >= 1 and sampling.min_p <= 0:
        return _cast(np.exp(tempered), random)
    ids = _head(tempered, sampling)
    return int(ids[_cast(np.exp(tempered[ids]), random)])


def _cast(weights: "NDArray[np.float32]", random: np.random.Generator) -> int:
    """An index, drawn with probability proportional to its weight."""
    sums = np.cumsum(weights, dtype=np.float64)
    last = np.searchsorted(sums, sums[-1])  # the last one with a weight, in case the product is rounded up
    return int(min(np.searchsorted(sums, random.random() * sums[-1], side="right"), last))


def _head(tempered: "NDArray[np.float32]", sampling: Sampling) -> "NDArray[np.intp]":
    """The ids that all filters keep, most likely first; sorts only the few that may be among them."""
    total = float(np.exp(tempered).sum(dtype=np.float64)) if sampling.top_p < 1 else 0.0
    floor = math.log(sampling.min_p) if sampling.min_p > 0 else -math.inf
    for width in _WIDTHS:
        ids = np.flatnonzero(tempered >= max(-width, floor))
        weights = np.exp(tempered[ids])
        if (
            -width <= floor
            or len(ids) >= sampling.top_k > 0
            or (sampling.top_p < 1 and float(weights.sum(dtype=np.float64)) >= sampling.top_p * total)
        ):
            break
    order = np.argsort(-tempered[ids], kind="stable")
    keep = len(ids)
    if sampling.top_k > 0:
        keep = min(keep, sampling.top_k)
    if sampling.top_p < 1:
        sums = np.cumsum(weights[order], dtype=np.float64)
        keep = min(keep, int(np.searchsorted(sums, sampling.top_p * total)) + 1)
    return ids[order[: max(1, keep)]]
