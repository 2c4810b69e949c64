"""Signals equal a full softmax, and draws follow the filtered distribution."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgeai.engines.sampling import Sampler, Scratch, draw
from edgeai.errors import EngineError
from edgeai.types import Sampling

GREEDY = Sampling()
LOGITS = hnp.arrays(np.float32, st.integers(2, 300), elements=st.floats(-40, 40, width=32))


def softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """The reference, in float64."""
    x = logits.astype(np.float64) / temperature
    p = np.exp(x - x.max())
    return p / p.sum()  # type: ignore[no-any-return]  # numpy's stubs lose it


def frequencies(logits: NDArray[np.float32], sampling: Sampling, n: int = 4000) -> NDArray[np.float64]:
    """How often each token is drawn."""
    random = np.random.Generator(np.random.PCG64(1))
    counts = Counter(draw(logits, sampling, random) for _ in range(n))
    return np.array([counts[i] / n for i in range(len(logits))])


@given(logits=LOGITS)
def test_signals_equal_a_full_softmax(logits: NDArray[np.float32]) -> None:
    """Logprob, entropy and margin agree with float64, and the logits are left as they were."""
    before = logits.copy()
    choice = Sampler(GREEDY, Scratch(len(logits))).choose(logits)
    p = np.sort(softmax(before))[::-1]
    assert np.array_equal(logits, before)
    assert choice.token == int(before.argmax())
    assert choice.logprob == pytest.approx(math.log(p[0]), abs=1e-4)
    assert choice.logprob <= 0
    assert choice.entropy == pytest.approx(-sum(q * math.log(q) for q in p if q > 0), abs=1e-3)
    assert choice.margin == pytest.approx(p[0] - p[1], abs=1e-5)


def test_a_mask_changes_the_choice_and_not_the_signals() -> None:
    """A constraint moves the choice; the numbers stay those of the free distribution."""
    logits = np.array([3, 2, 1], np.float32)
    free = Sampler(GREEDY, Scratch(3)).choose(logits)
    held = Sampler(GREEDY, Scratch(3)).choose(logits, np.array([False, False, True]))
    assert (free.token, held.token) == (0, 2)
    assert (held.entropy, held.margin) == (free.entropy, free.margin)
    assert held.logprob == pytest.approx(math.log(softmax(logits)[2]), abs=1e-5)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_engine_error(broken: float) -> None:
    """A model that computes NaN fails the query instead of giving a random answer."""
    with pytest.raises(EngineError, match="no usable probabilities"):
        Sampler(GREEDY, Scratch(2)).choose(np.array([1, broken], np.float32))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_draws_follow_the_temperature(temperature: float) -> None:
    """Without filters the frequencies are those of the tempered softmax."""
    logits = np.array([2, 1, 0, -1, 0.5], np.float32)
    seen = frequencies(logits, Sampling(temperature=temperature))
    assert np.abs(seen - softmax(logits, temperature)).max() < 0.03


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1, top_k=2), 2),
        (Sampling(temperature=1, top_p=0.8), 3),
        (Sampling(temperature=1, top_p=0.01), 1),
        (Sampling(temperature=1, min_p=0.5), 2),
        (Sampling(temperature=1, min_p=1.0), 1),
        (Sampling(temperature=1, top_k=3, top_p=0.99, min_p=0.5), 2),
        (Sampling(temperature=1, top_k=100), 6),
    ],
)
def test_filters_keep_the_most_likely(sampling: Sampling, kept: int) -> None:
    """Each filter keeps the expected head of the distribution, renormalised (p = .4 .2 .2 .1 .05 .05)."""
    p = np.array([0.05, 0.4, 0.1, 0.2001, 0.1999, 0.05])
    order = np.argsort(-p, kind="stable")[:kept]
    wanted = np.zeros(6)
    wanted[order] = p[order] / p[order].sum()
    seen = frequencies(np.log(p).astype(np.float32), sampling)
    assert np.abs(seen - wanted).max() < 0.03
    assert not seen[wanted == 0].any()


@given(logits=LOGITS, k=st.integers(1, 20), seed=st.integers(0, 2**32))
def test_a_draw_is_among_the_k_most_likely(logits: NDArray[np.float32], k: int, seed: int) -> None:
    """At most k tokens are more likely than the drawn one, however flat the distribution is."""
    random = np.random.Generator(np.random.PCG64(seed))
    token = draw(logits, Sampling(temperature=1.5, top_k=k), random)
    assert int((logits > logits[token]).sum()) < k


@given(logits=LOGITS, seed=st.integers(0, 2**32), data=st.data())
def test_a_forbidden_token_is_never_drawn(
    logits: NDArray[np.float32], seed: int, data: st.DataObject
) -> None:
    """Under a mask every draw is an allowed token."""
    allowed = data.draw(hnp.arrays(np.bool_, len(logits)))
    allowed[seed % len(logits)] = True
    sampler = Sampler(Sampling(temperature=1, seed=seed), Scratch(len(logits)))
    assert all(allowed[sampler.choose(logits, allowed).token] for _ in range(5))
