"""Server-sent events from bytes, in bounded memory: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

import re

from edgeai.errors import CloudProtocol
from edgeai.net.calls import ServerEvent

MAX_EVENT = 1 << 20  # bytes of one line, and of one event's data
MAX_TOTAL = 64 << 20  # bytes of a whole answer

_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventDecoder:
    """Feed it chunks cut anywhere. An event that the stream's end cuts off is dropped, so the standard."""

    def __init__(self) -> None:
        self._rest = bytearray()  # the line that is not complete yet
        self._after_cr = False
        self._total = 0
        self._first = True
        self._data: list[bytes] = []
        self._size = 0
        self._event = b""

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that this chunk completes. Raises CloudProtocol beyond the limits and for bad UTF-8."""
        self._count(len(chunk))
        return [event for line in self._lines(chunk) if (event := self._line(line))]

    def end(self) -> list[ServerEvent]:
        """The stream is over: nothing more."""
        return []

    def _count(self, size: int) -> None:
        self._total += size
        if self._total > MAX_TOTAL:
            raise CloudProtocol(f"The answer is longer than {MAX_TOTAL} bytes")

    def _lines(self, chunk: bytes) -> list[bytes]:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        *lines, rest = _LINE_END.split(chunk)
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > MAX_EVENT:
            raise CloudProtocol(f"A line of the answer is longer than {MAX_EVENT} bytes")
        return lines

    def _line(self, line: bytes) -> ServerEvent | None:
        if self._first:
            self._first, line = False, line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._add(value)
        elif name == b"event":
            self._event = value
        return None  # id and retry are for reconnecting, which an answer cannot do; a comment has no name

    def _add(self, value: bytes) -> None:
        self._size += len(value) + 1
        if self._size > MAX_EVENT:
            raise CloudProtocol(f"An event of the answer is longer than {MAX_EVENT} bytes")
        self._data.append(value)

    def _dispatch(self) -> ServerEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], b"", 0
        if not data:
            return None
        try:
            return ServerEvent(data=b"\n".join(data).decode(), event=event.decode() or "message")
        except UnicodeDecodeError as error:
            raise CloudProtocol("The answer is not UTF-8", why=error.reason) from error
