"""Features of a prompt, known before anything is generated: fractions of a millisecond, no model."""

import math
import re
import zlib
from collections import Counter
from itertools import pairwise

__all__ = ["BUCKETS", "hashed_words", "prompt_features"]

BUCKETS = 4096
_WORD = re.compile(r"\w+", re.UNICODE)
_CODE = re.compile(
    r"```|\bdef \w+\(|\bclass \w+[:({]|#include\b|\bimport \w+|=>|\breturn\b.*;|\bSELECT\b.+\bFROM\b|</\w+>"
)
_LATEX = re.compile(r"\$[^$\n]+\$|\\(?:frac|sqrt|sum|int|begin|alpha|beta|cdot|times|left|mathbb|text)\b")
_CHOICE = re.compile(r"(?m)^\s*\(?[A-Ja-j1-9][.):]\s+\S")


def prompt_features(prompt: str, *, n_choices: int = 0) -> dict[str, float | None]:
    """Numeric features by name. ``n_choices`` are the labels given; 0: those the text lists are counted."""
    words = _WORD.findall(prompt)
    digits = sum(character.isdigit() for character in prompt)
    return {
        "prompt_log_length": math.log1p(len(prompt)),
        "prompt_log_words": math.log1p(len(words)),
        "prompt_digits": math.log1p(digits),
        "prompt_digit_share": digits / len(prompt) if prompt else 0.0,
        "prompt_code": float(bool(_CODE.search(prompt))),
        "prompt_latex": float(bool(_LATEX.search(prompt))),
        "prompt_choices": float(n_choices or len(_CHOICE.findall(prompt))),
    }


def hashed_words(prompt: str, buckets: int = BUCKETS) -> dict[int, float]:
    """How often each hashed word and pair of words occurs. The hash (CRC-32) is the same everywhere."""
    words = [word.casefold() for word in _WORD.findall(prompt)]
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    counts = Counter(zlib.crc32(term.encode()) % buckets for term in (*words, *pairs))
    return {bucket: float(n) for bucket, n in sorted(counts.items())}
