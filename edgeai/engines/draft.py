"""Guessing tokens ahead with a smaller model of the same vocabulary.

It reads what the query has so far in a cache of its own, and says its likeliest tokens for as long as they
are likely to be right and to save time; the large model checks them as it does all drafts (Leviathan et al.
2023, with equality as the test: greedy or sampled, each token is the large model's own choice). What it costs
and how often it is right is measured: how sure it was of a token tells how likely the token is chosen.
"""

import logging
import math
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeai.engines.account import Account
from edgeai.engines.context import FULL, Context
from edgeai.engines.slots import common
from edgeai.engines.speculate import LONGEST, MARGIN, RETRY, Costs, Guess, Outcome, gain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeai.engines.query import Query

__all__ = ["Drafter", "Trust"]

_CREDIT_S: Final = 1.0
"""Seconds that may be spent before it is known whether the draft model pays."""

_TYPICAL: Final = 256
"""Tokens that an answer is expected to have at most."""

_CHUNK: Final = 64
"""Tokens of a prompt that it reads before a step: somebody waits for that step."""

_KINDS: Final = 8
"""Tokens are told apart by how sure the draft model was of them, in so many parts."""

_TRIAL: Final = 16
"""Steps in a row for which it is tried, where it seems to be no use."""

_PRIOR: Final = 4.0
_MEMORY: Final = 200.0
_NEW: Final = 0.1

_logger = logging.getLogger("edgeai.engines")


class Trust:
    """How often the draft model was right, by how sure it was: at first as often as it says."""

    def __init__(self) -> None:
        self._right = [(kind + 0.5) / _KINDS * _PRIOR for kind in range(_KINDS)]
        self._all = [_PRIOR] * _KINDS
        self.mean = 0.8
        """Of all its tokens lately, those that were not checked, too."""

    def note(self, sure: float, *, right: bool) -> None:
        """One token more was checked."""
        kind = _kind(sure)
        if self._all[kind] >= _MEMORY:
            self._right[kind] *= 0.5
            self._all[kind] *= 0.5
        self._right[kind] += right
        self._all[kind] += 1
        self.mean += _NEW * (right - self.mean)

    def doubt(self, sure: float) -> None:
        """One token was not worth being checked."""
        self.mean += _NEW * (self.of(sure) - self.mean)

    def of(self, sure: float) -> float:
        """The share of right ones."""
        kind = _kind(sure)
        return self._right[kind] / self._all[kind]


