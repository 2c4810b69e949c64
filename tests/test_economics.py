import subprocess
import sys
from typing import Any, cast

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
