"""Several clouds, to be asked one after the other: cheap first, strong last."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from edgeai.cloud import Cloud, Piece, tries_of
from edgeai.economics import Price
from edgeai.errors import ConfigError
from edgeai.types import Released


@dataclass(frozen=True, slots=True)
class Tiers:
    """Clouds in the order in which an escalation climbs them.

    To itself it is its first cloud. That the next is asked when one fails or refuses is decided where
    all decisions are (`edgeai.run`), so that each send passes the egress gate and the budget of its own.
    """

    clouds: tuple[Cloud, ...]

    def __post_init__(self) -> None:
        if not self.clouds or any(isinstance(cloud, Tiers) for cloud in self.clouds):
            raise ConfigError(
                "cloud has no members, or lists in lists", remedy='Give ["openai:…", "anthropic:…"]'
            )

    @property
    def model(self) -> str:
        """The first cloud's model."""
        return self.clouds[0].model

    @property
    def endpoint(self) -> str:
        """The first cloud's address."""
        return self.clouds[0].endpoint

    @property
    def price(self) -> Price | None:
        """The first cloud's price."""
        return self.clouds[0].price

    @property
    def tries(self) -> int:
        """How often the first cloud is sent the body at most."""
        return tries_of(self.clouds[0])

    def encode(self, released: Released) -> bytes:
        """The first cloud's body."""
        return self.clouds[0].encode(released)

    def stream(self, released: Released) -> AsyncIterator[Piece]:
        """Ask the first cloud, and only that."""
        return self.clouds[0].stream(released)


def tiers_of(cloud: Cloud | None) -> tuple[Cloud, ...]:
    """The clouds to climb; none when there is none."""
    if cloud is None:
        return ()
    return cloud.clouds if isinstance(cloud, Tiers) else (cloud,)


def by_price(clouds: Sequence[Cloud]) -> Tiers:
    """The clouds from cheap to dear, by three prompt tokens and one of the answer.

    Raises ConfigError for a cloud whose price is not known.
    """

    def usd(cloud: Cloud) -> float:
        if cloud.price is None:
            raise ConfigError(
                f"The price of {cloud.model} is not known",
                remedy="Give it price=Price(…), or order them yourself",
            )
        return 3 * cloud.price.prompt_usd + cloud.price.completion_usd

    return Tiers(tuple(sorted(clouds, key=usd)))
