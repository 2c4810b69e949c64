"""The llama.cpp engine: one model file, many callers."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeai.engines import DevicePlan, EngineInfo
from edgeai.engines.jobs import Steps
from edgeai.engines.llamacpp import binding
from edgeai.engines.llamacpp.context import MAX_OUTPUTS, Context
from edgeai.engines.llamacpp.jobs import N_SCRATCH, Job, embed_steps, score_steps, scratch_cells
from edgeai.engines.llamacpp.model import Model
from edgeai.engines.llamacpp.prompt import chat_template, prompt_tokens
from edgeai.engines.llamacpp.query import Query
from edgeai.engines.llamacpp.scheduler import Scheduler
from edgeai.engines.llamacpp.slots import Slot, Slots
from edgeai.engines.sampling import Sampler, Scratch
from edgeai.engines.text import TextAssembler
from edgeai.errors import Cancelled, ConfigError, ContextOverflow
from edgeai.types import Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LlamaCppEngine", "open_engine"]


def open_engine(path: Path, plan: DevicePlan, *, name: str) -> "LlamaCppEngine":
    """Load the GGUF file at ``path``, whose header has been checked, and make it ready.

    Raises ModelNotFound, ModelUnsupported, EngineLoadFailed, OutOfMemory; MissingExtra on import.
    """
    if plan.verbose:
        binding.speak()
    model = Model(path)
    try:
        n_ctx = min(plan.n_ctx, model.n_ctx_train)
        context = Context(model, n_ctx=n_ctx, n_seq=N_LIVE + N_SCRATCH, n_threads=plan.n_threads)
    except BaseException:
        model.free()
        raise
    return LlamaCppEngine(model, context, plan=plan, name=name)


class LlamaCppEngine(LocalEngine):
    """An `edgeai.engines.Engine`. Made by `open_engine`."""

    def __init__(self, model: Model, context: Context, *, plan: DevicePlan, name: str) -> None:
        self._model = model
        self._context = context
        self._template = chat_template(model)
        self._scratch = Scratch(model.n_vocab)
        self._constraint_lock = threading.Lock()
        self._constraint_tokenizer: object = None
        self.info = EngineInfo(
            engine="llamacpp",
            model=name,
            parameters=model.n_params,
            n_ctx=context.n_ctx,
            n_ctx_train=model.n_ctx_train,
            n_vocab=model.n_vocab,
            n_embd=model.n_embd,
            quantization=model.quantization,
            template_hash=model.template_hash,
            provider=plan.provider,
        )
        slots = Slots(context, N_LIVE, context.n_ctx, rewinds=model.rewinds)
        self._scheduler = Scheduler(context, slots, partial(_free, model, self._constraint_lock))
        # Also at interpreter exit. The thread knows nothing of the engine, so that it does not keep it alive.
        self._finalizer = weakref.finalize(self, self._scheduler.close)

    def stream(self, request: Request) -> Generation:
        """Queue the request; its tokens arrive in the Generation.

        The end-of-turn token is handed over as well, without text of its own. Raises ConfigError for an empty
        prompt or an invalid schema, ContextOverflow, QueueFull, ModelUnsupported (images, no template),
        MissingExtra (a constraint without llguidance).
        """
        prompt = prompt_tokens(self._model, self._template, request)
        self._check_fits(len(prompt), self.info.n_ctx - 1)
        room = self.info.n_ctx - len(prompt)
        query = Query(
            prompt=prompt,
            limit=min(request.max_tokens, room),
            capped=room < request.max_tokens,
            sampler=Sampler(request.sampling, self._scratch),
            text=TextAssembler(request.stop),
            piece=self._model.piece,
            eog=self._model.eog,
            background=request.priority == "background",
            constraint=self._constraint(request),
        )
        generation = Generation(partial(self._scheduler.wake, query))
        query.attach(generation)
        self._scheduler.submit(query)
        return generation

    def score(self, prompt: str, continuations: Sequence[str]) -> tuple[float, ...]:
        """The total log-probability (nats) of each continuation's tokens after the plain ``prompt``.

        Prompt and continuation are tokenized together. Where a continuation changes how the prompt's end is
        tokenized, all are scored from the last token they share. Raises ConfigError when one of the texts is
        empty, ContextOverflow, QueueFull.
        """
        if not prompt or not all(continuations):
            raise ConfigError("There is nothing to score", why="the prompt or a continuation is empty")
        if not continuations:
            return ()
        head, tails = self._split(prompt, continuations)
        need = len(head) + scratch_cells(tails)
        self._check_fits(need)
        totals = [0.0] * len(tails)
        self._run(head, need, partial(score_steps, self._context, N_LIVE, tails, totals))
        return tuple(totals)

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """The mean of each text's last hidden states as a unit vector: shape (len(texts), n_embd).

        Raises ConfigError for an empty text, ContextOverflow, QueueFull.
        """
        vectors = np.zeros((len(texts), self.info.n_embd), np.float64)
        for text, vector in zip(texts, vectors, strict=True):
            tokens = self._model.tokenize(text, whole=True)
            if not tokens:
                raise ConfigError("There is nothing to embed", why="a text is empty")
            self._check_fits(len(tokens))
            self._run(tokens, len(tokens), partial(embed_steps, self._context, vector))
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
        return unit

    def tokenize(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Token ids of ``text``; with ``special`` control tokens in the text are read as such."""
        return tuple(self._model.tokenize(text, special=special))

    def count_prompt(self, request: Request) -> int:
        """How many tokens the request's prompt has after the chat template; errors as of `stream`."""
        return len(prompt_tokens(self._model, self._template, request))

    def memory(self) -> Mapping[str, int]:
        """Where the memory goes, in bytes: mapped weights, KV cache, output rows."""
        return {
            "weights": self._model.size_bytes,
            "kv_cache": self.info.n_ctx * self._model.kv_bytes_per_token,
            "outputs": MAX_OUTPUTS * (self.info.n_vocab + self.info.n_embd) * 4,
        }

    def _score_steps(self, tails: Sequence[Sequence[int]], totals: list[float]) -> Steps:
        return partial(score_steps, self._context, N_LIVE, tails, totals)

    def _check_fits(self, n_prompt: int, most: int | None = None) -> None:
        if n_prompt > (self.info.n_ctx if most is None else most):
            raise ContextOverflow(
                f"The prompt takes {n_prompt} tokens; the context holds {self.info.n_ctx}, with the answer",
                n_prompt=n_prompt,
                n_ctx=self.info.n_ctx,
                remedy="Shorten the prompt, or open the model with a larger n_ctx",
            )

    def _embed_steps(self, sums: "NDArray[np.float64]") -> Steps:
        return partial(embed_steps, self._context, sums)

    def _make_constraint_tokenizer(self) -> object:
        from edgeai.engines.constrain import tokenizer_from_llamacpp

    def _constraint(self, request: Request) -> "Constraint | None":
        if request.schema is None and request.grammar is None and not request.tools:
            return None
        from edgeai.engines.constrain import Constraint, tokenizer_from_llamacpp

        with self._constraint_lock:  # held against `close`: llguidance calls into the vocabulary
            self._model.check_open()
            if self._constraint_tokenizer is None:
                self._constraint_tokenizer = self._model.with_vocab(tokenizer_from_llamacpp)
            return Constraint(self._constraint_tokenizer, request, self._model.n_vocab)


def _free(model: Model, in_use: threading.Lock) -> None:
    with in_use:
        model.free()


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    size = min(len(left), len(right))
    return next((i for i in range(size) if left[i] != right[i]), size)
