"""Packages by other exporters, with fused attention and without, say the same as edgeai's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeai.errors import ModelUnsupported
from edgeai.types import Message, Request, Token
from tests.engines.onnx.conftest import Open
from tests.engines.onnx.foreign import genai_like, optimum_like

PROMPT = Request(messages=(Message("user", "Tell me about the rain in Spain. " * 4),), max_tokens=20)
MAKERS = [genai_like, optimum_like]


def same(left: list[Token], right: list[Token]) -> bool:
    """The same tokens, and nearly the same numbers."""
    return [t.id for t in left] == [t.id for t in right] and np.allclose(
        [t.logprob for t in left], [t.logprob for t in right], atol=1e-3
    )


@pytest.mark.parametrize("make", MAKERS)
def test_another_exporter_s_graph_answers_alike(
    tiny: Path, tmp_path: Path, opened: Open, make: Callable[[Path, Path], Path]
) -> None:
    """Greedy answers, cold and warm, and scores are those of edgeai's own graph with the same weights."""
    own, other = opened(tiny), opened(make(tiny, tmp_path / "other"))
    wanted = list(own.stream(PROMPT))
    assert len({token.id for token in wanted}) > 3
    for _ in range(2):
        assert same(list(other.stream(PROMPT)), wanted)
    labels = [" rain", " in Spain falls mainly on the plain", "."]
    assert other.score("The rain", labels) == pytest.approx(own.score("The rain", labels), abs=1e-3)


@pytest.mark.parametrize("make", MAKERS)
def test_many_callers_of_another_exporter_s_graph(
    tiny: Path, tmp_path: Path, opened: Open, make: Callable[[Path, Path], Path]
) -> None:
    """Six queries at once get their own answers, joined in a batch where the graph allows it."""
    engine = opened(make(tiny, tmp_path / "other"))
    requests = [
        Request(messages=(Message("user", f"Number {i} " * (i + 1)),), max_tokens=8 + i) for i in range(6)
    ]
    alone = [list(engine.stream(request)) for request in requests]
    together = [list(generation) for generation in [engine.stream(request) for request in requests]]
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(("make", "shared"), [(genai_like, True), (optimum_like, False)])
def test_the_graph_decides_how_the_cache_is_kept(
    tiny: Path, tmp_path: Path, opened: Open, make: Callable[[Path, Path], Path], shared: object
) -> None:
    """Fused attention gets one buffer as past and present; facts come from the graph and its side files."""
    engine = opened(make(tiny, tmp_path / "other"))
    assert engine._signature.shared is shared
    assert (engine.info.n_vocab, engine.info.quantization, engine.info.n_ctx) == (267, "f32", 256)
    with pytest.raises(ModelUnsupported, match="hidden"):
        engine.embed(["a"])
