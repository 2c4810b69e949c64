"""Amazon's binary event stream, in bounded memory.

Format: https://smithy.io/2.0/aws/amazon-eventstream.html. A message is its total length and the length of its
headers (4 bytes each, big-endian), the CRC-32 of both, headers, payload, and the CRC-32 of all before.
"""

import struct
import zlib

from edgeai.errors import CloudProtocol
from edgeai.net.calls import ServerEvent
from edgeai.net.sse import MAX_EVENT, MAX_TOTAL

_PRELUDE = struct.Struct(">III")
# The bytes of a header's value by its type; strings and byte strings (6 and 7) say their length themselves.
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


class FrameDecoder:
    """Feed it chunks cut anywhere. A message that the stream's end cuts off is an error at `end`.

    The event's name is the header ``:event-type``, or "exception:" and the header ``:exception-type``.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._total = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that this chunk completes. Raises CloudProtocol for damage and beyond the limits."""
        self._total += len(chunk)
        if self._total > MAX_TOTAL:
            raise CloudProtocol(f"The answer is longer than {MAX_TOTAL} bytes")
        self._rest += chunk
        events = []
        while frame := self._take():
            events.append(_event(frame))
        return events

    def end(self) -> list[ServerEvent]:
        """The stream is over. Raises CloudProtocol when it was cut inside a message."""
        if self._rest:
            raise CloudProtocol("The answer broke off", why="The stream ended inside a message")
        return []

    def _take(self) -> bytes | None:
        if len(self._rest) < _PRELUDE.size:
            return None
        total, head, crc = _PRELUDE.unpack_from(self._rest)
        if zlib.crc32(self._rest[:8]) != crc or total < head + 16:
            raise CloudProtocol("The answer is not an event stream", why="The checksum of a message is wrong")
        if total > MAX_EVENT:
            raise CloudProtocol(f"An event of the answer is longer than {MAX_EVENT} bytes")
        if len(self._rest) < total:
            return None
        frame = bytes(self._rest[:total])
        del self._rest[:total]
        return frame


def _event(frame: bytes) -> ServerEvent:
    _, head, _ = _PRELUDE.unpack_from(frame)
    if zlib.crc32(frame[:-4]) != int.from_bytes(frame[-4:], "big"):
        raise CloudProtocol("The answer is damaged", why="The checksum of a message is wrong")
    try:
        headers = _headers(frame[_PRELUDE.size : _PRELUDE.size + head])
        payload = frame[_PRELUDE.size + head : -4].decode()
    except (UnicodeDecodeError, IndexError, KeyError) as error:
        raise CloudProtocol("A message of the answer cannot be read", why=repr(error)) from error
    failed = headers.get(":exception-type") or headers.get(":error-code")
    kind = f"exception:{failed}" if failed else headers.get(":event-type", "message")
    return ServerEvent(data=payload or headers.get(":error-message", ""), event=kind)


def _headers(data: bytes) -> dict[str, str]:
    """The headers whose value is a string; IndexError or KeyError where they are malformed."""
    headers, at = {}, 0
    while at < len(data):
        name = data[at + 1 : at + 1 + data[at]].decode()
        at += 1 + data[at]
        kind, at = data[at], at + 1
        if kind in (6, 7):
            size, at = data[at] << 8 | data[at + 1], at + 2
        else:
            size = _FIXED[kind]
        if kind == 7:
            headers[name] = data[at : at + size].decode()
        at += size
    return headers
