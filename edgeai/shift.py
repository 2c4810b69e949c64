"""Long chats: what the device is told when a conversation no longer fits into its context."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

from edgeai.engines import Engine
from edgeai.errors import EdgeError
from edgeai.types import Message, Request

__all__ = ["shifted"]

AT_ONCE = 4
"""Exchanges are dropped so many at a time: what stays is then the same for some turns, and stays cached."""


def shifted(engine: Engine, request: Request) -> tuple[Request, int]:
    """The request without its oldest exchanges, if it and an answer do not fit, and how many were dropped.

    System messages and the question stay. A quarter of the context is left for the answer, if that is not
    shorter. The request stays whole where dropping does not help: the engine then says that it is too long.
    """
    fixed, exchanges = _parts(request.messages)
    n_ctx = engine.info.n_ctx
    most = n_ctx - min(request.max_tokens, n_ctx // 4)

    def dropped(count: int) -> Request:
        kept = [message for exchange in exchanges[count:] for message in exchange]
        return replace(request, messages=(*fixed, *kept))

    try:
        if len(exchanges) < 2 or engine.count_prompt(request) <= most:
            return request, 0
        last = len(exchanges) - 1
        count = bisect_left(range(last), -most, lo=1, key=lambda n: -engine.count_prompt(dropped(n)))
        count = min(last, -(-count // AT_ONCE) * AT_ONCE)
        if engine.count_prompt(dropped(count)) >= n_ctx:
            return request, 0
    except EdgeError:  # it will be met again where the run can decide about it
        return request, 0
    return dropped(count), count


def _parts(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system messages, and the exchanges: each a user's message and all that follows it."""
    exchanges: list[list[Message]] = [[]]
    for message in messages:
        if message.role == "user" and exchanges[-1]:
            exchanges.append([])
        if message.role != "system":
            exchanges[-1].append(message)
    return [message for message in messages if message.role == "system"], exchanges
