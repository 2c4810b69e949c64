"""Features of labels, prompts and answer spans, against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.monitor import Features
from edgeai.monitor.choices import choose_strength, corrected, label_features
from edgeai.monitor.prompts import BUCKETS, hashed_words, prompt_features
from edgeai.monitor.spans import SpanFinder
from edgeai.testing import fake_token

logprobs = st.lists(st.floats(-40, 0), min_size=2, max_size=12)


@given(logprobs, st.floats(-5, 5))
def test_label_features_are_the_softmax(values: list[float], shift: float) -> None:
    """Probability, margin, entropy and −log(1 − p) of the likeliest label; a shift moves only the mass."""
    p = np.exp(values - np.logaddexp.reduce(values))
    found = label_features(values)
    assert found["label_p"] == pytest.approx(p.max())
    assert found["label_margin"] == pytest.approx(np.sort(p)[-1] - np.sort(p)[-2], abs=1e-9)
    assert found["label_u"] == pytest.approx(-math.log(max(1 - p.max(), 1e-12)), abs=1e-3)
    assert found["label_log_mass"] == pytest.approx(np.logaddexp.reduce(values))
    moved = label_features([value + shift for value in values])
    assert moved["label_entropy"] == pytest.approx(found["label_entropy"], abs=1e-6)
    assert moved["label_log_mass"] == pytest.approx((found["label_log_mass"] or 0) + shift)


def test_contextual_calibration_takes_the_prior_away() -> None:
    """A label that is likely without any content has to earn its place."""
    values, free = [-1.0, -1.5], [-0.5, -3.0]
    assert label_features(values)["label_p"] == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert corrected(values, free) == (-0.5, 1.5)
    fixed = label_features(values, free, strength=1.0)
    assert fixed["label_p"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert fixed["label_logprob"] == -1.5
    assert corrected(values, None) == tuple(values)


def test_the_strength_is_chosen_by_right_answers() -> None:
    """The correction is used where it helps, and not where it does not."""
    free = [-0.5, -3.0]
    assert choose_strength([([-1.0, -1.5], free, 1)] * 3) == 0.5
    assert choose_strength([([-1.0, -1.5], free, 0)] * 3) == 0.0
    assert choose_strength([]) == 0.0


def test_two_labels_are_told_apart() -> None:
    """For yes and no both sides have a feature; for more labels they are unknown."""
    found = label_features([math.log(0.9), math.log(0.1)])
    assert found["label_first_u"] == pytest.approx(-math.log(0.1))
    assert found["label_second_u"] == pytest.approx(-math.log(0.9))
    assert label_features([-1.0, -1.0, -1.0])["label_first_u"] is None


def test_labels_without_numbers_are_unknown() -> None:
    """NaN, infinity or a single label: all features None, by the same names."""
    known = label_features([-1.0, -2.0])
    for values in ([math.nan, -1.0], [-math.inf, -1.0], [-1.0]):
        assert label_features(values) == dict.fromkeys(known)


def test_prompt_features() -> None:
    """Digits, code, LaTeX and listed choices are seen."""
    plain = prompt_features("What is the capital of France?")
    assert (plain["prompt_code"], plain["prompt_latex"], plain["prompt_choices"], plain["prompt_digits"]) == (
        0,
        0,
        0,
        0,
    )
    assert prompt_features("def f(x):\n  return x;")["prompt_code"] == 1
    assert prompt_features("Solve $x^2$")["prompt_latex"] == 1
    assert prompt_features("Pick.\nA. one\nB. two\n(C) three\n")["prompt_choices"] == 3
    assert prompt_features("Pick", n_choices=5)["prompt_choices"] == 5
    assert prompt_features("12 and 3")["prompt_digits"] == pytest.approx(math.log(4))
    assert prompt_features("")["prompt_digit_share"] == 0


def test_the_word_hash_is_the_same_everywhere() -> None:
    """Fixed numbers: an artefact fitted on one machine is read on another."""
    assert hashed_words("Hello, world") == {323: 1.0, 389: 1.0, 1670: 1.0}
    assert hashed_words("HELLO world") == hashed_words("hello World!")
    assert all(0 <= bucket < BUCKETS for bucket in hashed_words("a b c d e f g" * 50))


@pytest.mark.parametrize(
    ("kind", "tokens", "marks"),
    [
        ("digits", ["The", " total", " is", " 4", "2", "."], "000110"),
        ("json", ['{"', "day", '":', ' "', "Fri", "day", '"', ', "n":', " 1", "2", "}"], "00001100110"),
        ("json", ["[", "true", ", ", '"a', '\\"', 'b"', "]"], "0101110"),
        ("json", ['{"a": {"b', '": "', "c", '"}, "d', '": [', "1", ',"e"]', "}"], "00100110"),
        ("json", ["7"], "1"),
    ],
)
def test_answer_spans(kind: str, tokens: list[str], marks: str) -> None:
    """Digits in prose; values, not keys or punctuation, in JSON, however the tokens are cut."""
    finder = SpanFinder("json" if kind == "json" else "digits")
    assert "".join(str(int(finder.observe(token))) for token in tokens) == marks


def test_span_features_are_those_of_the_span() -> None:
    """The same statistics over the answer's tokens alone, None where there is none."""
    features = Features()
    for text, p in (("It", 0.9), (" is", 0.8), (" 4", 0.5), ("2", 0.25)):
        features.observe(fake_token(text, p))
    found = features.snapshot(hit_limit=True)
    assert found["span_sum_logprob"] == pytest.approx(math.log(0.125))
    assert found["span_min_logprob"] == pytest.approx(math.log(0.25))
    assert (found["span_share"], found["hit_limit"]) == (0.5, 1.0)
    empty = Features()
    empty.observe(fake_token("It", 0.9))
    assert empty.snapshot()["span_sum_logprob"] is None
    assert empty.snapshot()["hit_limit"] is None


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=40))
def test_the_entropy_forms(entropies: list[float]) -> None:
    """1 − entropy / log(vocabulary) of the first token, the worst ten in a row, and all."""
    from dataclasses import replace

    features = Features(n_vocab=1000)
    for value in entropies:
        features.observe(replace(fake_token("x", 0.5), entropy=value))
    found, most = features.snapshot(), math.log(1000)
    width = min(10, len(entropies))
    windows = [np.mean(entropies[i : i + width]) for i in range(len(entropies) - width + 1)]
    assert found["sureness_first"] == pytest.approx(1 - entropies[0] / most)
    assert found["sureness_rolling"] == pytest.approx(1 - max(windows) / most)
    assert found["sureness_mean"] == pytest.approx(1 - np.mean(entropies) / most)
    assert Features().snapshot()["sureness_mean"] is None
