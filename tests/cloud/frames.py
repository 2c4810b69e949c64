"""Messages of Amazon's binary event stream, for tests."""

import json
import zlib


def frame(payload: object, event: str, kind: str = "event") -> bytes:
    """One message; ``kind`` "exception" makes it an error."""
    named = {":message-type": kind, f":{kind}-type": event, ":content-type": "application/json"}
    headers = b"".join(_header(name, value) for name, value in named.items())
    body = json.dumps(payload).encode()
    prelude = (16 + len(headers) + len(body)).to_bytes(4, "big") + len(headers).to_bytes(4, "big")
    message = prelude + zlib.crc32(prelude).to_bytes(4, "big") + headers + body
    return message + zlib.crc32(message).to_bytes(4, "big")


def _header(name: str, value: str) -> bytes:
    return bytes([len(name)]) + name.encode() + b"\x07" + len(value).to_bytes(2, "big") + value.encode()
