"""The seam to models behind a network.

A cloud is a codec: pure functions between our values and one provider's wire format, and one verb that
carries them over `edgeai.net`. It accepts a `Released` payload only, so nothing reaches it that the egress
gate has not seen.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from edgeai.economics import Price
from edgeai.errors import ConfigError
from edgeai.types import FinishReason, Released, ToolCall, Usage

__all__ = ["Cloud", "CloudEnd", "CloudText", "Piece", "open_cloud"]

PROVIDERS = ("openai",)


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
    """One model at one endpoint."""

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


def open_cloud(spec: str) -> Cloud:
    """The cloud that ``"provider:model"`` names, with the provider's usual address and key variable.

    Connects to nothing. Raises ConfigError for an unknown provider.
    """
    provider, _, model = spec.partition(":")
    if provider not in PROVIDERS or not model:
        raise ConfigError(
            f"{spec!r} names no cloud",
            why=f"Expected provider:model, and the known providers are: {', '.join(PROVIDERS)}",
            remedy='Give "openai:gpt-4o-mini", for example; or OpenAI(model, base_url=…) for your own server',
        )
    from edgeai.cloud.openai import OpenAI

    return OpenAI(model)
