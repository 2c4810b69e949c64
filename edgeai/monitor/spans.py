"""Which tokens carry the answer itself: digits in prose, values in JSON. O(1) a character.

In "The total is 42 apples" only "42" decides whether the answer is right; in {"day": "Friday"} the keys and
the punctuation are forced by the grammar and say nothing.
"""

from typing import Literal

__all__ = ["SpanFinder", "SpanKind"]

SpanKind = Literal["digits", "json"]


class SpanFinder:
    """Tells for each token, in order, whether it belongs to the answer."""

    def __init__(self, kind: SpanKind) -> None:
        self._json = _JsonValues() if kind == "json" else None

    def observe(self, text: str) -> bool:
        """Whether this token, the next one, has a character of the answer."""
        if self._json is None:
            return any(character.isdigit() for character in text)
        # every character has to be read, so no short cut
        return sum(self._json.observe(character) for character in text) > 0


class _JsonValues:
    """Reads JSON a character at a time, and says which are inside a value: strings, numbers, true, false."""

    def __init__(self) -> None:
        self._containers: list[str] = []
        self._in_string = self._escaped = self._is_key = False
        self._after_colon = True  # a bare value at the top counts

    def observe(self, character: str) -> bool:
        if self._in_string:
            return self._string(character)
        if character == '"':
            self._in_string, self._is_key = True, not self._expects_value()
        elif character in "{[":
            self._containers.append(character)
            self._after_colon = False
        elif character in "}]":
            del self._containers[-1:]
            self._after_colon = False
        elif character in ":,":
            self._after_colon = character == ":"
        elif not character.isspace():
            return self._expects_value()
        return False

    def _string(self, character: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
            return False
        return not self._is_key

    def _expects_value(self) -> bool:
        return self._after_colon or self._containers[-1:] == ["["]
