"""Guessing tokens ahead, and having the model check several of them in one batch.

Answers repeat what came before: names, quotes, code, JSON keys. What followed the last three tokens when they
occurred before is the draft (prompt lookup, https://github.com/apoorvumang/prompt-lookup-decoding). The query
chooses each token from the model's own distribution, exactly as without a draft, and goes on to the next row
only where it has chosen what was guessed: greedy or sampled, nothing changes but the speed.

Whether that pays is a question of how often such guesses are right and of what rows cost, and both are
measured all the time: every token that is made shows whether a guess would have been right, made or not. What
came of it is measured, too: an `Account` ends it where the estimates are wrong.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from edgeai.engines.account import Account

__all__ = ["LONGEST", "MARGIN", "RETRY", "Costs", "Guess", "Lookup", "Odds", "Outcome", "Speculation", "gain"]

LONGEST: Final = 15
"""Most tokens of one draft."""

MARGIN: Final = 1.25
"""So many times its cost a draft must be worth: estimates err, and a guess has to be checked, too."""

RETRY: Final = 256
"""Promising drafts that seem too dear are tried this rarely: costs change with the machine's load."""

_SURE: Final = 3
"""Guesses that were right in a row."""

_PLAIN_AGAIN: Final = 64
"""After so many steps with drafts some have none, to see what a plain one takes now."""

_GUESSED_READING: Final = 1 / 300
"""Seconds for a token of a prompt, until that is measured."""

_NEW: Final = 0.15
"""Weight of the newest measurement."""

_MEMORY: Final = 200.0
"""Guesses after which older ones fade."""

_SHARED: Final = 6.0
"""So many guesses of a query's own weigh as much as those of all queries before it."""


class Outcome(NamedTuple):
    """A step: its queries, rows with outputs and tokens without, the tokens it gave, and what it took.

    Seconds are those of the step, and those that its guesses took before it.
    """

    sequences: int
    rows: int
    silent: int
    made: int
    seconds: float
    guessing: float = 0.0


class Guess(NamedTuple):
    """The tokens that a draft model foresees, and how sure it is of each, from 0 to 1."""

    tokens: list[int]
    sure: list[float]


class Costs:
    """Seconds that a step takes, by its number of rows, and seconds to read a token of a prompt.

    A step unlike the one before takes longer, as the native library plans it anew: for steps without drafts
    only those count that follow one like them.
    """

    def __init__(self) -> None:
        self._last = 0
        self._reading: float | None = None
        self._rows: list[int] = []  # those that were measured, in order
        self._seconds: dict[int, float] = {}

    @property
    def reading(self) -> float:
        """Seconds for a token of a prompt."""
        return self._reading or _GUESSED_READING

    def note(self, rows: int, silent: int, seconds: float, *, guessed: bool = False) -> bool:
        """A step with ``rows`` outputs and ``silent`` tokens without took so long; whether that counts."""
        last, self._last = self._last, 0 if silent else rows
        if silent >= 16:
            reading = max(1e-6, seconds - (self.of(rows) if rows else 0.0)) / silent
            known = self._reading or reading
            self._reading = known + _NEW * (min(reading, 3 * known) - known)
        elif not silent and rows and (guessed or rows == last):
            if rows not in self._seconds:
                self._rows.insert(bisect_left(self._rows, rows), rows)
                self._seconds[rows] = seconds
            known = self._seconds[rows]
            self._seconds[rows] = known + _NEW * (min(seconds, 3 * known) - known)
            return True
        return False

    def of(self, rows: int) -> float:
        """What ``rows`` would take: measured, or between its neighbours, or beyond them as in prompts."""
        known = self._seconds.get(rows)
        if known is not None:
            return known
        at = bisect_left(self._rows, rows)
        if at == 0:
            return self.reading * rows
        below = self._rows[at - 1]
        if at == len(self._rows):
            return self._seconds[below] + (rows - below) * self.reading
        above = self._rows[at]
        part = (rows - below) / (above - below)
        return self._seconds[below] * (1 - part) + self._seconds[above] * part


class Odds:
    """How often a guess was right, by how many guesses in a row were right before it."""

    def __init__(self) -> None:
        self._right = [1.0] * 6
        self._all = [2.0] * 6

    def note(self, streak: int, *, right: bool) -> None:
        """One guess more."""
        place = _place(streak)
        if self._all[place] >= _MEMORY:
            self._right[place] *= 0.5
            self._all[place] *= 0.5
        self._right[place] += right
        self._all[place] += 1

    def of(self, streak: int, prior: "Odds | None" = None) -> float:
        """The share of right ones; what ``prior`` says counts for some more of them."""
        place = _place(streak)
        if prior is None:
            return self._right[place] / self._all[place]
        own, right = self._all[place] - 2, self._right[place] - 1
        return (right + _SHARED * prior.of(streak)) / (own + _SHARED)


