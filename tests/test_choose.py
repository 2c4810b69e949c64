"""Classification: the prompt, the probabilities, and errors of the engine."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai import ConfigError, Edge, EngineError, Message
from edgeai.choose import CONTENT_FREE, classification_prompt, label_token, softmax, with_choices
from edgeai.engines import OnState
from edgeai.observe import observe
from edgeai.testing import FakeEngine
from edgeai.types import FIELDS, Priority, Request


def test_the_prompt_shows_the_examples_in_the_questions_own_form() -> None:
    """System text, each example as a Text/Category pair, then the question with an open label."""
    request = Request(messages=(Message("system", "Sort mail."), Message("user", "Where is it?")))
    request = with_choices(request, ["a", "b"], [("Hi", "a")])
    assert (
        classification_prompt(request)
        == "Sort mail.\n\nText: Hi\nCategory: a\n\nText: Where is it?\nCategory:"
    )


def test_fields_name_what_is_asked() -> None:
    """In examples, question and the inputs without content; they are checked, and part of the binding."""
    asked = []

    class Listens(FakeEngine):
        def score(
            self,
            prompt: str,
            continuations: Sequence[str],
            *,
            cancelled: Callable[[], bool] = lambda: False,
            on_state: OnState | None = None,
            adapter: str | None = None,
            priority: Priority = "interactive",
        ) -> tuple[float, ...]:
            asked.append(prompt)
            return super().score(prompt, continuations, cancelled=cancelled)

    fields = ("Headline", "Gold price")
    with Edge(engine=Listens("up"), ledger=False) as edge:
        assert (
            edge.choose("Gold soars", ["up", "down"], examples=[("x", "down")], fields=fields).label == "up"
        )
        head = "Headline: x\nGold price: down\n\nHeadline: "
        texts = (*CONTENT_FREE, "Gold soars")
        assert asked == [f"{head}{text}\nGold price:" for text in texts]
        bound = [
            observe(edge, "Hi", method="choose", choices=["up", "down"], fields=names).binding
            for names in (fields, FIELDS)
        ]
        assert bound[0].head != bound[1].head
        for wrong in (("a",), ("a", " "), ("a\n", "b"), "ab"):
            with pytest.raises(ConfigError, match="fields"):
                edge.choose("Hi", ["up", "down"], fields=wrong)  # type: ignore[arg-type]  # that is the test


@given(st.lists(st.floats(-500, 0), min_size=2, max_size=20))
def test_softmax_sums_to_one(logprobs: list[float]) -> None:
    """Also for likelihoods far below what a float's exponential can hold."""
    probabilities = softmax(logprobs)
    assert sum(probabilities) == pytest.approx(1)
    assert max(probabilities) == probabilities[logprobs.index(max(logprobs))]


def test_the_label_is_a_token_with_signals() -> None:
    """Its logprob, entropy and lead are those of the labels' distribution."""
    token = label_token({"a": 0.7, "b": 0.2, "c": 0.1})
    assert token.text == "a"
    assert token.logprob == pytest.approx(math.log(0.7))
    assert token.margin == pytest.approx(0.5)
    assert token.entropy == pytest.approx(-sum(p * math.log(p) for p in (0.7, 0.2, 0.1)))


class BrokenScores(FakeEngine):
    def score(
        self,
        prompt: str,
        continuations: object,
        *,
        cancelled: object = None,
        on_state: object = None,
        adapter: object = None,
        priority: object = None,
    ) -> tuple[float, ...]:
        raise EngineError("no logits")


def test_an_engine_that_cannot_score_is_an_error() -> None:
    """It reaches the caller from the scoring thread."""
    with Edge(engine=BrokenScores(), ledger=False) as edge, pytest.raises(EngineError, match="no logits"):
        edge.choose("Hello", ["a", "b"])
