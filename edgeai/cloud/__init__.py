"""The seam to models behind a network.

A cloud is a codec: pure functions between our values and one provider's wire format, and one verb that
carries them over `edgeai.net`. It accepts a `Released` payload only, so nothing reaches it that the egress
gate has not seen.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from edgeai.economics import Price
from edgeai.errors import ConfigError
from edgeai.types import FinishReason, Released, ToolCall, Usage

if TYPE_CHECKING:
    from edgeai.net import Link, Retry, Timeouts
    from edgeai.prices import PriceTable

__all__ = ["Cloud", "CloudEnd", "CloudText", "Piece", "open_cloud", "open_clouds", "tries_of"]


@dataclass(frozen=True, slots=True)
class CloudText:
    """The next piece of the answer; never empty."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEnd:
    """The answer is complete. ``usage`` holds None where the provider did not say.

    ``usage`` is that of the try which succeeded; ``sends`` is how often the body was sent until then.
    """

    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    tool_calls: tuple[ToolCall, ...] = ()
    sends: int = 1


Piece = CloudText | CloudEnd


class Cloud(Protocol):
    """One model at one endpoint.

    One whose `stream` may send the body more than once also has ``tries: int``, how often at most: so often
    may it be billed (`tries_of`).
    """

    @property
    def model(self) -> str:
        """The provider's name of the model."""
        ...

    @property
    def endpoint(self) -> str:
        """Where the bytes go, as a URL without secrets."""
        ...

    @property
    def price(self) -> Price | None:
        """US dollars per token, or None when it is not known."""
        ...

    def encode(self, released: Released) -> bytes:
        """The body that `stream` sends, byte for byte."""
        ...

    def stream(self, released: Released) -> AsyncIterator[Piece]:
        """Ask, and give the pieces as they arrive, one CloudEnd last.

        Raises CloudError's leaves only, with ``sends`` set unless the body was sent exactly once. Closing the
        iterator (or cancelling its task) closes the connection at once.
        """
        ...


def tries_of(cloud: Cloud) -> int:
    """How often the cloud sends a body at most: its ``tries`` if it has them, else once."""
    tries: int = getattr(cloud, "tries", 1)
    return tries


def open_cloud(
    spec: str,
    *,
    key: str | None = None,
    base_url: str | None = None,
    key_variable: str | None = None,
    price: Price | None = None,
    prices: "PriceTable | None" = None,
    timeouts: "Timeouts | None" = None,
    retry: "Retry | None" = None,
    link: "Link | None" = None,
) -> Cloud:
    """The cloud that ``"provider:model"`` names; ``"vllm:qwen3@http://10.0.0.5:8000/v1"`` has its address.

    key: the API key; None: from ``key_variable`` in the environment or the keyring, by default the
        provider's usual one (not for an address that is not the provider's); "": the server wants none.
    price: US dollars per token; else ``prices`` is asked, then the list of the extra "prices".
    link: proxy and certificates.

    Connects to nothing. Raises ConfigError for an unknown provider, and for an address that is none.
    """
    from edgeai.cloud.providers import PROVIDERS, Access, connect

    provider, _, model = spec.partition(":")
    model, at, address = model.partition("@http")
    if provider not in PROVIDERS or not model or (at and base_url):
        raise ConfigError(
            f"{spec!r} names no cloud",
            why=f"Expected provider:model, and the known providers are: {', '.join(PROVIDERS)}",
            remedy='Give "openai:gpt-4o-mini", for example; or "vllm:qwen3@http://…/v1" for your own server',
        )
    if price is None and prices is not None:
        price = prices.find(f"{provider}:{model}")
    access = Access(
        key=key,
        base_url=f"http{address}" if at else base_url,
        key_variable=key_variable,
        price=price,
        timeouts=timeouts,
        retry=retry,
        link=link,
    )
    return connect(provider, model, access)


def open_clouds(
    cloud: "str | Cloud | Sequence[str | Cloud] | None", *, prices: "PriceTable | None" = None
) -> Cloud | None:
    """What the app gave as its cloud: one, several from cheap to strong, or none. Raises ConfigError."""
    if isinstance(cloud, str):
        return open_cloud(cloud, prices=prices)
    if isinstance(cloud, Sequence):
        from edgeai.cloud.tiers import Tiers

        return Tiers(tuple(_opened(one, prices) for one in cloud))
    return None if cloud is None else _opened(cloud, prices)


def _opened(cloud: "str | Cloud", prices: "PriceTable | None") -> Cloud:
    if isinstance(cloud, str):
        return open_cloud(cloud, prices=prices)
    if not hasattr(cloud, "stream"):
        raise ConfigError(
            f"cloud is {cloud!r}", remedy='Give "openai:<model>", a list of these, or OpenAI(…)'
        )
    return cloud
