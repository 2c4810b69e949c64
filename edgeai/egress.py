"""The one gate for outbound bytes: what of a request may leave the device.

`release` alone makes a Released, and clouds accept nothing else.
"""

import re
from collections.abc import Sequence
from typing import Literal

from edgeai.errors import CloudProtocol, ConfigError, PrivacyViolation
from edgeai.types import Message, Released, Request


def release(request: Request, *, privacy: Literal["local", "allow"], disclose: str) -> Released:
    """What a cloud may see of this request; see `parse_disclose` for ``disclose``.

    Raises PrivacyViolation unless ``privacy`` is "allow", and when a message to be sent is private: it is not
    dropped silently, because the answer would then be to another question. Raises CloudProtocol for a
    grammar, which no cloud keeps to, and ConfigError for an unknown ``disclose``.
    """
    if privacy != "allow":
        raise PrivacyViolation(
            "The query may not leave the device",
            why=f"The policy says privacy={privacy!r}",
            remedy='Use Policy(privacy="allow") if it may',
        )
    messages = disclosed(request.messages, parse_disclose(disclose))
    if any(message.private for message in messages):
        raise PrivacyViolation("A private message may not leave the device")
    if request.grammar is not None:
        raise CloudProtocol("The cloud cannot keep to a grammar", remedy="Use a JSON schema instead")
    if request.choices:
        messages = ask_for_label(messages, request.choices, request.examples)
    return Released(
        messages=messages,
        max_tokens=request.max_tokens,
        sampling=request.sampling,
        stop=request.stop,
        schema=request.schema,
        tools=request.tools,
    )


def parse_disclose(disclose: str) -> int | None:
    """How many earlier exchanges go along: None for "all", 0 for "question", n for "turns:n".

    Raises ConfigError for anything else.
    """
    if disclose == "all":
        return None
    if disclose == "question":
        return 0
    if isinstance(disclose, str) and (found := re.fullmatch(r"turns:([0-9]{1,6})", disclose)):
        return int(found[1])
    raise ConfigError(
        f"disclose is {disclose!r}", remedy='Give "all", "question" or "turns:n" (the last n exchanges)'
    )


def disclosed(messages: Sequence[Message], exchanges: int | None) -> tuple[Message, ...]:
    """The system messages, the question, and this many exchanges before it (None: all).

    A user message and all that follows it, until the next user message, is one exchange; the last one is the
    question, with the results of the tools that were called for it.
    """
    if exchanges is None:
        return tuple(messages)
    starts = [at for at, message in enumerate(messages) if message.role == "user"]
    first = starts[-(exchanges + 1)] if exchanges < len(starts) else 0
    return tuple(m for at, m in enumerate(messages) if m.role == "system" or at >= first)


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
