"""How much of a conversation goes along with the question."""

import re
from collections.abc import Sequence

from edgeai.errors import ConfigError
from edgeai.types import Message


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
