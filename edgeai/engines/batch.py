"""What goes into the next batch: whose turn it is, and how much of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Final

from edgeai.engines.admission import Admission
from edgeai.engines.context import MAX_OUTPUTS, Context
from edgeai.engines.draft import Drafter
from edgeai.engines.jobs import Job
from edgeai.engines.query import Made, Query
from edgeai.engines.slots import Slot, Slots
from edgeai.engines.speculate import Costs, Guess, Outcome, Speculation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Asked", "Filler", "Step"]

_POLITE_S: Final = 0.1
"""How long new prompts may take of one step while others are being answered, so that those go on smoothly."""

_FEWEST: Final = 16
"""Tokens of new prompts that a step takes at least: fewer would be computed much more slowly."""

_TURN: Final = 32
"""In one of so many steps the background joins what a person waits for: too rare to be felt."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A query whose next token comes out of this batch, and perhaps those after it, if the draft is right.

    ``row`` is that of the next token; what follows each token of the draft is in the rows after it.
    ``guess`` is what the draft is from, where a draft model made it.
    """

    query: Query
    slot: Slot
    row: int
    draft: Sequence[int]
    guess: Guess | None = None

    def outputs(self, context: Context) -> "Iterator[tuple[NDArray[np.float32], NDArray[np.float32] | None]]":
        """The logits of each row, with the hidden state if it is wanted."""
        for row in range(self.row, self.row + len(self.draft) + 1):
            yield context.logits(row), context.state(row) if self.query.hidden else None


@dataclass(slots=True)
class Step:
    """A batch: whose tokens it holds, and where their logits will be.

    ``fed`` says how many tokens each had in the cache before; ``rows`` of its tokens have outputs, ``silent``
    ones do not. ``made`` are the tokens that it gave.
    """

    began: float = field(default_factory=perf_counter)
    asked: list[Asked] = field(default_factory=list)
    fed: list[tuple[Query, int]] = field(default_factory=list)
    rows: int = 0
    silent: int = 0
    made: int = 0
    states: bool = False


class Filler:
    """Fills the batches, in the scheduler's thread and under its lock."""

    def __init__(
        self,
        context: Context,
        slots: Slots,
        admission: Admission,
        costs: Costs,
        speculation: Speculation | None,
        drafter: Drafter | None = None,
    ) -> None:
        self._context = context
        self._slots = slots
        self._admission = admission
        self._costs = costs
        self._speculation = speculation
        self._drafter = drafter
        self._steps = 0
        self._all_join = True

    def think(self) -> None:
        """Let the draft model guess. It takes about as long as a step, so it is done without the lock."""
        if self._drafter is None or self._speculation is None:
            return
        live = [query for query in self._admission.live if query.slot and query.wanted]
        first = [query for query in live if not query.background] or live
        is_time = self._speculation.may_guess and all(query.pending == 1 for query in first)
        self._drafter.think(first if is_time else (), self._admission.live)

    def note(self, step: Step, seconds: float) -> None:
        """A step is done, and its tokens are known."""
        drafter = self._drafter
        guessing = 0.0 if drafter is None else drafter.spent_s
        outcome = Outcome(len(step.asked), step.rows, step.silent, step.made, seconds, guessing)
        if self._speculation is None:
            self._costs.note(step.rows, step.silent, seconds)
        elif drafter is None:
            self._speculation.note(outcome)
        else:
            self._speculation.note(outcome, drafter.account if guessing else None)
            drafter.note(outcome)

    def checked(self, asked: Asked, made: Made) -> None:
        """A draft was checked: so many tokens came of it."""
        if asked.guess is not None and self._drafter is not None:
            self._drafter.checked(asked.guess, asked.draft, made.tokens)

    def fill(self) -> Step:
        """The next tokens of each sequence that is being answered, then as much of new prompts as is polite.

        While a person waits for something, the background joins now and then only.
        """
        step = Step()
        for query in self._admission.live:
            query.note_pause(step.began)
        working = self._working()
        answering = self._answering(step, working)
        reading = [query for query in working if query.slot and query.pending > 1]
        self._ask(step, answering, speculate=not reading)
        if reading:
            self._read(step, reading)
        return step

    def jobs(self) -> tuple[Job, ...]:
        """The jobs that may do a step beside the last batch."""
        return tuple(job for job in self._admission.jobs if self._all_join or not job.background)

    def _working(self) -> list[Query]:
        """The queries that take part, those before the background that a person waits for."""
        admission = self._admission
        wanted = [query for query in admission.live if query.wanted]
        first = [query for query in wanted if not query.background]
        waited_for = bool(first) or any(not job.background for job in admission.jobs)
        self._steps += 1
        self._all_join = not waited_for or self._steps % _TURN == 0
        return first + [query for query in wanted if query.background] if self._all_join else first

    def _answering(self, step: Step, working: Sequence[Query]) -> list[Query]:
        """Those that need their next token, and have a cell for it."""
        answering = []
        for query in working:
            slot = query.slot  # none if it had to leave for one before it
            if slot and query.pending == 1 and self._admission.hold(query, slot.n_past + 1):
                answering.append(query)
        answering = [query for query in answering if query.slot]  # one may have left for one after it
        step.states = any(query.hidden for query in answering)
        return answering

    def _ask(self, step: Step, answering: Sequence[Query], *, speculate: bool) -> None:
        rows = len(answering)
        for query in answering:
            slot, draft, guess = query.slot, list[int](), None
            assert slot is not None
            if self._speculation is not None and speculate:
                room = min(MAX_OUTPUTS - rows, query.limit - query.n_made - 1)
                draft = self._speculation.draft(
                    query.lookup, slot.tokens, sequences=len(answering), rows=rows, room=room
                )
                guess = None if draft else query.guess
                draft = guess.tokens[:room] if guess else draft
                if not self._slots.grow(slot, slot.n_past + 1 + len(draft)):
                    draft = []
            query.guess = None
            rows += len(draft)
            step.fed.append((query, slot.n_past))
            tokens = [slot.tokens[slot.n_past], *draft]
            last = self._context.add(tokens, slot.n_past, slot.seq, outputs=len(tokens))
            slot.n_past += len(tokens)
            step.asked.append(Asked(query, slot, last - len(draft), draft, guess if draft else None))
        step.rows = rows

    def _read(self, step: Step, reading: Sequence[Query]) -> None:
        """Prompts share the room evenly, and what a short one leaves goes to longer ones."""
        room = self._room(step)
        shortest_first = sorted(reading, key=lambda query: query.pending)
        for number, query in enumerate(shortest_first):
            slot = query.slot
            assert slot is not None
            size = min(-(-room // (len(reading) - number)), query.pending - 1)
            if size <= 0:
                continue
            step.fed.append((query, slot.n_past))
            self._context.add(slot.tokens[slot.n_past : slot.n_past + size], slot.n_past, slot.seq)
            slot.n_past += size
            step.silent += size
            room -= size

    def _room(self, step: Step) -> int:
        """How many tokens of new prompts the batch may take."""
        room = self._context.n_batch - self._context.n_tokens
        if step.asked:
            room = min(room, max(_FEWEST, int(_POLITE_S / self._costs.reading)))
        if step.states:  # every token of the batch is an output then
            room = min(room, MAX_OUTPUTS - step.rows)
        return room
