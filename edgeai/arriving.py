"""A cloud's answer as it arrives, with the secrets that were taken out of the question put back."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeai.cloud import Cloud, CloudEnd, CloudText, Piece
from edgeai.errors import CloudProtocol

if TYPE_CHECKING:
    from edgeai.egress import Outbound, Restorer


def arrived(piece: Piece, restorer: "Restorer") -> Iterator[Piece]:
    """What a piece of the cloud's answer comes to: text may wait for the rest of a placeholder."""
    if isinstance(piece, CloudText):
        if text := restorer.feed(piece.text):
            yield CloudText(text)
    elif isinstance(piece, CloudEnd):
        if text := restorer.end():
            yield CloudText(text)
        calls = tuple(
            replace(call, arguments=restorer.restore_json(call.arguments)) for call in piece.tool_calls
        )
        yield replace(piece, tool_calls=calls)
    else:
        yield piece


async def collected(cloud: Cloud, outbound: "Outbound") -> tuple[str, CloudEnd]:
    """The whole text of the cloud's answer, and its end. Raises CloudError's leaves."""
    text: list[str] = []
    restorer = outbound.restorer()
    async for piece in cloud.stream(outbound.released):
        for part in arrived(piece, restorer):
            match part:
                case CloudText():
                    text.append(part.text)
                case CloudEnd() if part.tool_calls or not text:
                    empty = CloudProtocol("The cloud's answer has no text")
                    empty.sends = part.sends
                    raise empty
                case CloudEnd():
                    return "".join(text), part
    raise CloudProtocol("The cloud's answer broke off without an end")
