"""Text for measuring and text for calibrating, which share no topic: the manual that comes with Python."""

import hashlib
import pydoc_data.topics

__all__ = ["calibration_text", "held_out_text"]


def held_out_text() -> str:
    """What proofs are measured on. No calibration may see it."""
    return _half(held_out=True)


def calibration_text() -> str:
    """What quantizers may look at."""
    return _half(held_out=False)


def _half(*, held_out: bool) -> str:
    """By a hash of the topic's name: the same in every version that has the topic."""
    topics = pydoc_data.topics.topics
    chosen = (n for n in sorted(topics) if (hashlib.sha256(n.encode()).digest()[0] % 2 == 0) is held_out)
    return "\n\n".join(topics[name] for name in chosen)
