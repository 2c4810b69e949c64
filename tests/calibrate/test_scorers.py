"""How answers are judged."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.calibrate.scorers import scorer
from edgeai.errors import ConfigError
from edgeai.scorers import usual_scorer


@pytest.mark.parametrize(
    ("name", "answer", "reference", "quality"),
    [
        ("exact", "Paris", "Paris", 1), ("exact", "paris", "Paris", 0), ("exact", "b", ["a", "b"], 1),
        ("normalised", "The Eiffel-Tower!", "eiffeltower", 1), ("normalised", "Lyon", "Paris", 0),
        ("normalised", "a", "an", 1),  # both have no words left
        ("numeric", "It is 1,234.50 in all.", "1234.5", 1), ("numeric", "3 + 4 = 7", 7, 1),
        ("numeric", "between 3-4", 4, 1), ("numeric", "−5", "-5", 1), ("numeric", "seven", 7, 0),
        ("numeric", "7.1", 7, 0), ("numeric", "about 1e3", [999, 1000], 1), ("numeric", "H2O", 2, 0),
        ("choice", " Billing ", "billing", 1), ("choice", "billing.", "billing", 0),
        ("json", '{"a": 1, "b": "X"}', {"a": 1.0, "b": "x"}, 1), ("json", '{"a": 1}', {"a": 1, "b": 2}, 0.5),
        ("json", '{"a": 1, "c": 3}', {"a": 1, "b": 2}, 1 / 3), ("json", "{", {"a": 1}, 0),
        ("json", '{"a": [1, 2]}', '{"a": [1, 3]}', 0.5), ("json", '{"a": true}', {"a": 1}, 0),
        ("json", "{}", "{}", 1), ("json", '{"a": null}', {"a": None}, 1),
    ],
)  # fmt: skip
def test_scorers(name: str, answer: str, reference: object, quality: float) -> None:
    """Each by examples."""
    assert scorer(name)(answer, reference) == pytest.approx(quality)


@given(st.integers(-(10**12), 10**12), st.text(alphabet="abc .,:", max_size=20))
def test_a_number_is_found_in_words(number: int, words: str) -> None:
    """A number behind any words and a blank is read back."""
    assert scorer("numeric")(f"{words} {number}", number) == 1


@given(st.text())
def test_every_text_equals_itself(text: str) -> None:
    """For the scorers of texts."""
    assert (
        scorer("exact")(text, text) == scorer("normalised")(text, text) == scorer("choice")(text, text) == 1
    )


def test_a_callable_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported from the current folder, and must give a number from 0 to 1."""
    (tmp_path / "my_scoring.py").write_text(
        "def half(answer, reference): return 0.5\ndef odd(answer, reference): return answer\nnone = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert scorer("my_scoring:half")("a", "b") == 0.5
    with pytest.raises(ConfigError, match="gave 'a'"):
        scorer("my_scoring:odd")("a", "b")
    with pytest.raises(ConfigError, match="is no function"):
        scorer("my_scoring:none")
    for missing in ("my_scoring:nothing", "no_such_module:x"):
        with pytest.raises(ConfigError, match="cannot be imported"):
            scorer(missing)


def test_unknown_names() -> None:
    """The nearest name is given."""
    with pytest.raises(ConfigError, match="Did you mean 'numeric'"):
        scorer("numerical")
    assert [usual_scorer(method) for method in ("ask", "choose", "extract")] == [
        "normalised",
        "choice",
        "json",
    ]
