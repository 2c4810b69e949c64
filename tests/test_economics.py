import subprocess
import sys
from importlib.metadata import version
from typing import Any, cast

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.economics import IMAGE_TOKENS, Price, price_of, worst_cost
from edgeai.errors import ConfigError
from edgeai.types import Usage

PRICE = Price(prompt_usd=2.0, completion_usd=8.0, cached_usd=0.5)
COUNT = st.integers(0, 10**6)


def test_cost() -> None:
    """Prices are per million tokens, and cached ones have their own."""
    assert PRICE.cost(Usage(prompt_tokens=10**6, completion_tokens=0)) == 2.0
    assert PRICE.cost(Usage(prompt_tokens=10**6, completion_tokens=10**6, cached_tokens=10**6)) == 8.5
    full = Price(prompt_usd=2.0, completion_usd=8.0)
    assert full.cost(Usage(prompt_tokens=10**6, completion_tokens=0, cached_tokens=10**6)) == 2.0


@pytest.mark.parametrize("usd", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["prompt_usd", "completion_usd", "cached_usd"])
def test_a_price_is_a_sum_of_money(name: str, usd: float) -> None:
    """A negative or undefined price would open every budget; it is refused by name."""
    with pytest.raises(ConfigError, match=name):
        Price(**cast("Any", {"prompt_usd": 1.0, "completion_usd": 1.0} | {name: usd}))


def test_unknown_counts_cost_unknown() -> None:
    """Without counts the cost is unknown, not zero."""
    assert PRICE.cost(Usage()) is None
    assert PRICE.cost(Usage(prompt_tokens=1)) is None
    assert PRICE.cost(Usage(completion_tokens=1)) is None


@given(COUNT, COUNT, COUNT, COUNT, st.sampled_from([None, 0.5, 3.0]))
def test_worst_cost_is_an_upper_bound(
    n_bytes: int, prompt: int, cached: int, completion: int, cached_usd: float | None
) -> None:
    """No usage within the bounds costs more than was reserved."""
    price = Price(prompt_usd=2.0, completion_usd=8.0, cached_usd=cached_usd)
    prompt = min(prompt, n_bytes)
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=min(cached, prompt))
    cost = price.cost(usage)
    assert cost is not None
    assert cost <= worst_cost(price, n_bytes, completion) + 1e-9


def test_images_are_dearer_than_their_bytes() -> None:
    """Each image adds a fixed number of tokens, whatever its size in bytes."""
    extra = worst_cost(PRICE, 100, 10, images=2) - worst_cost(PRICE, 100, 10)
    assert extra == pytest.approx(2 * IMAGE_TOKENS * 2.0 / 1e6)


def test_list_prices() -> None:
    """Known models have a price, models in tiers their first, unknown models and providers none."""
    known, tiered = price_of("openai", "gpt-4o-mini"), price_of("openai", "gpt-5.4")
    assert known is not None
    assert known.cached_usd is not None
    assert 0 < known.cached_usd < known.prompt_usd < known.completion_usd
    assert tiered is not None
    assert price_of("openai", "no-such-model") is None
    assert price_of("no-such-provider", "gpt-4o-mini") is None


def test_list_prices_need_no_network() -> None:
    """Looking up a price opens no socket and starts no thread."""
    code = """
import socket, sys, threading
def no(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = no
from edgeai.economics import price_of
assert "genai_prices" not in sys.modules
assert price_of("openai", "gpt-4o-mini")
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without genai-prices the list price is unknown."""
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert price_of.__wrapped__("openai", "gpt-4o-mini") is None


TIERED = Price(
    prompt_usd=1.0,
    completion_usd=2.0,
    longer=(Price(prompt_usd=10.0, completion_usd=20.0, from_tokens=1000),),
)


def test_longer_prompts_have_their_price() -> None:
    """Beyond the threshold all tokens of the query cost the higher price, at it none."""
    assert TIERED.cost(Usage(prompt_tokens=1000, completion_tokens=0)) == pytest.approx(1000 / 1e6)
    assert TIERED.cost(Usage(prompt_tokens=1001, completion_tokens=1)) == pytest.approx((10010 + 20) / 1e6)
    assert worst_cost(TIERED, 1000, 1) == pytest.approx((1000 + 2) / 1e6)
    assert worst_cost(TIERED, 1001, 1) == pytest.approx((10010 + 20) / 1e6)


def test_writing_to_the_cache_has_its_price() -> None:
    """Tokens stored for later are neither fresh nor read, and what was thought is part of the completion."""
    price = Price(prompt_usd=2.0, completion_usd=8.0, cached_usd=0.5, cache_write_usd=4.0)
    usage = Usage(
        prompt_tokens=600,
        completion_tokens=100,
        cached_tokens=100,
        cache_write_tokens=200,
        reasoning_tokens=90,
    )
    assert price.cost(usage) == pytest.approx((300 * 2 + 100 * 0.5 + 200 * 4 + 100 * 8) / 1e6)
    assert worst_cost(price, 600, 100) >= (price.cost(usage) or 0)


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "gpt-5.4"),
        ("anthropic", "claude-sonnet-4-5"),
        ("google", "gemini-2.5-pro"),
        ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("groq", "llama-3.3-70b-versatile"),
    ],
)
@pytest.mark.parametrize("prompt", [10, 200_000, 200_001, 300_000])
def test_cost_is_genai_prices_own(provider: str, model: str, prompt: int) -> None:
    """Our sum is the library's, with cached tokens and in every tier of prices."""
    price = price_of(provider, model)
    assert price is not None
    assert price.as_of == f"genai-prices {version('genai-prices')}"
    cached = 5 if price.cached_usd is not None else 0
    theirs = genai_prices.Usage(input_tokens=prompt, output_tokens=7, cache_read_tokens=cached)
    expected = genai_prices.calc_price(theirs, model, provider_id=provider).total_price
    usage = Usage(prompt_tokens=prompt, completion_tokens=7, cached_tokens=cached)
    assert price.cost(usage) == pytest.approx(float(expected))
