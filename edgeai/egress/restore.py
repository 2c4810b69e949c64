"""Placeholders out, secrets in: what a cloud answered, made whole again on the device, as it streams."""

import json
import re
from collections.abc import Mapping
from typing import Any

_OPEN, _CLOSE = ("<", "&lt;", r"\u003c", "＜"), (">", "&gt;", r"\u003e", "＞")
_SUFFIX = r"['’]?[^\W\d_]{0,3}"
_MAX_DIGITS = 9
# Longer than any placeholder can be spelled.
_WINDOW = 96


class Restorer:
    """Feed it an answer's pieces in order, then call `end`; how the answer is cut changes nothing.

    A placeholder is also known in other letter case, with a blank, a hyphen or an escape in it, with an
    ending ("<NAME_1>s", "<NAME_1's>"), and, spelled exactly, without its brackets. One that was never given
    is left as it is. With ``in_json`` secrets are escaped as in a JSON string.
    """

    def __init__(self, originals: Mapping[str, str], *, in_json: bool = False) -> None:
        self._originals = {placeholder[1:-1]: original for placeholder, original in originals.items()}
        self._in_json = in_json
        kinds = sorted({name.rpartition("_")[0] for name in self._originals}, key=len, reverse=True)
        self._whole = _whole(kinds) if kinds else None
        self._begun = _begun(kinds) if kinds else None
        self._kept = ""
        self._before = ""

    def feed(self, piece: str) -> str:
        """What can be shown now: no placeholder that may still go on is in it."""
        self._kept += piece
        if self._begun is None:
            return self._take(len(self._kept))
        text = self._before + self._kept
        begun = self._begun.search(text, max(len(self._before), len(text) - _WINDOW))
        return self._take(begun.start() - len(self._before) if begun else len(self._kept))

    def end(self) -> str:
        """The answer is complete: what was kept back."""
        return self._take(len(self._kept))

    def restore(self, text: str) -> str:
        """A whole text at once, apart from the stream."""
        return self._restore(text, 0)

    def restore_json(self, value: Any) -> Any:  # noqa: ANN401  # JSON, of any shape
        """A JSON value with the secrets back in its strings, keys too."""
        if isinstance(value, str):
            return self._restore(value, 0, in_json=False)
        if isinstance(value, Mapping):
            return {self.restore_json(key): self.restore_json(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.restore_json(item) for item in value]
        return value

    def _take(self, length: int) -> str:
        taken, self._kept = self._kept[:length], self._kept[length:]
        restored = self._restore(self._before + taken, len(self._before))
        self._before = (self._before + taken)[-1:]
        return restored

    def _restore(self, text: str, start: int, *, in_json: bool | None = None) -> str:
        if self._whole is None:
            return text[start:]
        pieces: list[str] = []
        done = start
        for found in self._whole.finditer(text, start):
            pieces += (
                text[done : found.start()],
                self._original(found, self._in_json if in_json is None else in_json),
            )
            done = found.end()
        return "".join((*pieces, text[done:]))

    def _original(self, found: re.Match[str], in_json: bool) -> str:  # noqa: FBT001  # private
        kind, number = found["kind"] or found["bare"], found["number"] or found["bare_number"]
        original = self._originals.get(f"{re.sub('[ -]', '_', kind.upper())}_{int(number)}")
        if original is None:
            return found[0]
        shown = json.dumps(original, ensure_ascii=False)[1:-1] if in_json else original
        return shown + (found["suffix"] or "")


def _whole(kinds: list[str]) -> re.Pattern[str]:
    """A placeholder, complete."""
    spelled = "|".join(kind.replace("_", r"\\?[_ -]") for kind in kinds)
    opened, closed = "|".join(map(re.escape, _OPEN)), "|".join(map(re.escape, _CLOSE))
    return re.compile(
        rf"(?i:(?:{opened})\s?(?P<kind>{spelled})\\?[_ -](?P<number>\d{{1,{_MAX_DIGITS}}})"
        rf"(?P<suffix>{_SUFFIX})\s?(?:{closed}))"
        rf"|(?<![A-Za-z0-9_])(?P<bare>{'|'.join(kinds)})\\?_(?P<bare_number>\d{{1,{_MAX_DIGITS}}})(?!\d)"
    )


def _begun(kinds: list[str]) -> re.Pattern[str]:
    """The beginning of a placeholder, up to the text's end."""
    bracketed = "|".join(_prefix([*map(re.escape, o), r"\s?", *_body(kind)]) for o in _OPEN for kind in kinds)
    bare = "|".join(_prefix([*kind, r"\\?", "_", rf"\d{{1,{_MAX_DIGITS}}}"]) for kind in kinds)
    return re.compile(rf"(?:(?i:{bracketed})|(?<![A-Za-z0-9_])(?:{bare}))\Z")


def _body(kind: str) -> list[str]:
    letters = [r"\\?[_ -]" if letter == "_" else letter for letter in kind]
    closing = "(?:" + "|".join(_prefix(list(map(re.escape, c[:-1]))) for c in _CLOSE if len(c) > 1) + ")"
    return [*letters, r"\\?", "[_ -]", rf"\d{{1,{_MAX_DIGITS}}}", _SUFFIX, r"\s?", closing]


def _prefix(atoms: list[str]) -> str:
    """A pattern for the first one, two, … or all of these, in order."""
    pattern = ""
    for atom in reversed(atoms):
        pattern = f"{atom}(?:{pattern})?" if pattern else atom
    return pattern
