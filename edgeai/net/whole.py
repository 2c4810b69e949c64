"""An answer that is one JSON document and no stream, in bounded memory."""

from edgeai.errors import CloudProtocol
from edgeai.net.calls import ServerEvent
from edgeai.net.sse import MAX_EVENT


class WholeDecoder:
    """Feed it chunks; the whole document is one event named "whole", at `end`."""

    def __init__(self) -> None:
        self._body = bytearray()

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Nothing yet. Raises CloudProtocol beyond the limit."""
        self._body += chunk
        if len(self._body) > MAX_EVENT:
            raise CloudProtocol(f"The answer is longer than {MAX_EVENT} bytes")
        return []

    def end(self) -> list[ServerEvent]:
        """The document. Raises CloudProtocol for bad UTF-8."""
        try:
            return [ServerEvent(data=self._body.decode(), event="whole")]
        except UnicodeDecodeError as error:
            raise CloudProtocol("The answer is not UTF-8", why=error.reason) from error
