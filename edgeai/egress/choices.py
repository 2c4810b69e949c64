"""A classification for a cloud: the question it is asked, and its answer read as one of the labels."""

import re
from collections.abc import Sequence

from edgeai.types import Message


def ask_for_label(
    messages: Sequence[Message], choices: Sequence[str], examples: Sequence[tuple[str, str]]
) -> tuple[Message, ...]:
    """The conversation as a classification: the labels in the system message, the examples as exchanges."""
    labels = "\n".join(choices)
    rule = f"Classify the user's text. Answer with exactly one of these labels and nothing else:\n{labels}"
    system = "\n\n".join([*(m.text for m in messages if m.role == "system"), rule])
    shown = [
        turn for text, label in examples for turn in (Message("user", text), Message("assistant", label))
    ]
    return (Message("system", system), *shown, *(m for m in messages if m.role != "system"))


def read_label(text: str, choices: Sequence[str]) -> str | None:
    """The choice that a cloud's free answer names, or None when it is not one of them.

    Case, white space and surrounding quotes, brackets and punctuation do not matter, as far as the choices
    differ without them.
    """
    for simple in (str, _folded, _bare):
        hits = [choice for choice in choices if simple(choice) == simple(text)]
        if len(hits) == 1:
            return hits[0]
    return None


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _bare(text: str) -> str:
    return _folded(re.sub(r"^[\W_]+|[\W_]+$", "", text) or text)