class Drafter:
    """Guesses for the queries of one engine, in its thread. It owns ``context``, of ``n_cells`` cells.

    ``n_seq`` queries can be followed at once. ``costs`` are those of the large model's steps.
    """

    def __init__(self, context: Context, *, n_seq: int, n_cells: int, costs: Costs | None = None) -> None:
        self._context, self._n_cells = context, n_cells
        self.costs = costs or Costs()
        self.account = Account(_CREDIT_S)
        self.spent_s = 0.0
        """Seconds of the last `think`."""
        self._own = Costs()
        self._trust = Trust()
        self._free = list(range(n_seq))
        self._held: dict[Query, tuple[int, list[int]]] = {}  # its sequence, and the tokens in it
        self._gain = math.nan  # seconds saved a token
        self._hopeless = 0
        self._tries = self._reads = self._broken = False

    def think(self, queries: "Sequence[Query]", live: "Sequence[Query]") -> None:
        """Guess for those who are about to get their next token; the guesses are theirs until that step.

        Those who are no more among the ``live`` are forgotten.
        """
        began, self._reads = perf_counter(), False
        for query in [query for query in self._held if query not in live]:
            self._drop(query)
        for query in live:
            query.guess = None
        if self._broken or not self.account.is_open or not self._promises(len(queries)):
            self.spent_s = 0.0
            return
        ready = [query for query in queries if self._follows(query)]
        ready = [query for query in ready if query in self._held]  # all are forgotten where cells ran out
        if ready:
            self._guess(ready, len(queries))
        self.spent_s = perf_counter() - began

    def checked(self, guess: Guess, draft: Sequence[int], made: Sequence[int]) -> None:
        """``draft`` is what was checked of the guess, and ``made`` what was chosen."""
        for sure, foreseen, token in zip(guess.sure, draft, made, strict=False):
            self._trust.note(sure, right=foreseen == token)

    def note(self, outcome: Outcome) -> None:
        """A step is done."""
        self.account.earn(outcome.seconds)
        if outcome.guessing and outcome.made and not self._reads:
            saved = gain(outcome, self.costs) / outcome.made
            self._gain = saved if math.isnan(self._gain) else self._gain + _NEW * (saved - self._gain)

    def free(self) -> None:
        """Give the memory back."""
        self._context.free()

    # whether

    def _promises(self, sequences: int) -> bool:
        """Whether a guess of some length is expected to save time; if not, it is tried now and then."""
        if not sequences:
            return False
        pays = self._pays(sequences)
        self._tries = not pays and self._hopeless % RETRY < _TRIAL
        self._hopeless += not pays
        return pays or self._tries

    def _pays(self, sequences: int) -> bool:
        """Whether some number of tokens saves more than it costs, if each is right as often as of late."""
        plain, own = self.costs.of(sequences), self._own.of(sequences) / sequences
        right, reach = 0.0, 1.0
        for size in range(1, LONGEST + 1):
            reach *= self._trust.mean
            right += reach
            more = self.costs.of(sequences + size) - plain
            if right * plain / sequences > MARGIN * (more + size * own):
                return True
        return False

    def _follows(self, query: "Query") -> bool:
        """Whether the draft model has read what comes before the query's last tokens; or it reads on."""
        assert query.slot is not None
        tokens = query.slot.tokens
        room = query.limit - query.n_made - 1
        if room <= 0 or query.lookup.is_sure:
            return False
        if query not in self._held and not self._may_hold(query):
            return False
        seq, known = self._held[query]
        same = common(known, tokens[:-1])
        if same < len(known):
            self._context.forget(seq, same)
            del known[same:]
        missing = len(tokens) - same
        if missing <= _CHUNK:
            return self._has_room(missing + min(room, LONGEST))
        chunk = tokens[same : same + _CHUNK]
        if self._has_room(len(chunk)):
            self._reads = True
            self._context.add(chunk, same, seq)
            if self._run(0):
                known += chunk
        return False

    def _may_hold(self, query: "Query") -> bool:
        """Whether there is a sequence for it, and reading its prompt will be worth it."""
        assert query.slot is not None
        cost = len(query.slot.tokens) * self._own.reading
        saved = min(query.limit - query.n_made, _TYPICAL) * self._gain  # not a number: not known
        if not self._free or (saved < cost and not self._tries):
            return False
        self._held[query] = self._free.pop(), []
        return True

    def _has_room(self, more: int) -> bool:
        return sum(len(known) for _, known in self._held.values()) + more <= self._n_cells

    # what

    def _guess(self, ready: "Sequence[Query]", sequences: int) -> None:
        """One token for each, and one more for each that is still likely to gain by it."""
        rows = {}
        for query in ready:
            assert query.slot is not None
            seq, known = self._held[query]
            new = query.slot.tokens[len(known) :]
            if self._context.n_tokens + len(new) > self._context.n_batch:
                continue
            rows[query] = self._context.add(new, len(known), seq, outputs=1)
            known += new
            query.guess = Guess([], [])
        reach = dict.fromkeys(ready, 1.0)
        for size in range(1, LONGEST + 1):
            if not rows or not self._run(len(rows)):
                return
            going = [query for query, row in rows.items() if self._say(query, row, reach, size, sequences)]
            rows.clear()
            if size == LONGEST:
                return
            for query in going:
                assert query.guess is not None
                seq, known = self._held[query]
                token = query.guess.tokens[-1]
                rows[query] = self._context.add([token], len(known), seq, outputs=1)
                known.append(token)

    def _say(self, query: "Query", row: int, reach: dict["Query", float], size: int, sequences: int) -> bool:
        """Take the likeliest token, if it is worth being checked; whether another one may be."""
        assert query.guess is not None
        token, sure = likeliest(self._context.logits(row))
        reach[query] *= self._trust.of(sure)
        worth = reach[query] * self.costs.of(sequences) / sequences
        row_s = self.costs.of(sequences + size) - self.costs.of(sequences + size - 1)
        if worth <= MARGIN * row_s:
            self._trust.doubt(sure)
            return False
        query.guess.tokens.append(token)
        query.guess.sure.append(sure)
        return worth > MARGIN * (row_s + self._own.of(sequences)) and size < query.limit - query.n_made - 1

    def _run(self, rows: int) -> bool:
        """Decode; if that fails for want of cells it forgets all, else nothing is guessed any more."""
        began, silent = perf_counter(), self._context.n_tokens - rows
        code = self._context.decode()
        if code == 0:
            self._own.note(rows, silent, perf_counter() - began, guessed=True)
            return True
        for query in list(self._held):
            self._drop(query)
        if code != FULL:
            _logger.warning("The draft model is not used any more: %s", self._context.failure(code))
            self._broken = True
        return False

    def _drop(self, query: "Query") -> None:
        seq, _ = self._held.pop(query)
        self._context.forget(seq)
        self._free.append(seq)


def likeliest(logits: "NDArray[np.float32]") -> tuple[int, float]:
    """The likeliest token and its probability."""
    token = int(logits.argmax())
    total = float(np.exp(logits - logits[token]).sum(dtype=np.float64))
    return token, 1.0 / total if total > 0 else 0.0


def _kind(sure: float) -> int:
    return min(_KINDS - 1, int(sure * _KINDS))
