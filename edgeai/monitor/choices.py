"""Features of a classification, from the total log-probability of each label's continuation.

Contextual calibration (Zhao et al. 2021) takes away what the model says to an input without content: small
models prefer one label whatever they are asked. It helps or hurts by task and model, so its strength is
chosen on the training split.
"""

import math
from collections.abc import Iterable, Sequence

__all__ = ["STRENGTHS", "choose_strength", "corrected", "label_features"]

STRENGTHS = (0.0, 0.5, 1.0)
_LEAST = 1e-12


def corrected(
    logprobs: Sequence[float], content_free: Sequence[float] | None, strength: float = 1.0
) -> tuple[float, ...]:
    """Label log-probabilities (nats) minus ``strength`` times those on a content-free input."""
    if content_free is None or not strength:
        return tuple(logprobs)
    return tuple(value - strength * prior for value, prior in zip(logprobs, content_free, strict=True))


def label_features(
    logprobs: Sequence[float], content_free: Sequence[float] | None = None, strength: float = 0.0
) -> dict[str, float | None]:
    """Features of one classification; the likeliest label after correction is the answer.

    ``label_u`` is −log(1 − p) of the answer's probability among the labels. ``label_log_mass`` is how much
    the model meant any of the labels, ``label_logprob`` how much it meant this one (nats). With two labels
    ``label_first_u`` and ``label_second_u`` tell their sides apart. All None when a value is not a number.
    """
    if len(logprobs) < 2 or not all(math.isfinite(value) for value in logprobs):
        return dict.fromkeys(_NAMES)
    values = corrected(logprobs, content_free, strength)
    p = _softmax(values)
    ranked = sorted(p, reverse=True)
    best = max(range(len(p)), key=p.__getitem__)
    plain = _softmax(logprobs)
    mass = _log_sum(logprobs)
    two = len(p) == 2
    return {
        "label_p": p[best],
        "label_u": _u(p[best]),
        "label_log_p": math.log(max(p[best], _LEAST)),
        "label_margin": ranked[0] - ranked[1],
        "label_log_odds": math.log(max(ranked[0], _LEAST)) - math.log(max(ranked[1], _LEAST)),
        "label_entropy": -sum(q * math.log(q) for q in p if q > 0),
        "label_plain_u": _u(plain[best]),
        "label_logprob": logprobs[best],
        "label_log_mass": mass,
        "label_log_p_mass": math.log(max(p[best], _LEAST)) + 0.5 * mass,
        "label_first_u": _u(p[0]) if two else None,
        "label_second_u": _u(p[1]) if two else None,
    }


def choose_strength(
    rows: Iterable[tuple[Sequence[float], Sequence[float] | None, int]],
) -> float:
    """The strength of the correction with the most right answers on training rows; ties go to the weaker.

    A row is (label log-probabilities, those on the content-free input, the right label's place).
    """
    seen = list(rows)
    return max(STRENGTHS, key=lambda strength: (sum(_right(*row, strength) for row in seen), -strength))


def _right(
    logprobs: Sequence[float], content_free: Sequence[float] | None, gold: int, strength: float
) -> bool:
    values = corrected(logprobs, content_free, strength)
    return max(range(len(values)), key=values.__getitem__) == gold


def _softmax(values: Sequence[float]) -> tuple[float, ...]:
    total = _log_sum(values)
    return tuple(math.exp(value - total) for value in values)


def _log_sum(values: Sequence[float]) -> float:
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


def _u(p: float) -> float:
    return -math.log(max(1 - p, _LEAST))


_NAMES = (
    "label_p", "label_u", "label_log_p", "label_margin", "label_log_odds", "label_entropy", "label_plain_u",
    "label_logprob", "label_log_mass", "label_log_p_mass", "label_first_u", "label_second_u",
)  # fmt: skip
