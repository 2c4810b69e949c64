"""OpenAI's chat completions, which most other servers speak too."""

import re
from collections.abc import AsyncGenerator

from edgeai.cloud import Piece
from edgeai.cloud.chat import ChatWire, TokenLimit
from edgeai.cloud.http import HttpCloud, checked_host, is_loopback
from edgeai.cloud.keys import Key
from edgeai.economics import Price
from edgeai.errors import ConfigError
from edgeai.net import Link, Retry, Timeouts
from edgeai.types import Released

HOME = "api.openai.com"

# OpenAI's own models that think first. They refuse temperature, top_p and stop; the "chat" variants do not.
_THINKS_FIRST = re.compile(r"(ft:)?(o\d|gpt-([5-9]|\d\d))(?!.*-chat)")


def thinks_first(model: str) -> bool:
    """Whether this model of OpenAI's refuses the sampling's fields."""
    return bool(_THINKS_FIRST.match(model))


class OpenAI:
    """A model at OpenAI, or at any server that speaks the same protocol. Connects to nothing by itself.

    key: the API key; None: read from the environment or the keyring at each call; "": there is none.
    base_url: the API's address, with its version: ``http://10.0.0.5:8000/v1``.
    key_variable: where the key is when ``key`` is None. By default OPENAI_API_KEY for OpenAI itself, and
        none for other servers, which have no business with that key; one on this machine needs no key.
    price: needed for budgets unless OpenAI's list price applies.
    token_limit: how the server calls the limit of an answer's tokens. By default ``max_completion_tokens``
        for OpenAI, which deprecated the other, and ``max_tokens``, which all others know.
    link: proxy and certificates.

    ``top_k`` and ``min_p`` are not part of the protocol and not sent. Raises ConfigError.
    """

    def __init__(
        self,
        model: str,
        *,
        key: str | None = None,
        base_url: str = f"https://{HOME}/v1",
        key_variable: str | None = None,
        price: Price | None = None,
        token_limit: TokenLimit | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        link: Link | None = None,
    ) -> None:
        host = checked_host(base_url)
        at_home = host == HOME
        if not model:
            raise ConfigError(
                "The cloud's model has no name", remedy='Give OpenAI("gpt-4o-mini"), for example'
            )
        variable = key_variable or ("OPENAI_API_KEY" if at_home else None)
        self._base_url = base_url.rstrip("/")
        self._http = HttpCloud(
            f"openai:{model}",
            model,
            ChatWire(
                model=model,
                token_limit=token_limit or ("max_completion_tokens" if at_home else "max_tokens"),
                fixed_sampling=at_home and thinks_first(model),
            ),
            base_url=base_url,
            key=Key(value=key, variable=variable, needed=not is_loopback(host)),
            price=price,
            listed="openai" if at_home else None,
            timeouts=timeouts,
            retry=retry,
            link=link,
        )

    def __repr__(self) -> str:
        return f"OpenAI({self.model!r}, base_url={self._base_url!r})"

    @property
    def model(self) -> str:
        """The provider's name of the model."""
        return self._http.model

    @property
    def endpoint(self) -> str:
        """Where the bytes go."""
        return self._http.endpoint

    @property
    def price(self) -> Price | None:
        """The price given, else OpenAI's list price for a model of theirs, else None."""
        return self._http.price

    @property
    def tries(self) -> int:
        """How often the body is sent at most."""
        return self._http.tries

    def encode(self, released: Released) -> bytes:
        """The request's body. Raises CloudProtocol for what the model does not take."""
        return self._http.encode(released)

    def stream(self, released: Released) -> AsyncGenerator[Piece, None]:
        """Ask, and give the pieces as they arrive, one CloudEnd last. Raises CloudError's leaves."""
        return self._http.stream(released)
