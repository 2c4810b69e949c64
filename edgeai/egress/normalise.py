"""The ways a text can be read: without the tricks that hide a secret from a plain search.

A `View` is the text as one of these readings shows it, with the way back to the original's characters; what
is recognised in any view is replaced in the original, of which all else leaves unchanged.
"""

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Self

# Letters that look like Latin ones, each with the one it looks like: Cyrillic, Greek, Armenian, Cherokee
# (a choice from the confusables of Unicode Technical Standard 39).
_ALIKE = (
    "аa еe оo рp сc уy хx іi јj ѕs һh ԁd ԛq ԝw ѵv гr ьb АA ВB ЕE КK МM НH ОO РP СC ТT УY ХX ІI ЈJ ЅS ԌG ԚQ "
    "ԜW З3 αa οo εe νv ιi κk ρp τt υu χx ωw ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX ϲc օo սu հh ոn ցg "
    "ꭺA ᎪA ᏴB ᏟC ᎬE ᎻH ᎫJ ᏦK ᏞL ᎷM ᏢP ᏒR ᏚS ᎢT ᏙV ᏔW ᏃZ ıi ɑa ɡg ℓl ƖI ǀl −-"
)
CONFUSABLES = {ord(pair[0]): pair[1] for pair in _ALIKE.split()}
# In sentences of its own script the ideographic full stop is no dot, so only the folded view has it as one.
CONFUSABLES[ord("。")] = "."

_INVISIBLE = {"Cf", "Me", "Cc", "Cs", "Co"}
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"
_ESCAPES = re.compile(
    r"(?:%[0-9A-Fa-f]{2})+|&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,31});"
    r"|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}"
)
_BASE64 = re.compile(
    r"(?<![A-Za-z0-9+/_=-])(?:[A-Za-z0-9+/_-]{60,76}\s{1,2})*[A-Za-z0-9+/_-]{12,}={0,2}(?![A-Za-z0-9+/_-])"
)
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{2}[ :]?){7,}[0-9A-Fa-f]{2}(?![0-9A-Za-z])")
_SPACED = re.compile(r"(?<!\S)(?:\S\s{1,3}){5,}\S(?!\S)")
_NESTED = 3


@dataclass(frozen=True, slots=True)
class View:
    """A reading of a text. Its character i stands for ``starts[i]:ends[i]`` of the original."""

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> Self:
        """The text as it is."""
        return cls(text, tuple(range(len(text))), tuple(range(1, len(text) + 1)))

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The part of the original that a part of this view, not empty, stands for."""
        return min(self.starts[start:end]), max(self.ends[start:end])


def views(text: str) -> list[View]:
    """All readings of a text that differ, the plain one first."""
    readings = [plain(text)]
    folded = View(readings[0].text.translate(CONFUSABLES), readings[0].starts, readings[0].ends)
    unescaped = _rewritten(folded, _ESCAPES, _unescape)
    # Kept beside the decoded one: digits alone may happen to be hexadecimal for a text.
    decoded, collapsed = _decoded(unescaped), _rewritten(unescaped, _SPACED, _collapse)
    for view in (folded, unescaped, decoded, collapsed):
        if view.text not in {known.text for known in readings}:
            readings.append(view)
    return readings


def plain(text: str) -> View:
    """Without invisible characters and stacked marks, compatibility forms (NFKC) and digits made ordinary."""
    if text.isascii() and text.isprintable():
        return View.of(text)
    characters: list[str] = []
    origins: list[int] = []
    for at, character in enumerate(text):
        simple = _simple(character)
        if not simple or (unicodedata.combining(character) and characters and characters[-1].isascii()):
            continue
        characters += simple
        origins += [at] * len(simple)
    return View("".join(characters), tuple(origins), tuple(at + 1 for at in origins))


@cache
def _simple(character: str) -> str:
    """What stands for one character; nothing for an invisible one."""
    if character in "\n\t\r":
        return character
    if unicodedata.category(character) in _INVISIBLE or character in _BLANK or _is_selector(character):
        return ""
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    simple = unicodedata.normalize("NFKC", character)
    if unicodedata.category(character) == "Pd":
        return "-"
    return simple if simple.isprintable() or not character.isspace() else " "


def _is_selector(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _rewritten(view: View, pattern: re.Pattern[str], replace: Callable[[str], str | None]) -> View:
    """The view with what ``replace`` gives for each match; None leaves it as it is."""
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    done = 0
    for found, new in _replacements(view.text, pattern, replace):
        begin, end = view.origin(*found.span())
        pieces += view.text[done : found.start()], new
        starts += (*view.starts[done : found.start()], *([begin] * len(new)))
        ends += (*view.ends[done : found.start()], *([end] * len(new)))
        done = found.end()
    if not done:
        return view
    return View(
        "".join((*pieces, view.text[done:])),
        (*starts, *view.starts[done:]),
        (*ends, *view.ends[done:]),
    )


def _replacements(
    text: str, pattern: re.Pattern[str], replace: Callable[[str], str | None]
) -> Iterator[tuple[re.Match[str], str]]:
    for found in pattern.finditer(text):
        new = replace(found[0])
        if new is not None and new != found[0]:
            yield found, new


def _decoded(view: View) -> View:
    """With base64 and hexadecimal text decoded, also when it is wrapped up a few times."""
    for _ in range(_NESTED):
        before = view.text
        view = _rewritten(_rewritten(view, _BASE64, _from_base64), _HEX, _from_hex)
        if view.text == before:
            break
    return view


def _collapse(run: str) -> str:
    """Spaced out text closed up; its first and last character may be words of the sentence around it."""
    joined = "".join(run.split())
    return " ; ".join((joined, joined[1:], joined[:-1], joined[1:-1]))


def _unescape(escaped: str) -> str | None:
    if escaped[0] == "%":
        return _readable(bytes.fromhex(escaped.replace("%", "")))
    if escaped[0] == "&":
        return html.unescape(escaped)
    return _simple(chr(int(escaped[2:], 16)))


def _from_base64(blob: str) -> str | None:
    compact = "".join(blob.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _readable(base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None


def _from_hex(blob: str) -> str | None:
    return _readable(bytes.fromhex(re.sub("[ :]", "", blob)))


def _readable(data: bytes) -> str | None:
    """The bytes as a text without tricks, or None when they are none."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return plain(text).text.translate(CONFUSABLES) if text and _is_text(text) else None


def _is_text(text: str) -> bool:
    return all(character.isprintable() or character in "\n\t\r" for character in text)
