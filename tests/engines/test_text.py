"""Token bytes become text without broken characters and without pieces of stop strings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeai.engines.text import TextAssembler

PIECES = st.lists(st.integers(1, 5), max_size=60)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """``data`` in pieces of these sizes, the rest as one more."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [*pieces, data[start:]]


@given(text=st.text(), sizes=PIECES)
def test_any_cut_gives_the_text_back(text: str, sizes: list[int]) -> None:
    """However UTF-8 is cut into tokens, the pieces of text are whole characters and join to the text."""
    assembler = TextAssembler()
    pieces = [assembler.push(piece) for piece in cut(text.encode(), sizes)]
    assert "".join([*pieces, assembler.flush()]) == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


@given(text=st.text("ab🙂", max_size=40), stop=st.text("ab🙂", min_size=1, max_size=4), sizes=PIECES)
def test_a_stop_string_ends_the_text_before_it(text: str, stop: str, sizes: list[int]) -> None:
    """The text ends right before the first stop string, and nothing of it was given before."""
    assembler = TextAssembler([stop])
    shown = ""
    for piece in cut(text.encode(), sizes):
        shown += assembler.push(piece)
        assert text.split(stop)[0].startswith(shown)
        if assembler.stopped:
            break
    shown += assembler.flush()
    assert shown == text.split(stop)[0]
    assert assembler.stopped == (stop in text)


def test_the_first_of_several_stop_strings_wins() -> None:
    """The earliest stop string counts, also when a later one was listed first."""
    assembler = TextAssembler(["END", "\n\n"])
    assert assembler.push(b"one\n\ntwo END") == "one"
    assert assembler.stopped


@pytest.mark.parametrize("tail", [b"\xf0\x9f\x99", b"\xc3"])
def test_an_unfinished_character_is_dropped(tail: bytes) -> None:
    """A character cut off by the token limit leaves no replacement sign."""
    assembler = TextAssembler()
    assert assembler.push(b"ok" + tail) + assembler.flush() == "ok"


def test_bytes_that_are_no_text_become_replacement_signs() -> None:
    """Invalid bytes never raise."""
    assembler = TextAssembler()
    assert assembler.push(b"a\xffb") == "a\ufffdb"
