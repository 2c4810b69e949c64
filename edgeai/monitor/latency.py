"""How long an answer will take, learned from the answers before it.

Seconds on the device = a0 + a1·n_in + a2·n_in² + n_out·(b0 + b1·(n_in + n_out/2)), where n_in counts the
prompt tokens that need prefill. The coefficients are fitted by recursive least squares with forgetting;
upper predictions are split-conformal quantiles of the ratio measured/predicted.
"""

import threading
from collections import deque
from collections.abc import Iterable, Sequence

FORGETTING = 0.98
REMEMBERED = 200
GUESSED_LENGTH = 128
GUESSED_CLOUD_S = 3.0
ENOUGH = 5


class LeastSquares:
    """Recursive least squares with exponential forgetting, for a handful of coefficients.

    The textbook recursion (Haykin, Adaptive Filter Theory, ch. 10); coefficients start at 0 and are kept
    non-negative when read, since no time is.
    """

    def __init__(self, size: int) -> None:
        self.weights = [0.0] * size
        self._p = [[1e6 if i == j else 0.0 for j in range(size)] for i in range(size)]

    def predict(self, x: Sequence[float]) -> float:
        """The fitted value at ``x``, never negative."""
        return max(0.0, sum(w * v for w, v in zip(self.weights, x, strict=True)))

    def observe(self, x: Sequence[float], y: float) -> None:
        """Learn that ``x`` gave ``y``."""
        px = [sum(p * v for p, v in zip(row, x, strict=True)) for row in self._p]
        denominator = FORGETTING + sum(v * p for v, p in zip(x, px, strict=True))
        gain = [p / denominator for p in px]
        error = y - sum(w * v for w, v in zip(self.weights, x, strict=True))
        self.weights = [w + g * error for w, g in zip(self.weights, gain, strict=True)]
        self._p = [
            [(p - g * q) / FORGETTING for p, q in zip(row, px, strict=True)]
            for row, g in zip(self._p, gain, strict=True)
        ]


class TimeModel:
    """Predicts seconds on the device. Safe from any thread."""

    def __init__(self) -> None:
        self._prefill = LeastSquares(3)
        self._decode = LeastSquares(2)
        self._ratios: deque[float] = deque(maxlen=REMEMBERED)
        self._lengths: deque[int] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()
        self.n_observed = 0

    def observe(
        self, *, n_in: int, n_out: int, prefill_s: float, decode_s: float, typical: bool = True
    ) -> None:
        """Learn from one answer: its uncached prompt tokens, its tokens, and the seconds they took.

        The length of an answer that is not ``typical`` (a profile's) says nothing about the next one's.
        """
        with self._lock:
            if self.n_observed >= ENOUGH and (predicted := self._seconds(n_in, n_out)) > 0:
                self._ratios.append((prefill_s + decode_s) / predicted)
            self._prefill.observe(_prefill_terms(n_in), prefill_s)
            self._decode.observe(_decode_terms(n_in, n_out), decode_s)
            if typical:
                self._lengths.append(n_out)
            self.n_observed += 1

    def total_s(self, *, n_in: int, max_tokens: int, quantile: float = 0.9) -> float | None:
        """Seconds that a whole answer will take with this probability, None before anything was measured."""
        with self._lock:
            if not self.n_observed:
                return None
            return self._seconds(n_in, self._length(0, max_tokens)) * self._ratio(quantile)

    def remaining_s(self, *, n_in: int, n_done: int, max_tokens: int, quantile: float = 0.9) -> float | None:
        """Seconds until an answer of which ``n_done`` tokens are there is complete."""
        with self._lock:
            if not self.n_observed:
                return None
            left = self._length(n_done, max_tokens) - n_done
            return self._decode.predict(_decode_terms(n_in + n_done, left)) * self._ratio(quantile)

    def _seconds(self, n_in: int, n_out: int) -> float:
        return self._prefill.predict(_prefill_terms(n_in)) + self._decode.predict(_decode_terms(n_in, n_out))

    def _length(self, n_done: int, max_tokens: int) -> int:
        longer = [length for length in self._lengths if length >= n_done]
        guess = round(conformal_quantile(longer, 0.9)) if len(longer) >= ENOUGH else GUESSED_LENGTH
        return min(max(guess, n_done), max_tokens)

    def _ratio(self, quantile: float) -> float:
        return conformal_quantile(self._ratios, quantile) if len(self._ratios) >= ENOUGH else 1.0


class CloudTimes:
    """The seconds that one endpoint took from the request to the end of the answer. Safe from any thread."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)

    def observe(self, total_s: float) -> None:
        """Learn from one complete answer."""
        self._seconds.append(total_s)

    def total_s(self, quantile: float = 0.95) -> float:
        """Seconds that an answer takes with this probability; a guess of 3 s before five were measured."""
        seconds = list(self._seconds)
        return conformal_quantile(seconds, quantile) if len(seconds) >= ENOUGH else GUESSED_CLOUD_S


def conformal_quantile(values: Iterable[float], quantile: float) -> float:
    """The value that the next one stays below with at least this probability, if all are exchangeable.

    The ⌈(n+1)·quantile⌉-th smallest (split conformal prediction, Vovk et al. 2005), or the largest seen.
    """
    ordered = sorted(values)
    place = -int(-(len(ordered) + 1) * quantile // 1)
    return ordered[min(place, len(ordered)) - 1]


def _prefill_terms(n_in: int) -> tuple[float, float, float]:
    return (1.0, n_in / 1e3, (n_in / 1e3) ** 2)


def _decode_terms(n_in: int, n_out: int) -> tuple[float, float]:
    return (n_out / 1e2, n_out / 1e2 * (n_in + n_out / 2) / 1e3)
