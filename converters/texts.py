"""Text for measuring and text for calibrating, which share no topic: the manual that comes with Python."""

import hashlib
import pydoc_data.topics

__all__ = ["calibration_text", "held_out_text", "text_hash"]


def held_out_text() -> str:
    """What proofs are measured on. No calibration may see it."""
    return _half(held_out=True)


def calibration_text() -> str:
    """What quantizers may look at: other topics, without the paragraphs that stand in both."""
    measured = set(held_out_text().split("\n\n"))
    return "\n\n".join(part for part in _half(held_out=False).split("\n\n") if part not in measured)


def text_hash(text: str) -> str:
    """Which text it was: the manual differs between versions of Python."""
    return hashlib.sha256(text.encode()).hexdigest()


def _half(*, held_out: bool) -> str:
    """By a hash of the topic's name: the same in every version that has the topic."""
    topics = pydoc_data.topics.topics
    chosen = (n for n in sorted(topics) if (hashlib.sha256(n.encode()).digest()[0] % 2 == 0) is held_out)
    return "\n\n".join(topics[name] for name in chosen)
