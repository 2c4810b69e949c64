"""A cloud's answer as it arrives, with the secrets that were taken out of the question put back."""

from collections.abc import Iterator
from dataclasses import replace

from edgeai.cloud import CloudEnd, CloudText, Piece
from edgeai.egress import Restorer


def arrived(piece: Piece, restorer: Restorer) -> Iterator[Piece]:
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
