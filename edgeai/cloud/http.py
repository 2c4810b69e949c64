"""One model at one endpoint: a wire format, carried over `edgeai.net`."""

import ipaddress
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

from edgeai import net
from edgeai.cloud import Piece
from edgeai.cloud.keys import Key
from edgeai.cloud.wire import Reader, Wire, encoded
from edgeai.economics import Price, price_of
from edgeai.errors import CloudError, ConfigError
from edgeai.net import HttpCall, Link, Retry, Timeouts
from edgeai.types import Released


class HttpCloud:
    """A `Cloud` that posts a JSON body and reads server-sent events. Connects to nothing by itself.

    ``name`` is how `edgeai.cloud.open_cloud` spells it. ``listed`` is genai-prices' name of the provider, for
    a model without a ``price`` of its own.
    """

    def __init__(
        self,
        name: str,
        model: str,
        wire: Wire,
        *,
        base_url: str,
        key: Key,
        price: Price | None = None,
        listed: str | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        link: Link | None = None,
    ) -> None:
        checked_host(base_url)
        self._name, self._model, self._wire = name, model, wire
        self._base_url, self._key = base_url.rstrip("/"), key
        self._price, self._listed = price, listed
        self._timeouts, self._retry, self._link = timeouts or Timeouts(), retry or Retry(), link or Link()

    def __repr__(self) -> str:
        return f"<cloud {self._name} at {self.endpoint}>"

    @property
    def model(self) -> str:
        """The provider's name of the model."""
        return self._model

    @property
    def endpoint(self) -> str:
        """Where the bytes go."""
        return net.place(self._base_url + self._wire.path)

    @property
    def price(self) -> Price | None:
        """The price given, else the provider's list price, else None."""
        if self._price is None and self._listed:
            return price_of(self._listed, self._model)
        return self._price

    @property
    def tries(self) -> int:
        """How often the body is sent at most."""
        return self._retry.attempts

    def encode(self, released: Released) -> bytes:
        """The request's body. Raises CloudProtocol for what the model does not take."""
        return encoded(self._wire.body(released))

    async def stream(self, released: Released) -> AsyncGenerator[Piece, None]:
        """Ask, and give the pieces as they arrive, one CloudEnd last. Raises CloudError's leaves."""
        key = await self._key.find()
        secrets = (key,) if key else ()
        with counted(0):
            body = self.encode(released)
        call = HttpCall(
            url=self._base_url + self._wire.path,
            body=body,
            headers=self._wire.headers(key),
            secrets=secrets,
            last=self._wire.last,
            kinds=("sse", "json"),  # some servers answer in one piece when there are tools
            link=self._link,
        )
        async with aclosing(carry(call, self._wire.reader(secrets), self._timeouts, self._retry)) as pieces:
            async for piece in pieces:
                yield piece


async def carry(
    call: HttpCall, reader: Reader, timeouts: Timeouts, retry: Retry
) -> AsyncGenerator[Piece, None]:
    """The pieces of the call's answer. Raises CloudError's leaves, with ``sends`` set."""
    sends = 0
    async with aclosing(net.stream_events(call, timeouts=timeouts, retry=retry)) as events:
        async for event in events:
            sends = event.sends
            with counted(sends):
                pieces = reader.feed(event.data, event.event)
            for piece in pieces:
                yield piece
    with counted(sends):
        end = reader.end()
    yield replace(end, sends=sends)


@contextmanager
def counted(sends: int) -> Iterator[None]:
    """Note in a CloudError how often the body had been sent."""
    try:
        yield
    except CloudError as error:
        error.sends = sends
        raise


def checked_host(base_url: str) -> str:
    """The host of an address that holds no secret. Raises ConfigError."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base_url is {base_url!r}", remedy="Give an address like http://10.0.0.5:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("base_url has a password, a query or a fragment", remedy="Give the key as key=…")
    return parts.hostname


def is_loopback(host: str) -> bool:
    """Whether this is the machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
