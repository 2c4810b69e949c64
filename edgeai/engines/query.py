"""One generation as the owner thread sees it."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

from edgeai.engines.generation import Finished, Generation
from edgeai.engines.sampling import Choice, Sampler
from edgeai.engines.slots import Slot
from edgeai.engines.speculate import Guess, Lookup
from edgeai.engines.text import TextAssembler
from edgeai.errors import Cancelled, EngineError
from edgeai.types import FinishReason, Token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeai.engines import EngineInfo
    from edgeai.engines.constrain import Constraint

__all__ = ["Made", "Query"]

_AHEAD: Final = 32
"""Cells for tokens to come that a query gets when it begins: more are taken when they are needed."""


class Made(NamedTuple):
    """The tokens that a query got from one step, and whether it is over."""

    tokens: list[int]
    over: bool


class _Said(NamedTuple):
    choice: Choice
    text: str
    state: "NDArray[np.float32] | None"


@dataclass(slots=True, kw_only=True, eq=False)
class Query:
    """What is needed to make the tokens of one request.

    ``limit`` is the number of tokens it may get; ``capped`` says that the context, not the caller, set it.
    The reader owns the Generation: when it is thrown away the query is over. ``crowded``: it had to leave
    when the cells ran out, and now begins only with all it may come to need. ``info`` says, at the end, what
    has computed it.
    """

    prompt: list[int]
    limit: int
    capped: bool
    sampler: Sampler
    text: TextAssembler
    piece: Callable[[int], bytes]
    eog: frozenset[int]
    background: bool = False
    adapter: str | None = None
    hidden: bool = False
    constraint: "Constraint | None" = None
    info: "Callable[[], EngineInfo] | None" = None
    slot: Slot | None = None
    fresh: bool = False
    crowded: bool = False
    lookup: Lookup = field(init=False)
    guess: Guess | None = None
    n_prompt: int = field(init=False)
    paused_since: float | None = None
    n_made: int = 0
    n_cached: int = 0
    started: float = 0.0
    prefill_s: float = 0.0
    generation: Callable[[], Generation | None] = field(default=lambda: None)

    def __post_init__(self) -> None:
        self.n_prompt = len(self.prompt)
        self.lookup = Lookup(self.n_prompt)

    def attach(self, generation: Generation) -> None:
        """Say where the tokens go."""
        self.generation = weakref.ref(generation)

    @property
    def need(self) -> int:
        """KV cells to begin with: not all that it may come to need, as most answers end earlier."""
        most = self.n_prompt + self.limit
        return most if self.crowded else min(most, len(self.prompt) + _AHEAD)

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants it any more."""
        generation = self.generation()
        return generation is None or generation.cancelled

    @property
    def wanted(self) -> bool:
        """Whether the reader keeps up."""
        generation = self.generation()
        return generation is not None and generation.wanted

    @property
    def pending(self) -> int:
        """How many tokens of the slot wait to be decoded; 1 while answering."""
        return len(self.slot.tokens) - self.slot.n_past if self.slot else 0

    def note_prefill(self) -> None:
        """Stamp the end of the prompt, when it has just been reached."""
        if self.n_made == 0 and self.pending == 1:
            self.prefill_s = perf_counter() - self.started

    def abandon(self, error: EngineError | None) -> None:
        """The engine ends: with an error, or because it was closed."""
        generation = self.generation()
        if generation is not None:
            generation.fail(error or Cancelled("The engine was closed"))

    def begin(self, slot: Slot) -> None:
        """The slot is ours, with ``slot.n_past`` tokens of the prompt known."""
        self.slot = slot
        if self.n_made == 0:
            self.n_cached, self.started = slot.n_past, perf_counter()

    def leave(self) -> Slot:
        """Give the slot back for now; the next one begins with all tokens so far."""
        slot, self.slot = self.slot, None
        assert slot is not None
        self.prompt, self.paused_since = list(slot.tokens), None
        return slot

    def note_pause(self, now: float) -> None:
        """Remember since when the reader does not keep up."""
        if self.wanted:
            self.paused_since = None
        elif self.paused_since is None:
            self.paused_since = now

    def step(
        self,
        outputs: "Iterable[tuple[NDArray[np.float32], NDArray[np.float32] | None]]",
        draft: Sequence[int],
        since: float,
    ) -> Made:
        """Choose and hand over the next token, and those after it for as long as the draft foresaw them.

        ``outputs`` are the logits after the last token and after each of the draft, with the hidden states,
        which are copied. Raises EngineError when the logits or the constraint give no token.
        """
        made, reason = list[_Said](), None
        for (logits, state), foreseen in zip(outputs, (*draft, None), strict=True):
            allowed = self.constraint.allowed() if self.constraint else None
            choice = self.sampler.choose(logits, allowed)
            self.n_made += 1
            text, reason = self._advance(choice.token)
            made.append(_Said(choice, text, None if state is None else state.copy()))
            if reason is not None or choice.token != foreseen:
                break
        return Made([each.choice.token for each in made], self._hand_over(made, reason, since))

    def _hand_over(self, made: Sequence[_Said], reason: FinishReason | None, since: float) -> bool:
        """Give the tokens to the reader; true when there are no more to come."""
        generation = self.generation()
        if generation is None:
            return True
        seconds = (perf_counter() - since) / len(made)
        for choice, text, state in made:
            generation.lay(
                Token(
                    id=choice.token,
                    text=text,
                    logprob=choice.logprob,
                    entropy=choice.entropy,
                    margin=choice.margin,
                    step_s=seconds,
                    hidden=state,
                )
            )
        if reason is not None:
            generation.finish(self._finished(reason))
        return reason is not None

    def _advance(self, token: int) -> tuple[str, FinishReason | None]:
        """The text that ``token`` sets free, and whether it is the last one."""
        if token in self.eog:
            return self.text.flush(), "stop"
        text = self.text.push(self.piece(token))
        complete = self.constraint is not None and self.constraint.accept(token)
        if self.text.stopped:
            return text, "stop"
        if complete:
            return text + self.text.flush(), "stop"
        if self.n_made >= self.limit:
            return text + self.text.flush(), "length"
        return text, None

    def _finished(self, reason: FinishReason) -> Finished:
        info = None if self.info is None else self.info()
        return Finished(
            reason=reason,
            n_prompt=self.n_prompt,
            n_cached=self.n_cached,
            prefill_s=self.prefill_s,
            context_full=reason == "length" and self.capped,
            device=None if info is None else info.device,
            passed_over=() if info is None else info.passed_over,
        )