class Lookup:
    """Where in a query's own tokens it might go on. ``n_prompt`` of them are the prompt's."""

    def __init__(self, n_prompt: int) -> None:
        self.streak = 0
        self.odds = Odds()
        self._n_prompt = n_prompt
        self._after: dict[tuple[int, int, int], int] = {}
        self._seen = 0
        self._next: int | None = None

    def follow(self, tokens: Sequence[int], shared: Odds) -> None:
        """Take in the tokens that are new, each of which shows whether the guess was right."""
        if self._seen == 0:
            heads = zip(tokens, tokens[1 : self._n_prompt], tokens[2 : self._n_prompt], strict=False)
            self._after = {three: at for at, three in enumerate(heads, 3) if at < self._n_prompt}
            self._seen = self._n_prompt
        for at in range(self._seen, len(tokens)):
            self._check(tokens[at], tokens, shared)
            three = tokens[at - 2], tokens[at - 1], tokens[at]
            if self._next is None:
                self._next, self.streak = self._after.get(three), 0
            self._after[three] = at + 1
        self._seen = len(tokens)

    @property
    def is_sure(self) -> bool:
        """Whether the last guesses were right, so that the next ones probably are."""
        return self._next is not None and self.streak >= _SURE

    def ahead(self, tokens: Sequence[int], most: int) -> list[int]:
        """The guess: what followed then, again and again if it leads up to now."""
        if self._next is None:
            return []
        period = len(tokens) - self._next
        return [tokens[self._next + i % period] for i in range(most)]

    def _check(self, token: int, tokens: Sequence[int], shared: Odds) -> None:
        if self._next is None:
            return
        right = tokens[self._next] == token
        self.odds.note(self.streak, right=right)
        shared.note(self.streak, right=right)
        if right:
            self._next += 1
            self.streak += 1
        else:
            self._next = None


class Speculation:
    """Decides for each query of a batch how far to guess ahead. Used by the scheduler's thread alone."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._odds = Odds()
        self._account = Account()
        self._too_dear = 0
        self._since_plain = 0
        self._charged: Account | None = None  # who pays for this step, and for the plain one after it

    def draft(
        self, lookup: Lookup, tokens: Sequence[int], *, sequences: int, rows: int, room: int
    ) -> list[int]:
        """The draft that saves most time, empty if none saves any.

        The batch has ``rows`` rows already, from ``sequences`` queries, and ``room`` for more.
        """
        lookup.follow(tokens, self._odds)
        if not self.may_guess or not self._account.is_open:
            return []
        ahead = lookup.ahead(tokens, min(room, LONGEST))
        worth, before = self._costs.of(sequences) / sequences, self._costs.of(rows)
        best, most, right, reach = 0, 0.0, 0.0, 1.0
        for size in range(1, len(ahead) + 1):
            reach *= lookup.odds.of(lookup.streak + size - 1, self._odds)
            right += reach
            saved = right * worth - MARGIN * (self._costs.of(rows + size) - before)
            if saved > most:
                best, most = size, saved
        if not best and right >= 2:
            self._too_dear += 1
            best = min(len(ahead), 4) if self._too_dear % RETRY == 0 else 0
        return ahead[:best]

    @property
    def may_guess(self) -> bool:
        """Whether the next step may have a draft: not when a plain one has to be measured again."""
        return self._since_plain < _PLAIN_AGAIN

    def note(self, outcome: Outcome, account: Account | None = None) -> None:
        """Take a step into account; its guesses were those of ``account``, None for lookups."""
        guessed = outcome.rows > outcome.sequences
        counts = self._costs.note(outcome.rows, outcome.silent, outcome.seconds, guessed=guessed)
        if guessed:
            self._since_plain += 1
        elif counts:
            self._since_plain = 0
        if guessed or outcome.guessing:
            self._charged = account or self._account
        if outcome.silent == 0 and self._charged is not None:
            self._charged.settle(gain(outcome, self._costs), self._costs.of(outcome.sequences))
        self._account.earn(outcome.seconds)
        if not guessed:
            self._charged = None


def gain(outcome: Outcome, costs: Costs) -> float:
    """Seconds saved against plain steps for as many tokens; a moment's neighbour counts only so much."""
    plain = costs.of(outcome.sequences) / outcome.sequences
    seconds = min(outcome.seconds, 3 * costs.of(outcome.rows))
    return outcome.made * plain - seconds - outcome.guessing


def _place(streak: int) -> int:
    return min(streak.bit_length(), 5)
