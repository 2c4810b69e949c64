"""From token bytes to text: whole UTF-8 characters, and no piece of a stop string."""

import codecs
from collections.abc import Sequence

from edgeai.errors import ConfigError

__all__ = ["TextAssembler", "utf8"]


class TextAssembler:
    """Joins the bytes of tokens. ``stopped`` becomes true when a stop string has appeared."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """The text that is certain after these bytes; what may begin a stop string waits."""
        text = self._decode(piece)
        if not self._stops:
            return text
        self._held += text
        found = [at for at in map(self._held.find, self._stops) if at >= 0]
        if found:
            self.stopped = True
            return self._give(min(found), keep=False)
        return self._give(len(self._held) - self._doubtful())

    def flush(self) -> str:
        """What was held back, at the end; an unfinished character is dropped."""
        return self._give(len(self._held))

    def _give(self, count: int, *, keep: bool = True) -> str:
        text, rest = self._held[:count], self._held[count:]
        self._held = rest if keep else ""
        return text

    def _doubtful(self) -> int:
        """Length of the longest end of the held text that some stop string begins with."""
        longest = min(len(self._held), max(map(len, self._stops)) - 1)
        for size in range(longest, 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0


def utf8(text: str) -> bytes:
    """The text's bytes. Raises ConfigError for text that has none: lone surrogates."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            "The text is not valid Unicode", why=str(error), remedy="Remove the lone surrogates from it"
        ) from error
