"""The KV cache in 8 bits."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgeai.engines.llamacpp import open_engine
from edgeai.engines.llamacpp.engine import LlamaCppEngine
from edgeai.models import prefixes
from edgeai.types import Message, Request
from tests.engines.conftest import plan, request


def test_eight_bits_take_half_the_memory_and_say_the_same(model_path: Path, engine: LlamaCppEngine) -> None:
    """About half the bytes, the same confident answer, and a kept prefix that no 16-bit engine takes."""
    small = replace(plan(512), kv_type="q8_0", weights="abc", parallel=2)
    text = request("What is 2 + 2? Answer with a digit.", max_tokens=4)
    head = Request(messages=(Message("system", "You are a guide. " * 20),))
    eight = open_engine(model_path, small, name="smollm2")
    try:
        assert eight.memory()["kv_cache"] / 512 < 0.6 * engine.memory()["kv_cache"] / 4096
        said = list(eight.stream(text))
        eight.warm(head)
    finally:
        eight.close()
    expected = list(engine.stream(text))
    assert said[0].logprob == pytest.approx(expected[0].logprob, abs=0.3)
    assert [token.id for token in said][:1] == [token.id for token in expected][:1]
    sixteen = open_engine(model_path, replace(small, kv_type="f16"), name="smollm2")
    try:
        assert sixteen.warm(head).cached_tokens == 0
    finally:
        sixteen.close()
    assert len(list(prefixes.kept())) == 1
