"""The ONNX engine: one package, many callers."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeai.engines import DevicePlan, EngineInfo, OnState
from edgeai.engines.jobs import Steps
from edgeai.engines.local import LocalEngine, Places
from edgeai.engines.onnx.context import MAX_OUTPUTS, Context
from edgeai.engines.onnx.facts import (
    DEFAULT_CONTEXT,
    count_parameters,
    graph_file,
    quantization_of,
)
from edgeai.engines.onnx.folder import Folder, read_folder
from edgeai.engines.onnx.jobs import embed_steps, score_cells, score_steps
from edgeai.engines.onnx.offload import Chunk, open_chunks
from edgeai.engines.onnx.proto import Graph, read_graph
from edgeai.engines.onnx.session import VERSION, give_back
from edgeai.engines.onnx.sessions import open_sessions
from edgeai.engines.onnx.signature import Signature, read_signature
from edgeai.engines.onnx.tokenizer import PackageVocabulary
from edgeai.engines.onnx.vetting import check, weights_size
from edgeai.engines.pace import Pace
from edgeai.engines.warm import WarmShelf
from edgeai.engines.whereabouts import Whereabouts
from edgeai.errors import EngineLoadFailed, ModelUnsupported
from edgeai.models.package import MANIFEST, read_manifest
from edgeai.types import Priority

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OnnxEngine", "open_engine"]

_PARALLEL: Final = 4
"""Queries at once if nothing else is said: neighbours run together, and who is between comes along."""


def open_engine(path: Path, plan: DevicePlan, *, name: str) -> "OnnxEngine":
    """Load the ONNX file at ``path`` with the files beside it, and make it ready.

    Raises ModelNotFound, ModelCorrupt, ModelUnsupported, EngineLoadFailed, OutOfMemory; MissingExtra on
    import.
    """
    if plan.adapters:
        raise ModelUnsupported("ONNX Runtime takes no LoRA adapters", remedy="Use engine='llamacpp'")
    if plan.kv_type != "f16":
        raise ModelUnsupported(f"ONNX Runtime keeps no {plan.kv_type} cache", why="The graph says its type")
    path = graph_file(path)
    graph = read_graph(path)
    check(graph, path)
    folder = read_folder(path.parent)
    sessions, plan = open_sessions(path, plan)
    signature = read_signature(sessions.first, graph, folder)
    vocabulary = PackageVocabulary(folder, signature.n_vocab)
    chunks, whereabouts = open_chunks(plan, signature)
    info = _info(path, graph, folder, signature, vocabulary, plan, name)
    parallel = plan.parallel or _PARALLEL
    head = chunks.get("prefill")
    context = Context(sessions, signature, n_ctx=info.n_ctx, n_seq=parallel, head=head)
    _try_out(context, path)
    pace = Pace(plan.n_threads, follow_load=sessions.follows)
    context.follow(pace)
    give_back()
    places = Places(parallel=parallel, sequences=parallel, cells=info.n_ctx, shares=False)
    encoder = chunks.get("embed")
    return OnnxEngine(
        vocabulary,
        context,
        info,
        whereabouts,
        signature,
        weights_size(graph),
        places,
        plan.weights,
        encoder,
        limit=pace.limit,
    )


class OnnxEngine(LocalEngine):
    """An `edgeai.engines.Engine`. Made by `open_engine`."""

    _context: Context

    def __init__(
        self,
        vocabulary: PackageVocabulary,
        context: Context,
        info: EngineInfo,
        whereabouts: Whereabouts,
        signature: Signature,
        n_bytes: int,
        places: Places,
        weights: str,
        encoder: Chunk | None = None,
        *,
        limit: Callable[[int], None],
    ) -> None:
        self._signature, self._encoder = signature, encoder
        self._n_bytes = n_bytes
        self._model = vocabulary
        shelf = WarmShelf(context, lambda adapter: _key(info, weights)) if weights else None
        super().__init__(
            vocabulary,
            context,
            info,
            places=places,
            at_end=vocabulary.close,
            shelf=shelf,
            whereabouts=whereabouts,
            limit=limit,
        )

    def embed(
        self, texts: Sequence[str], *, adapter: str | None = None, priority: Priority = "interactive"
    ) -> "NDArray[np.float32]":
        """The mean of each text's last hidden states as a unit vector: shape (len(texts), n_embd).

        Raises ConfigError for an empty text, ContextOverflow, QueueFull, ModelUnsupported when the graph
        gives no hidden states.
        """
        if self._encoder is None or adapter is not None:
            return self._embed_here(texts, adapter, priority)
        vectors = [self._embed_elsewhere(text, self._encoder, priority) for text in texts]
        return np.stack(vectors) if vectors else np.zeros((0, self.info.n_embd), np.float32)

    def _embed_elsewhere(self, text: str, encoder: Chunk, priority: Priority) -> "NDArray[np.float32]":
        """On the other device, if the text is short enough for it."""
        tokens = self._model.tokenize(text, whole=True)
        states = encoder.states(tokens) if 0 < len(tokens) <= encoder.length else None
        if states is None:
            here: NDArray[np.float32] = self._embed_here([text], None, priority)[0]
            return here
        mean: NDArray[np.float64] = states.mean(axis=0, dtype=np.float64)
        return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)

    def _embed_here(
        self, texts: Sequence[str], adapter: str | None, priority: Priority
    ) -> "NDArray[np.float32]":
        if self._signature.hidden is None:
            raise ModelUnsupported(
                "The model gives no hidden states, which make up embeddings",
                remedy="Export it with an output hidden_states, or convert it with edgeai",
            )
        return super().embed(texts, adapter=adapter, priority=priority)

    def memory(self) -> Mapping[str, int]:
        """Where the memory goes, in bytes: weights (packed for the processor), KV cache, output rows."""
        hidden = self._signature.n_embd or 0
        return {
            "weights": self._n_bytes,
            "kv_cache": self.info.n_ctx * self._signature.cache_bytes_per_token,
            "outputs": MAX_OUTPUTS * (self.info.n_vocab + hidden) * 4,
        }

    def _score_steps(
        self, tails: Sequence[Sequence[int]], totals: list[float], on_state: OnState | None
    ) -> Steps:
        return partial(score_steps, self._context, tails, totals, on_state)

    def _score_cells(self, tails: Sequence[Sequence[int]]) -> int:
        return score_cells(tails)

    def _embed_steps(self, sums: "NDArray[np.float64]") -> Steps:
        return partial(embed_steps, self._context, sums)

    def _make_constraint_tokenizer(self) -> object:
        return self._model.constraint_tokenizer()


def _try_out(context: Context, path: Path) -> None:
    """Run one token: what fails always is told while opening, and the first answer does not wait for it."""
    row = context.add([0], 0, 0, outputs=1)
    if context.decode() != 0:
        why = str(context.failure(-1))
        raise EngineLoadFailed(f"ONNX Runtime cannot run {path.name}", why=why, remedy="Verify the files")
    if not np.isfinite(context.logits(row)).any():
        raise EngineLoadFailed(f"{path.name} computes no numbers", remedy="Verify the files")
    context.forget(0)


def _key(info: EngineInfo, weights: str) -> dict[str, str]:
    return {
        "engine": f"{info.engine} {VERSION} {info.provider}{_elsewhere(info)}",
        "weights": weights,
        "template": info.template_hash,
    }


def _elsewhere(info: EngineInfo) -> str:
    """The provider that begins prompts, if it is another: its values are not quite the same."""
    found = (s.provider for s in info.steps if s.work == "prefill" and s.why is None and s.provider != "cpu")
    return "".join(f", prefill on {provider}" for provider in found)


def _info(
    path: Path,
    graph: Graph,
    folder: Folder,
    signature: Signature,
    vocabulary: PackageVocabulary,
    plan: DevicePlan,
    name: str,
) -> EngineInfo:
    manifest = read_manifest(path.parent) if (path.parent / MANIFEST).is_file() else None
    claims = (manifest.context if manifest else folder.context, signature.max_length)
    trained = min((n for n in claims if n is not None), default=DEFAULT_CONTEXT)
    return EngineInfo(
        engine="onnx",
        model=name,
        parameters=manifest.parameters if manifest else count_parameters(graph),
        n_ctx=min(plan.n_ctx, trained),
        n_ctx_train=trained,
        n_vocab=signature.n_vocab,
        n_embd=signature.n_embd or folder.n_embd or 0,
        quantization=manifest.quantization if manifest else quantization_of(graph),
        template_hash=vocabulary.template_hash,
        provider=plan.provider,
        steps=plan.steps,
    )
