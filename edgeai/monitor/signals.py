"""Features of an answer from its tokens' raw probabilities, kept in O(1) a token.

Gupta et al. 2024, "Language Model Cascades: Token-level Uncertainty and Beyond": quantiles of the token
log-probabilities carry more than their mean.
"""

import math
from collections import deque

from edgeai.monitor.spans import SpanFinder, SpanKind
from edgeai.types import Token

WINDOW = 10
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
_HALF = -math.log(2)


class Features:
    """Running features of one answer. Log-probabilities and entropies in nats; None before they exist.

    ``span`` says which tokens carry the answer itself. ``n_vocab`` is the size of the model's vocabulary, for
    the normalised entropies, which are unknown without it.
    """

    def __init__(self, *, span: SpanKind = "digits", n_vocab: int | None = None) -> None:
        self.n_tokens = 0
        self._all = Logprobs()
        self._span = Logprobs()
        self._finder = SpanFinder(span)
        self._entropies = _Entropies(n_vocab)
        self._first: Token | None = None
        self._margins = 0.0
        self._trigrams: set[tuple[int, ...]] = set()
        self._last: deque[int] = deque(maxlen=3)

    @property
    def min_logprob(self) -> float:
        """The log-probability of the least likely token so far, 0 before the first."""
        return self._all.lowest

    def observe(self, token: Token) -> None:
        """Take the next token into account."""
        self._first = self._first or token
        self.n_tokens += 1
        self._all.observe(token.logprob)
        if self._finder.observe(token.text):
            self._span.observe(token.logprob)
        self._entropies.observe(token.entropy)
        self._margins += token.margin
        self._last.append(token.id)
        if len(self._last) == 3:
            self._trigrams.add(tuple(self._last))

    def prefix(self) -> dict[str, float | None]:
        """The features that cost O(1), for a checkpoint while tokens still come."""
        n, first = self.n_tokens, self._first
        return {
            **self._all.running(),
            **self._entropies.snapshot(),
            "mean_margin": self._margins / n if n else None,
            "first_logprob": first.logprob if first else None,
            "first_margin": first.margin if first else None,
            "first_entropy": first.entropy if first else None,
            "distinct_3": len(self._trigrams) / (n - 2) if n > 2 else None,
            "log_length": math.log(n) if n else None,
        }

    def snapshot(self, *, hit_limit: bool | None = None) -> dict[str, float | None]:
        """All features by name, after the tokens seen so far; ``hit_limit``: it ended at its longest."""
        span, n = self._span, self.n_tokens
        return {
            **self.prefix(),
            **self._all.sorted_features(),
            **{f"span_{name}": value for name, value in span.running().items()},
            "span_share": span.n / n if n else None,
            "hit_limit": None if hit_limit is None else float(hit_limit),
        }


class Logprobs:
    """Running statistics of a sequence of log-probabilities."""

    def __init__(self) -> None:
        self.n = 0
        self.lowest = 0.0
        self._sum = 0.0
        self._unsure = 0
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._lowest_window: float | None = None
        self._values: list[float] = []

    def observe(self, logprob: float) -> None:
        """Take the next value into account."""
        self.n += 1
        self._sum += logprob
        self.lowest = min(self.lowest, logprob)
        self._unsure += logprob < _HALF
        self._values.append(logprob)
        self._window.append(logprob)
        if len(self._window) == WINDOW:
            mean = math.fsum(self._window) / WINDOW
            self._lowest_window = mean if self._lowest_window is None else min(self._lowest_window, mean)

    def running(self) -> dict[str, float | None]:
        """What is known without looking back."""
        n = self.n
        return {
            "sum_logprob": self._sum if n else None,
            "mean_logprob": self._sum / n if n else None,
            "min_logprob": self.lowest if n else None,
            "lowest_window_logprob": self._lowest_window,
            "share_below_half": self._unsure / n if n else None,
        }

    def sorted_features(self) -> dict[str, float | None]:
        """Quantiles and the mean of the worst tenth; sorts, so it is for the end."""
        ordered = sorted(self._values)
        worst = ordered[: max(1, self.n // 10)]
        return {
            **{f"logprob_q{round(q * 100)}": _quantile(ordered, q) for q in QUANTILES},
            "worst_decile_logprob": sum(worst) / len(worst) if worst else None,
        }


class _Entropies:
    """Entropies of the next token, and the forms of them that hybrid engines compare with a threshold."""

    def __init__(self, n_vocab: int | None) -> None:
        self._most = math.log(n_vocab) if n_vocab and n_vocab > 1 else None
        self._n = 0
        self._sum = 0.0
        self._first = 0.0
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._worst_window = 0.0

    def observe(self, entropy: float) -> None:
        self._first = self._first if self._n else entropy
        self._n += 1
        self._sum += entropy
        self._window.append(entropy)
        mean = math.fsum(self._window) / len(self._window)
        growing = self._n <= WINDOW  # a window that is not full yet is replaced by the longer one
        self._worst_window = mean if growing else max(self._worst_window, mean)

    def snapshot(self) -> dict[str, float | None]:
        mean = self._sum / self._n if self._n else None
        return {
            "mean_entropy": mean,
            "worst_window_entropy": self._worst_window if self._n else None,
            "sureness_first": self._sureness(self._first),
            "sureness_rolling": self._sureness(self._worst_window),
            "sureness_mean": self._sureness(mean),
        }

    def _sureness(self, entropy: float | None) -> float | None:
        """1 − entropy / log(vocabulary), the "confidence" of the Cactus engine."""
        if entropy is None or self._most is None or not self._n:
            return None
        return 1 - entropy / self._most


def _quantile(ordered: list[float], q: float) -> float | None:
    if not ordered:
        return None
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
