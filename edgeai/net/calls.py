"""What is asked of the network: the call, its time limits and how often it is tried again."""

import random
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal
from urllib.parse import urlsplit

from edgeai.errors import ConfigError
from edgeai.net.link import DIRECT, Link

Kind = Literal["sse", "eventstream", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits in seconds, all finite.

    ``connect_s`` to open a connection, ``first_token_s`` from sending to the first event, ``between_s``
    between two events (or two pieces of a file), ``total_s`` for everything, waiting between tries included.
    """

    connect_s: float = 5.0
    first_token_s: float = 30.0
    between_s: float = 20.0
    total_s: float = 120.0

    def __post_init__(self) -> None:
        for name in ("connect_s", "first_token_s", "between_s", "total_s"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ConfigError(f"Timeouts({name}={value!r}) is not a positive, finite number of seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a call is tried in all, and how long to wait in between, in seconds.

    The wait doubles from ``backoff_s``, is drawn at random below that (many devices must not come back in
    step), and never exceeds ``max_wait_s``: a server that asks for more has failed.
    """

    attempts: int = 3
    backoff_s: float = 0.25
    max_wait_s: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.backoff_s < 0 or self.max_wait_s < 0:
            raise ConfigError(f"{self!r} is out of range", remedy="Give attempts >= 1 and waits >= 0")

    def wait_s(self, failures: int, asked_s: float | None = None) -> float | None:
        """Seconds to wait after this many failures, or None when it is time to give up.

        ``asked_s`` is what the server asked for (Retry-After).
        """
        if failures >= self.attempts or (asked_s or 0) > self.max_wait_s:
            return None
        ceiling = min(self.backoff_s * 2 ** (failures - 1), self.max_wait_s)
        return max(asked_s or 0.0, random.uniform(0, ceiling))


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """One request whose answer is a stream of events: a POST, or a GET when there is no body.

    ``last`` is the data of the event that ends the stream, if the protocol has one. ``secrets`` are struck
    out of everything that is quoted from the server. ``kinds`` are the forms of answer that are understood:
    server-sent events, Amazon's event stream, or one JSON document, which is one event named "whole".
    """

    url: str
    body: bytes | None = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    last: str | None = None
    kinds: tuple[Kind, ...] = ("sse",)
    link: Link = DIRECT


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One server-sent event; ``event`` is its type, "message" when the server named none.

    ``sends`` is how often the body was sent until it came.
    """

    data: str
    event: str = "message"
    sends: int = 1


def place(url: str) -> str:
    """The URL for messages: no user, password, query or fragment, any of which may hold a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
