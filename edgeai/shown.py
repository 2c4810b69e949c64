"""What the reader of a query has been shown so far: whose text, how much of it, and whether it is final."""

from collections.abc import Sequence

from edgeai.types import Delta, Event, Reason, Replaced, Source


class Shown:
    """Turns what the sides have said into what the reader sees.

    ``hold`` pieces are kept back, after which what was shown is final. With ``whole`` nothing is shown before
    a side has ended.
    """

    def __init__(self, *, hold: int, whole: bool) -> None:
        self._hold, self._whole = hold, whole
        self.source: Source | None = None
        self.n_pieces = 0
        self.final = False

    def show(self, source: Source, pieces: Sequence[str], reason: Reason, *, ended: bool) -> list[Event]:
        """What is new of ``source``, which has said ``pieces``, as far as it may be shown.

        ``reason`` is why the other source's text is withdrawn, if it was shown.
        """
        if not ended and (self._whole or (len(pieces) < self._hold and not self.final)):
            return []
        fresh = "".join(pieces[self.n_pieces :] if self.source == source else pieces)
        withdraws = self.source is not None and self.source != source
        if not fresh and not (ended and withdraws):
            return []
        self.source, self.n_pieces = source, len(pieces)
        self.final = self.final or (self._hold > 0 and not ended)
        delta = Delta(fresh, source)
        return [Replaced(reason, source), delta] if withdraws else [delta]
