"""What an answer costs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any

from edgeai.errors import ConfigError
from edgeai.types import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice

RATES = ("prompt_usd", "completion_usd", "cached_usd", "cache_write_usd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens; what the model thinks is billed as completion.

    Without ``cached_usd`` or ``cache_write_usd`` these tokens of the prompt cost the full price. ``longer``
    are the prices of longer prompts, each from ``from_tokens`` exclusive, for all tokens of the query.
    ``as_of`` is the price list's name and version, or its date.

    Raises ConfigError for a price that is negative or not finite: no budget could be kept with it.
    """

    prompt_usd: float
    completion_usd: float
    cached_usd: float | None = None
    cache_write_usd: float | None = None
    as_of: str | None = None
    from_tokens: int = 0
    longer: tuple["Price", ...] = ()

    def __post_init__(self) -> None:
        for name in RATES:
            usd = getattr(self, name)
            if usd is not None and not 0 <= usd < inf:
                raise ConfigError(f"{name} is {usd}", why="A price must be finite, and zero or above")

    def cost(self, usage: Usage) -> float | None:
        """The price of these tokens in US dollars, or None when the counts are not known."""
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        rate = self._of(usage.prompt_tokens)
        cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
        prompt_usd = (
            max(0, usage.prompt_tokens - cached - written) * rate.prompt_usd
            + cached * (rate.prompt_usd if rate.cached_usd is None else rate.cached_usd)
            + written * (rate.prompt_usd if rate.cache_write_usd is None else rate.cache_write_usd)
        )
        return (prompt_usd + usage.completion_tokens * rate.completion_usd) / 1e6

    def worst(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The most that a query of up to so many tokens can cost, in US dollars."""
        reachable = [self, *(rate for rate in self.longer if rate.from_tokens < prompt_tokens)]
        prompt_usd = max(
            max(rate.prompt_usd, rate.cached_usd or 0.0, rate.cache_write_usd or 0.0) for rate in reachable
        )
        completion_usd = max(rate.completion_usd for rate in reachable)
        return (prompt_tokens * prompt_usd + completion_tokens * completion_usd) / 1e6

    def _of(self, prompt_tokens: int) -> "Price":
        reached = [rate for rate in self.longer if rate.from_tokens < prompt_tokens]
        return max(reached, key=lambda rate: rate.from_tokens, default=self)


@cache
def price_of(provider: str, model: str) -> Price | None:
    """The list price of a provider's model, from the data that genai-prices ships; nothing is fetched.

    ``provider`` is genai-prices' name of it. None when the model is unknown, its prices are not per token, or
    the extra "prices" is not installed. The rates are those of today.
    """
    try:
        from importlib.metadata import version  # a third of the time that `import edgeai` takes

        import genai_prices
    except ImportError:
        return None
    try:
        found = genai_prices.calc_price(genai_prices.Usage(), model, provider_id=provider)
    except LookupError:
        return None
    prices, base = found.model_price, _price(found.model_price, 0)
    if base is None:
        return None
    longer = (_price(prices, start) for start in sorted(set(_starts(prices))))
    as_of = f"genai-prices {version('genai-prices')}"
    return replace(base, as_of=as_of, longer=tuple(rate for rate in longer if rate is not None))


def _price(prices: "ModelPrice", above: int) -> Price | None:
    """The rates for prompts of more than so many tokens."""
    names = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
    prompt, completion, cached, written = (_rate(prices, name, above) for name in names)
    if prompt is None or completion is None:
        return None
    return Price(
        prompt_usd=prompt,
        completion_usd=completion,
        cached_usd=cached,
        cache_write_usd=written,
        from_tokens=above,
    )


def _starts(prices: "ModelPrice") -> Iterator[int]:
    for rate in vars(prices).values():
        yield from (tier.start for tier in getattr(rate, "tiers", ()))


def _rate(prices: "ModelPrice", key: str, above: int) -> float | None:
    rate: Any = getattr(prices, key, None)
    if hasattr(rate, "tiers"):
        reached = [tier.price for tier in rate.tiers if tier.start <= above]
        rate = reached[-1] if reached else rate.base
    return None if rate is None else float(rate)


IMAGE_TOKENS = 50_000
GUIDE_TOKENS = 2_000


def worst_cost(
    price: Price, prompt_bytes: int, max_tokens: int, *, images: int = 0, guided: bool = False
) -> float:
    """An upper bound, in US dollars, of what one request can cost: what a budget must reserve.

    No byte-level tokenizer makes more tokens than the text has UTF-8 bytes, and the encoded body's own
    syntax outweighs the few tokens that providers add to each message; so ``prompt_bytes`` is the length of
    the whole body. Only images are dearer than their bytes: 50,000 tokens each covers the providers' tables.
    ``guided`` says that there are tools or a schema: providers then add instructions of their own, which are
    billed; 2,000 tokens cover them.
    """
    prompt_tokens = prompt_bytes + images * IMAGE_TOKENS + guided * GUIDE_TOKENS
    return price.worst(prompt_tokens, max_tokens)
