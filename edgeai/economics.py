"""What an answer costs."""

from dataclasses import dataclass
from functools import cache
from math import inf
from typing import TYPE_CHECKING

from edgeai.errors import ConfigError
from edgeai.types import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens; without ``cached_usd`` cached prompt tokens cost the full price.

    Raises ConfigError for a price that is negative or not finite: no budget could be kept with it.
    """

    prompt_usd: float
    completion_usd: float
    cached_usd: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt_usd", "completion_usd", "cached_usd"):
            usd = getattr(self, name)
            if usd is not None and not 0 <= usd < inf:
                raise ConfigError(f"{name} is {usd}", why="A price must be finite, and zero or above")

    def cost(self, usage: Usage) -> float | None:
        """The price of these tokens in US dollars, or None when the counts are not known."""
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        cached = usage.cached_tokens or 0
        cached_usd = self.prompt_usd if self.cached_usd is None else self.cached_usd
        prompt = (usage.prompt_tokens - cached) * self.prompt_usd + cached * cached_usd
        return (prompt + usage.completion_tokens * self.completion_usd) / 1e6


@cache
def price_of(provider: str, model: str) -> Price | None:
    """The list price of a provider's model, from the data that genai-prices ships; nothing is fetched.

    None when the model is unknown or the extra "prices" is not installed. The rates are those of today for
    ordinary prompts; some models cost more beyond 200,000 tokens.
    """
    try:
        import genai_prices
    except ImportError:
        return None
    try:
        found = genai_prices.calc_price(genai_prices.Usage(), model, provider_id=provider)
    except LookupError:
        return None
    prompt, completion = (_rate(found.model_price, key) for key in ("input_mtok", "output_mtok"))
    if prompt is None or completion is None:
        return None
    return Price(
        prompt_usd=prompt, completion_usd=completion, cached_usd=_rate(found.model_price, "cache_read_mtok")
    )


def _rate(prices: "ModelPrice", key: str) -> float | None:
    rate = getattr(prices, key, None)
    rate = getattr(rate, "base", rate)  # of a rate in tiers, the first
    return None if rate is None else float(rate)


IMAGE_TOKENS = 50_000


def worst_cost(price: Price, prompt_bytes: int, max_tokens: int, *, images: int = 0) -> float:
    """An upper bound, in US dollars, of what one request can cost: what a budget must reserve.

    No byte-level tokenizer makes more tokens than the text has UTF-8 bytes, and the encoded body's own
    syntax outweighs the few tokens that providers add to each message; so ``prompt_bytes`` is the length of
    the whole body. Only images are dearer than their bytes: 50,000 tokens each covers the providers' tables.
    """
    prompt_usd = max(price.prompt_usd, price.cached_usd or 0.0)
    return ((prompt_bytes + images * IMAGE_TOKENS) * prompt_usd + max_tokens * price.completion_usd) / 1e6
