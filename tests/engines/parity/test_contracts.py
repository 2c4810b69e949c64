"""Contracts on the real model, on both engines: what was recorded is what runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgeai import Policy
from edgeai.binding import Method
from edgeai.drive import Stream
from edgeai.engines.local import LocalEngine
from edgeai.monitor.contract import Contract
from edgeai.monitor.probe import Layer, Probe, pack
from edgeai.monitor.score import PROBE, Category, Score
from edgeai.monitor.stages import REMOVED
from edgeai.observe import Observed, observe
from edgeai.session import Session
from edgeai.types import Answer
from tests.promises import column, contract

QUESTIONS = ["Name the chemical symbol for gold.", "Name a fruit."]
LABELS = ["fruit", "metal"]
EXAMPLES = [("apple", "fruit"), ("iron", "metal"), ("pear", "fruit"), ("copper", "metal")]
CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
METHODS: Sequence[tuple[Method, dict[str, Any]]] = [
    ("ask", {"max_tokens": 12}),
    ("extract", {"schema": CITY, "max_tokens": 16}),
    ("choose", {"choices": LABELS, "examples": EXAMPLES}),
]


def session(engine: LocalEngine, policy: Policy | None = None) -> Session:
    return Session(engine=engine, cloud=None, policy=policy or Policy(), ledger=None, weights="w" * 64)


def probe(width: int) -> Probe:
    """A line through the hidden states, drawn at random."""
    line = np.random.default_rng(0).normal(size=(1, width)) / width
    return Probe(layers=(Layer(weights=pack(line), bias=(0.1,)),))


def score(method: Method, seen: Observed) -> Score:
    """A score of the features, the label and the hidden state."""
    assert seen.seen.hidden is not None
    feature = "label_u" if method == "choose" else "sum_logprob"
    return Score(
        name="test",
        intercept=1.0,
        columns=(column(feature, weight=0.5), column(PROBE, mean=0.0, weight=0.5)),
        categories=(Category(name="label", weights={"fruit": 0.5, "metal": -0.5}),)
        if method == "choose"
        else (),
        probe=probe(seen.seen.hidden.size),
    )


def served(
    engine: LocalEngine, bound: Contract, method: Method, prompt: str, options: dict[str, Any]
) -> Answer:
    """The answer under the contract."""
    under = session(engine, Policy(contract=bound))
    if method == "choose":
        call, _ = under.classification(prompt, options["choices"], options["examples"], {})
    elif method == "extract":
        call, _ = under.extraction(prompt, options["schema"], {"max_tokens": options["max_tokens"]})
    else:
        call = under.question(prompt, {"max_tokens": options["max_tokens"]})
    return Stream(call).answer()


@pytest.mark.parametrize(("method", "options"), METHODS, ids=[method for method, _ in METHODS])
def test_what_was_recorded_is_what_runs(engine: LocalEngine, method: Method, options: dict[str, Any]) -> None:
    """Score and verdict of a live answer are those that the pipeline gives to its recording."""
    seen = [observe(session(engine), prompt, method=method, **options) for prompt in QUESTIONS]
    assert len({found.binding for found in seen}) == 1
    bound = contract(seen[0].binding, score=score(method, seen[0]), checkpoints=(1, 4, 8))
    for prompt, found in zip(QUESTIONS, seen, strict=True):
        answer = served(engine, bound, method, prompt, options)
        effective = bound.pipeline.effective(found.seen)
        assert answer.text == found.answer.text
        assert answer.score == pytest.approx(bound.pipeline.score(found.seen), abs=0.02)
        if abs(effective - bound.certificate.threshold) > 0.02 or effective == REMOVED:
            assert answer.certified is bound.keeps(effective)
        assert answer.confidence is not None


def test_another_engine_or_weights_certify_nothing(engine: LocalEngine) -> None:
    """The binding is of exactly this engine, file and template."""
    seen = observe(session(engine), QUESTIONS[0], max_tokens=2)
    bound = contract(seen.binding)
    other = Session(engine=engine, cloud=None, policy=Policy(contract=bound), ledger=None, weights="v" * 64)
    answer = Stream(other.question(QUESTIONS[0], {"max_tokens": 2})).answer()
    assert (answer.certified, answer.confidence) == (False, None)
    assert "a model file with the hash" in answer.explanation
