"""Promises as text: one grammar, both ways, and errors that show it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.errors import ConfigError
from edgeai.monitor.promise import Kind, Promise

KINDS: list[Kind] = ["error", "overall-error", "quality", "disagreement"]


@pytest.mark.parametrize(
    ("text", "kind", "bound", "confidence"),
    [
        ("error<=0.05@0.95", "error", 0.05, 0.95),
        ("kept-error<=5%@95%", "error", 0.05, 0.95),
        ("overall-error ≤ 2% @ 0.9", "overall-error", 0.02, 0.9),
        ("quality>=0.95@0.9", "quality", 0.95, 0.9),
        ("disagreement<=.1@.9", "disagreement", 0.1, 0.9),
    ],
)
def test_the_grammar(text: str, kind: Kind, bound: float, confidence: float) -> None:
    """Every form of the grammar is read as what it says."""
    assert Promise.parse(text) == Promise(kind=kind, bound=bound, confidence=confidence)


@given(
    st.sampled_from(KINDS),
    st.floats(0.001, 0.999).map(lambda x: round(x, 4)),
    st.floats(0.5, 0.999).map(lambda x: round(x, 4)),
)
def test_text_and_value_are_one(kind: Kind, bound: float, confidence: float) -> None:
    """A promise that is written and read again is the same."""
    promise = Promise(kind=kind, bound=bound, confidence=confidence)
    assert Promise.parse(str(promise)) == promise
    assert promise.in_words()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a promise"),
        ("error<0.05@0.95", "is not a promise"),
        ("mistakes<=0.05@0.95", "not a promise that can"),
        ("error>=0.05@0.95", "wrong direction"),
        ("quality<=0.05@0.95", "wrong direction"),
        ("error<=0@0.95", "The bound of a promise is 0"),
        ("error<=1.5@0.95", "The bound of a promise is 1.5"),
        ("error<=0.05@0.2", "The confidence of a promise is 0.2"),
        ("error<=0.05@1", "The confidence of a promise is 1"),
        ("error<=0.0.5@0.9", "is not a number"),
    ],
)
def test_what_is_no_promise(text: str, says: str) -> None:
    """A slip is a ConfigError that says what is wrong."""
    with pytest.raises(ConfigError, match=says):
        Promise.parse(text)
