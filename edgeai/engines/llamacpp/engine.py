"""The llama.cpp engine: one model file, many callers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeai.engines import DevicePlan, EngineInfo, OnState, without
from edgeai.engines.cells import PARALLEL, pool
from edgeai.engines.failures import no_room
from edgeai.engines.jobs import Steps
from edgeai.engines.llamacpp import binding
from edgeai.engines.llamacpp.context import MAX_OUTPUTS, Context
from edgeai.engines.llamacpp.draft import DraftModel, open_draft
from edgeai.engines.llamacpp.jobs import N_SCRATCH, embed_steps, score_steps, scratch_cells
from edgeai.engines.llamacpp.model import Model
from edgeai.engines.local import LocalEngine, Places
from edgeai.engines.pace import Pace
from edgeai.engines.warm import WarmShelf
from edgeai.errors import EngineError, OutOfMemory
from edgeai.models.disk import remembered_sha256

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LlamaCppEngine", "open_engine"]

_log = logging.getLogger("edgeai.engines")
_SPARE: Final = 8
"""Sequences that only keep prefixes; they take no memory of their own."""


def open_engine(path: Path, plan: DevicePlan, *, name: str) -> "LlamaCppEngine":
    """Load the GGUF file at ``path``, whose header has been checked, and make it ready.

    Raises ModelNotFound, ModelUnsupported, EngineLoadFailed, OutOfMemory; MissingExtra on import.
    """
    if plan.verbose:
        binding.speak()
    adapters = {name: Path(file) for name, file in plan.adapters.items()}
    try:
        return _open_somewhere(path, plan, name, adapters)
    except MemoryError as error:
        raise error if isinstance(error, OutOfMemory) else no_room(error, f"{name} finds no room") from error
    except RuntimeError as error:  # Python's own word for a thread that the system refuses
        if "new thread" not in str(error):
            raise
        raise no_room(error, f"{name} finds no room for a thread") from error


def _open_somewhere(
    path: Path, plan: DevicePlan, name: str, adapters: Mapping[str, Path]
) -> "LlamaCppEngine":
    """On the plan's GPUs, or on the processor where they are not required and it does not open there."""
    try:
        return _open(path, plan, name, adapters)
    except EngineError as error:
        if not (plan.gpus and plan.gpu_optional):
            raise
        _log.warning("decode on %s is done by the processor: %s", plan.provider, error)
        steps = without(plan.steps, plan.provider, str(error))
        here = replace(plan, provider="cpu", gpus=(), gpu_layers=None, steps=steps)
    return _open(path, here, name, adapters)


def _open(path: Path, plan: DevicePlan, name: str, adapters: Mapping[str, Path]) -> "LlamaCppEngine":
    """Whatever fails, nothing of it is left."""
    hashes = {name: remembered_sha256(file) for name, file in adapters.items()}
    model = Model(path, adapters, plan.gpus, plan.gpu_layers)
    draft: DraftModel | None = None
    context: Context | None = None
    try:
        n_ctx = min(plan.n_ctx, model.n_ctx_train)
        places = _places(model, n_ctx, plan)
        n_seq = places.sequences + N_SCRATCH
        pace = Pace(plan.n_threads, follow_load=plan.follow_load)
        draft = open_draft(model, n_ctx, places.parallel, plan, pace)
        context = Context(
            model,
            n_ctx=places.cells,
            n_seq=n_seq,
            pace=pace,
            kv_type=plan.kv_type,
            n_ubatch=plan.n_ubatch,
            flash_attn=plan.flash_attn,
        )
        return LlamaCppEngine(
            model, context, places, draft=draft, n_ctx=n_ctx, plan=plan, name=name, adapters=hashes, pace=pace
        )
    except BaseException:
        if context is not None:
            context.free()
        _free(model, draft)
        raise


def _free(model: Model, draft: DraftModel | None) -> None:
    if draft is not None:
        draft.free()
    model.free()


def _places(model: Model, n_ctx: int, plan: DevicePlan) -> Places:
    parallel = plan.parallel or PARALLEL
    return Places(
        parallel=parallel,
        sequences=parallel + _SPARE,
        cells=pool(n_ctx, parallel),
        rewinds=model.rewinds,
        speculates=plan.speculate and model.rewinds,
    )


class LlamaCppEngine(LocalEngine):
    """An `edgeai.engines.Engine`. Made by `open_engine`."""

    _context: Context

    def __init__(
        self,
        model: Model,
        context: Context,
        places: Places,
        *,
        draft: DraftModel | None,
        n_ctx: int,
        plan: DevicePlan,
        name: str,
        adapters: Mapping[str, str],
        pace: Pace,
    ) -> None:
        self._model, self._kv_type = model, plan.kv_type
        self._places, self._draft = places, draft
        info = EngineInfo(
            engine="llamacpp",
            model=name,
            parameters=model.n_params,
            n_ctx=n_ctx,
            n_ctx_train=model.n_ctx_train,
            n_vocab=model.n_vocab,
            n_embd=model.n_embd,
            quantization=model.quantization,
            template_hash=model.template_hash,
            provider=plan.provider,
            inactive_parameters=model.n_inactive,
            adapters=adapters,
            steps=plan.steps,
        )
        layout = f"{model.layout(info.n_ctx, plan.kv_type)} {plan.flash_attn}"  # it turns the values round
        if plan.gpus:  # other numbers, and perhaps other attention
            layout = f"{layout} {plan.provider} {plan.gpu_layers}"
        shelf = WarmShelf(context, partial(_key, info, plan.weights, layout))
        super().__init__(
            model,
            context,
            info,
            places=places,
            at_end=partial(_free, model, draft),
            shelf=shelf if plan.weights else None,
            carry=context.carry,
            drafter=None if draft is None else draft.drafter,
            limit=pace.limit,
        )

    def memory(self) -> Mapping[str, int]:
        """Where the memory goes, in bytes: mapped weights, KV cache, output rows, a draft model's of both."""
        terms = {
            "weights": self._model.size_bytes,
            "kv_cache": self._places.cells * self._model.kv_bytes(self._kv_type),
            "outputs": MAX_OUTPUTS * (self.info.n_vocab + self.info.n_embd) * 4,
        }
        return terms if self._draft is None else terms | {"draft": self._draft.size_bytes}

    def _score_steps(
        self, tails: Sequence[Sequence[int]], totals: list[float], on_state: OnState | None
    ) -> Steps:
        return partial(score_steps, self._context, self._places.sequences, tails, totals, on_state)

    def _score_cells(self, tails: Sequence[Sequence[int]]) -> int:
        return scratch_cells(tails)

    def _embed_steps(self, sums: "NDArray[np.float64]") -> Steps:
        return partial(embed_steps, self._context, sums)

    def _make_constraint_tokenizer(self) -> object:
        from edgeai.engines.constrain import tokenizer_from_llamacpp

        return self._model.with_vocab(tokenizer_from_llamacpp)


def _key(info: EngineInfo, weights: str, layout: str, adapter: str | None) -> Mapping[str, str]:
    return {
        "engine": f"{info.engine} {binding.VERSION}",
        "weights": weights,
        "template": info.template_hash,
        "adapter": "" if adapter is None else info.adapters[adapter],
        "layout": layout,
    }
