"""Secrets come back, however the answer is cut and however its placeholders are spelled."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.egress import Restorer

ORIGINALS = {
    "<EMAIL_1>": "ana@x.com",
    "<EMAIL_12>": "bob@y.org",
    "<CARD_1>": '41"11\n',
    "<FULL_NAME_2>": "Ana",
}
BITS = st.sampled_from(
    [
        *ORIGINALS,
        *(
            "<email_1>",
            "EMAIL_1",
            "&lt;EMAIL_12&gt;",
            "< EMAIL 1 >",
            "<FULL_NAME_2's>",
            "<EMAIL_9>",
            "<",
            "<E",
            "X",
        ),
        *("_", "1", " ", "&lt", "\\", "é", "text", "<b>", "EMAIL", "\\u003cCARD_1\\u003e"),
    ]
)


@given(st.lists(BITS, max_size=12).map("".join), st.data())
def test_cutting_changes_nothing(answer: str, data: st.DataObject) -> None:
    """Any cutting of an answer gives what the whole gives, and no text is lost."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=20)))
    pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
    restorer = Restorer(ORIGINALS)
    streamed = "".join([*map(restorer.feed, pieces), restorer.end()])
    assert streamed == Restorer(ORIGINALS).restore(answer)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("Write to <EMAIL_1>.", "Write to ana@x.com."),
        ("<EMAIL_12>'s and <EMAIL_1>s", "bob@y.org's and ana@x.coms"),
        ("<FULL_NAME_2's> dog", "Ana's dog"),
        ("EMAIL_1, **EMAIL_12**", "ana@x.com, **bob@y.org**"),
        ("<email-1> < EMAIL_1 > <EMAIL\\_1>", "ana@x.com ana@x.com ana@x.com"),
        ("&lt;EMAIL_1&gt;", "ana@x.com"),
        ("<EMAIL_2> MYEMAIL_1 EMAIL_123 email 1", "<EMAIL_2> MYEMAIL_1 EMAIL_123 email 1"),
    ],
)
def test_spellings(answer: str, shown: str) -> None:
    """What is a placeholder is restored; what was never given, or only looks like one, is left."""
    assert Restorer(ORIGINALS).restore(answer) == shown


def test_text_is_not_kept_back_needlessly() -> None:
    """Only the beginning of a placeholder waits."""
    restorer = Restorer(ORIGINALS)
    assert restorer.feed("if a < b: <b>bold</b> ") == "if a < b: <b>bold</b> "
    assert restorer.feed("see <EMA") == "see "
    assert restorer.feed("IL_1> now") == "ana@x.com now"
    assert Restorer({}).feed("<EMAIL") == "<EMAIL"


def test_in_json() -> None:
    """In a JSON answer the secret is escaped, and the value reads back exactly; in a parsed one it is not."""
    answer = Restorer(ORIGINALS, in_json=True).restore('{"card": "<CARD_1>"}')
    assert json.loads(answer) == {"card": ORIGINALS["<CARD_1>"]}
    restored = Restorer(ORIGINALS, in_json=True).restore_json({"a": ["<CARD_1>", 1]})
    assert restored == {"a": [ORIGINALS["<CARD_1>"], 1]}
