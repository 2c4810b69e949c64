"""What all engines in this process share: from requests to the scheduler, and back."""

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeai.engines import EngineInfo, Generation, OnState
from edgeai.engines.draft import Drafter
from edgeai.engines.jobs import Job, Steps
from edgeai.engines.prompt import chat_template, prompt_tokens
from edgeai.engines.query import Query
from edgeai.engines.sampling import Sampler, Scratch
from edgeai.engines.scheduler import Scheduler
from edgeai.engines.slots import Slots, common
from edgeai.engines.text import TextAssembler
from edgeai.engines.vocabulary import Vocabulary
from edgeai.engines.warm import Keeping, WarmShelf, head_of, warm_steps
from edgeai.engines.whereabouts import Whereabouts
from edgeai.errors import Cancelled, ConfigError, ContextOverflow, ModelUnsupported
from edgeai.models import prefixes
from edgeai.types import Priority, Request, Warmed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeai.engines.constrain import Constraint

__all__ = ["LocalEngine", "Places"]

_LOOK_S: Final = 0.05
"""How often somebody who waits for a score looks whether it is still wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """How many are served at once, in how much room.

    ``parallel`` queries at once, in ``sequences`` of a cache of ``cells`` in all; more sequences than queries
    keep more prefixes. ``rewinds``, ``shares``: see `Slots`. ``speculates``: tokens may be guessed ahead.
    """

    parallel: int
    sequences: int
    cells: int
    rewinds: bool = True
    shares: bool = True
    speculates: bool = False


class LocalEngine(ABC):
    """An `edgeai.engines.Engine`, but for what depends on the native library.

    The engine owns ``context``, which its scheduler's thread frees before it calls ``at_end``.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        context: Keeping,
        info: EngineInfo,
        *,
        places: Places,
        at_end: Callable[[], None] = lambda: None,
        shelf: WarmShelf | None = None,
        carry: Callable[[str | None], None] = lambda adapter: None,
        drafter: Drafter | None = None,
        whereabouts: Whereabouts | None = None,
        limit: Callable[[int], None] = lambda n_threads: None,
    ) -> None:
        self._info, self._whereabouts = info, whereabouts or Whereabouts(info.steps)
        self._limit = limit
        self._context, self._shelf = context, shelf
        self._vocabulary = vocabulary
        self._template = chat_template(vocabulary)
        self._scratch = Scratch(info.n_vocab)
        self._constraint_lock = threading.Lock()
        self._constraint_tokenizer: object = None
        slots = Slots(
            context,
            places.sequences,
            places.cells,
            rewinds=places.rewinds,
            shares=places.shares,
            shelf=shelf,
        )
        end = partial(_end, at_end, self._constraint_lock)
        self._scheduler = Scheduler(
            context,
            slots,
            end,
            name=info.engine,
            parallel=places.parallel,
            speculates=places.speculates,
            drafter=drafter,
            carry=carry,
        )
        # Also at interpreter exit. The thread knows nothing of the engine, so that it does not keep it alive.
        self._finalizer = weakref.finalize(self, self._scheduler.close)

    # what depends on the native library

    @abstractmethod
    def memory(self) -> Mapping[str, int]:
        """Where the memory goes, in bytes."""

    @abstractmethod
    def _score_steps(
        self, tails: Sequence[Sequence[int]], totals: list[float], on_state: OnState | None
    ) -> Steps:
        """Steps that add to ``totals`` the log-probability of each of ``tails`` after the slot's tokens.

        ``on_state`` is given the state at the last of those.
        """

    @abstractmethod
    def _score_cells(self, tails: Sequence[Sequence[int]]) -> int:
        """KV cells that scoring ``tails`` takes beyond those of what comes before."""

    @abstractmethod
    def _embed_steps(self, sums: "NDArray[np.float64]") -> Steps:
        """Steps that add to ``sums`` the last layer's hidden states of all of the slot's tokens."""

    @abstractmethod
    def _make_constraint_tokenizer(self) -> object:
        """llguidance's view of the vocabulary. Raises EngineClosed when the engine is closed."""

    # the protocol

    @property
    def info(self) -> EngineInfo:
        """What the loaded model is."""
        return self._whereabouts.told(self._info)

    def limit_threads(self, n_threads: int) -> None:
        """From the next step on at most so many, where their number follows the load."""
        self._limit(n_threads)

    def stream(self, request: Request) -> Generation:
        """Queue the request; its tokens arrive in the Generation.

        The end-of-turn token is handed over as well, without text of its own. Raises ConfigError for an empty
        prompt or an invalid schema, ContextOverflow, QueueFull, ModelUnsupported (images, no template),
        MissingExtra (a constraint without llguidance).
        """
        prompt = prompt_tokens(self._vocabulary, self._template, request)
        self._check_fits(len(prompt), self.info.n_ctx - 1)
        room = self.info.n_ctx - len(prompt)
        query = Query(
            prompt=prompt,
            limit=min(request.max_tokens, room),
            capped=room < request.max_tokens,
            sampler=Sampler(request.sampling, self._scratch),
            text=TextAssembler(request.stop),
            piece=self._vocabulary.piece,
            eog=self._vocabulary.eog,
            background=request.priority == "background",
            adapter=self._adapter(request.adapter),
            hidden=request.hidden,
            constraint=self._constraint(request),
            info=partial(self._whereabouts.told, self._info),
        )
        generation = Generation(partial(self._scheduler.wake, query))
        query.attach(generation)
        self._scheduler.submit(query)
        return generation

    def score(
        self,
        prompt: str,
        continuations: Sequence[str],
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_state: OnState | None = None,
        adapter: str | None = None,
        priority: Priority = "interactive",
    ) -> tuple[float, ...]:
        """The total log-probability (nats) of each continuation's tokens after the plain ``prompt``.

        Prompt and continuation are tokenized together. Where a continuation changes how the prompt's end is
        tokenized, all are scored from the last token they share. Raises ConfigError when one of the texts is
        empty, ContextOverflow, QueueFull; Cancelled soon after ``cancelled`` has come to say so.
        ``on_state`` is given the hidden state at the end of the prompt, if the model gives it. In the
        background nobody who waits is held up by more than one batch of it.
        """
        if not prompt or not all(continuations):
            raise ConfigError("There is nothing to score", why="the prompt or a continuation is empty")
        if not continuations:
            return ()
        head, tails = self._split(prompt, continuations)
        need = len(head) + self._score_cells(tails)
        self._check_fits(need)
        totals = [0.0] * len(tails)
        steps = self._score_steps(tails, totals, on_state)
        self._run(head, need, steps, cancelled, adapter=self._adapter(adapter), priority=priority)
        return tuple(totals)

    def embed(
        self, texts: Sequence[str], *, adapter: str | None = None, priority: Priority = "interactive"
    ) -> "NDArray[np.float32]":
        """The mean of each text's last hidden states as a unit vector: shape (len(texts), n_embd).

        Raises ConfigError for an empty text or an unknown adapter, ContextOverflow, QueueFull.
        """
        carried = self._adapter(adapter)
        vectors = np.zeros((len(texts), self.info.n_embd), np.float64)
        for text, vector in zip(texts, vectors, strict=True):
            tokens = self._vocabulary.tokenize(text, whole=True)
            if not tokens:
                raise ConfigError("There is nothing to embed", why="a text is empty")
            self._check_fits(len(tokens))
            steps = self._embed_steps(vector)
            self._run(tokens, len(tokens), steps, adapter=carried, priority=priority, fresh=True)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
        return unit

    def tokenize(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Token ids of ``text``; with ``special`` control tokens in the text are read as such."""
        return tuple(self._vocabulary.tokenize(text, special=special))

    def count_prompt(self, request: Request) -> int:
        """How many tokens the request's prompt has after the chat template; errors as of `stream`."""
        return len(prompt_tokens(self._vocabulary, self._template, request))

    def warm(self, request: Request, *, most_bytes: int = prefixes.MOST_BYTES) -> Warmed:
        """Compute the head of prompts that begin with the request's messages, and keep it on the disk.

        Raises ModelUnsupported when the plan named no weights by which to find it again, DiskFull, and what
        `stream` raises.
        """
        shelf, adapter = self._shelf, self._adapter(request.adapter)
        if shelf is None:
            raise ModelUnsupported("This engine keeps no prefixes", why="Its plan does not name the weights")
        head = head_of(partial(prompt_tokens, self._vocabulary, self._template), request)
        self._check_fits(len(head), self.info.n_ctx - 1)
        made, known = list[bytearray](), list[int]()
        is_kept = partial(shelf.has, head, adapter)
        self._run(head, len(head), partial(warm_steps, self._context, is_kept, made, known), adapter=adapter)
        size = 0
        for data in made:
            key = shelf.key(adapter)
            size = prefixes.write(key, head, data, model=self.info.model, most_bytes=most_bytes)
        return Warmed(tokens=len(head), cached_tokens=known[0], kept_bytes=size)

    @property
    def pulse(self) -> float | None:
        """When the step began that is being computed, by `perf_counter`; None while none is."""
        return self._scheduler.pulse

    def close(self) -> None:
        """Cancel what runs and free the memory; may be called again."""
        self._finalizer()

    def _check_fits(self, n_prompt: int, most: int | None = None) -> None:
        if n_prompt > (self.info.n_ctx if most is None else most):
            raise ContextOverflow(
                f"The prompt takes {n_prompt} tokens; the context holds {self.info.n_ctx}, with the answer",
                n_prompt=n_prompt,
                n_ctx=self.info.n_ctx,
                remedy="Shorten the prompt, or open the model with a larger n_ctx",
            )

    def _split(self, prompt: str, continuations: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """The tokens that all share, and what follows in each: at least one token on both sides."""
        vocabulary = self._vocabulary
        alone = vocabulary.tokenize(prompt, whole=True)
        full = [vocabulary.tokenize(prompt + text, whole=True) for text in continuations]
        shared = min(common(alone, tokens) for tokens in full)
        if shared == 0:
            start = vocabulary.bos if vocabulary.bos >= 0 else vocabulary.eos
            return [start], full
        return alone[:shared], [tokens[shared:] for tokens in full]

    def _run(
        self,
        tokens: list[int],
        need: int,
        steps: Steps,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        adapter: str | None = None,
        priority: Priority = "interactive",
        fresh: bool = False,
    ) -> None:
        background = priority == "background"
        job = Job(prompt=tokens, need=need, steps=steps, background=background, adapter=adapter, fresh=fresh)
        self._scheduler.submit(job)
        try:
            while not _ended(job):
                if cancelled() and job.done.cancel():
                    break
            job.done.result()
        except CancelledError:
            raise Cancelled("The work was cancelled") from None
        finally:
            if job.done.cancel():  # also after Ctrl-C: nobody waits for it
                self._scheduler.wake(job)

    def _adapter(self, adapter: str | None) -> str | None:
        """The adapter that is asked for. Raises ConfigError for one that is not loaded."""
        if adapter is not None and adapter not in self.info.adapters:
            known = ", ".join(sorted(self.info.adapters))
            raise ConfigError(
                f"There is no adapter {adapter!r}",
                why=f"Loaded are {known}" if known else "The model was opened without adapters",
                remedy="Name it when the model is opened: adapters={name: path}",
            )
        return adapter

    def _constraint(self, request: Request) -> "Constraint | None":
        if request.schema is None and request.grammar is None and not request.tools:
            return None
        from edgeai.engines.constrain import Constraint

        with self._constraint_lock:  # held against `close`: llguidance may call into the vocabulary
            self._vocabulary.check_open()
            if self._constraint_tokenizer is None:
                self._constraint_tokenizer = self._make_constraint_tokenizer()
            return Constraint(self._constraint_tokenizer, request, self.info.n_vocab)


def _ended(job: Job) -> bool:
    return bool(wait([job.done], _LOOK_S).done)


def _end(at_end: Callable[[], None], in_use: threading.Lock) -> None:
    with in_use:
        at_end()
