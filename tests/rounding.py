"""How far rounding may move an answer, when it is decoded in other company."""

import math

from edgeai.types import Token

MOST_GAP = 1.0
"""Nats between the two likeliest tokens.

In 4,300 tokens decoded alone and in other company, at other cells and in other cuts, that gap moved by .07 in
the median, by .47 at the 99th percentile, and by .93 at most.
"""


def gap(token: Token) -> float:
    """Nats between the token and the second likeliest."""
    first = math.exp(token.logprob)
    return math.log(first / max(first - token.margin, 1e-9))
