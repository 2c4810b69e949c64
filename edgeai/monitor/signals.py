"""Features of an answer from its tokens' raw probabilities, kept in O(1) a token.

Gupta et al. 2024, "Language Model Cascades: Token-level Uncertainty and Beyond": quantiles of the token
log-probabilities carry more than their mean.
"""

import math
from collections import deque

from edgeai.types import Token

WINDOW = 10
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


class Features:
    """Running features of one answer. Log-probabilities and entropies in nats; None before they exist."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self.sum_logprob = 0.0
        self.min_logprob = 0.0
        self._first: Token | None = None
        self._sum_entropy = 0.0
        self._unsure = 0
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._window_sum = 0.0
        self._lowest_window: float | None = None
        self._logprobs: list[float] = []
        self._trigrams: set[tuple[int, ...]] = set()
        self._last: deque[int] = deque(maxlen=3)

    def observe(self, token: Token) -> None:
        """Take the next token into account."""
        self._first = self._first or token
        self.n_tokens += 1
        self.sum_logprob += token.logprob
        self.min_logprob = min(self.min_logprob, token.logprob)
        self._sum_entropy += token.entropy
        self._unsure += token.logprob < -math.log(2)
        self._slide(token.logprob)
        self._logprobs.append(token.logprob)
        self._last.append(token.id)
        if len(self._last) == 3:
            self._trigrams.add(tuple(self._last))

    def _slide(self, logprob: float) -> None:
        if len(self._window) == WINDOW:
            self._window_sum -= self._window[0]
        self._window.append(logprob)
        self._window_sum += logprob
        if len(self._window) == WINDOW:
            mean = self._window_sum / WINDOW
            self._lowest_window = mean if self._lowest_window is None else min(self._lowest_window, mean)

    def snapshot(self) -> dict[str, float | None]:
        """All features by name, after the tokens seen so far."""
        n, first = self.n_tokens, self._first
        ordered = sorted(self._logprobs)
        quantiles = {f"logprob_q{round(q * 100)}": _quantile(ordered, q) for q in QUANTILES}
        worst = ordered[: max(1, n // 10)]
        return {
            **quantiles,
            "sum_logprob": self.sum_logprob if n else None,
            "mean_logprob": self.sum_logprob / n if n else None,
            "worst_decile_logprob": sum(worst) / len(worst) if worst else None,
            "lowest_window_logprob": self._lowest_window,
            "mean_entropy": self._sum_entropy / n if n else None,
            "first_logprob": first.logprob if first else None,
            "first_margin": first.margin if first else None,
            "first_entropy": first.entropy if first else None,
            "share_below_half": self._unsure / n if n else None,
            "distinct_3": len(self._trigrams) / (n - 2) if n > 2 else None,
            "log_length": math.log(n) if n else None,
        }


def _quantile(ordered: list[float], q: float) -> float | None:
    if not ordered:
        return None
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
