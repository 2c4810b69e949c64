"""Encoders in the ONNX engine: a text in, a vector or a number for each label out; nothing is written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from edgeai.engines import DevicePlan, EngineInfo, OnState
from edgeai.engines.onnx.encoder_text import EncoderText
from edgeai.engines.onnx.facts import graph_file
from edgeai.engines.onnx.folder import read_folder
from edgeai.engines.onnx.offload import Chunk, open_chunks
from edgeai.engines.onnx.proto import read_graph
from edgeai.engines.onnx.session import Port, Session, Stop, give_back, value
from edgeai.engines.onnx.signature import Signature
from edgeai.engines.onnx.turnstile import Turnstile
from edgeai.engines.onnx.vetting import check, weights_size
from edgeai.engines.whereabouts import Whereabouts
from edgeai.errors import (
    Cancelled,
    ConfigError,
    ContextOverflow,
    EngineClosed,
    EngineLoadFailed,
    ModelUnsupported,
)
from edgeai.models.package import MANIFEST, Head, Manifest, read_manifest
from edgeai.types import Priority, Request, Warmed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["EncoderEngine", "encoder_manifest", "open_encoder"]

_INPUTS: Final = {"input_ids", "attention_mask", "token_type_ids"}
_STATES: Final = "last_hidden_state"
_LOGITS: Final = "logits"
_BATCH_TOKENS: Final = 4096
"""Tokens that run at once, with padding: bounds the memory of attention."""


def encoder_manifest(path: Path) -> Manifest | None:
    """The manifest beside the graph at ``path`` (or in this folder) if it says that it is an encoder.

    Raises ModelCorrupt or ModelUnsupported.
    """
    folder = path if path.is_dir() else path.parent
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    return manifest if manifest and manifest.head else None


def open_encoder(path: Path, manifest: Manifest, plan: DevicePlan, *, name: str) -> "EncoderEngine":
    """Load an encoder and run one token through it.

    Raises ModelNotFound, ModelCorrupt, ModelUnsupported, EngineLoadFailed, OutOfMemory.
    """
    head = manifest.head
    assert head is not None  # `encoder_manifest` saw to it
    if plan.adapters:
        raise ModelUnsupported("An encoder takes no LoRA adapters")
    path = graph_file(path)
    graph = read_graph(path)
    check(graph, path)
    text = EncoderText(read_folder(path.parent).tokenizer)
    session = Session(path, plan)
    port = _port(session, head)
    chunks, whereabouts = open_chunks(plan, _signature(port))
    info = EngineInfo(
        engine="onnx",
        model=name,
        parameters=manifest.parameters,
        n_ctx=min(plan.n_ctx, manifest.context),
        n_ctx_train=manifest.context,
        n_vocab=text.n_vocab,
        n_embd=port.shape[-1] or 0,
        quantization=manifest.quantization,
        template_hash="",
        steps=whereabouts.steps,
        labels=head.labels,
    )
    chunk = chunks.get("classify" if head.task == "classification" else "embed")
    engine = EncoderEngine(session, text, head, info, weights_size(graph), whereabouts, chunk)
    if not np.isfinite(engine.run([[0]])).all():
        raise EngineLoadFailed(f"{path.name} computes no numbers", remedy="Verify the files")
    give_back()
    return engine


def _port(session: Session, head: Head) -> Port:
    """The output that the head needs; raises ModelUnsupported for a graph without it."""
    name, rank = (_STATES, 3) if head.task == "embedding" else (_LOGITS, 2)
    port = session.outputs.get(name)
    strange = session.inputs.keys() - _INPUTS or "input_ids" not in session.inputs
    if port is None or len(port.shape) != rank or not port.shape[-1] or strange:
        raise ModelUnsupported(
            f"The graph is no encoder for {head.task}",
            why=f"It takes {', '.join(session.inputs)} and gives {', '.join(session.outputs)}",
            remedy="Convert the model with edgeai convert",
        )
    if head.labels and port.shape[-1] != len(head.labels):
        raise ModelUnsupported(f"The graph has {port.shape[-1]} labels, the package {len(head.labels)}")
    return port


def _signature(port: Port) -> Signature:
    """What a graph for another device is compared with: it has the same output."""
    return Signature(inputs={}, cache=(), shared=False, max_length=None, logits=port, hidden=port)


class EncoderEngine:
    """An `edgeai.engines.Engine` that reads and does not write. Made by `open_encoder`."""

    def __init__(
        self,
        session: Session,
        text: EncoderText,
        head: Head,
        info: EngineInfo,
        n_bytes: int,
        whereabouts: Whereabouts,
        chunk: Chunk | None = None,
    ) -> None:
        self._info, self._whereabouts = info, whereabouts
        self._session: Session | None = session
        self._text, self._head, self._n_bytes, self._chunk = text, head, n_bytes, chunk
        self._turns = Turnstile()  # one run has all threads
        self._stop = Stop()

    @property
    def info(self) -> EngineInfo:
        """What the loaded model is."""
        return self._whereabouts.told(self._info)

    @property
    def pulse(self) -> float | None:
        """When the run began that is under way, by `perf_counter`; None while none is."""
        return self._turns.since

    def embed(
        self, texts: Sequence[str], *, adapter: str | None = None, priority: Priority = "interactive"
    ) -> "Floats":
        """One vector a text, shape (len(texts), n_embd), as the package says: pooled, of unit length.

        Texts run in the order of calls, whatever their priority; short ones on another device if the plan
        has one. Raises ConfigError for an empty text, ContextOverflow, and ModelUnsupported for a classifier.
        """
        if self._head.task != "embedding":
            raise ModelUnsupported(
                f"{self.info.model} classifies texts and makes no embeddings", remedy="Use choose"
            )
        self._check_adapter(adapter)
        rows = [self._ids(text) for text in texts]
        vectors = np.zeros((len(rows), self.info.n_embd), np.float32)
        here = [number for number, row in enumerate(rows) if not self._embed_elsewhere(row, vectors[number])]
        for batch in _batches(rows, here):
            vectors[batch] = self.run([rows[i] for i in batch], priority)
        return vectors

    def _embed_elsewhere(self, row: Sequence[int], vector: "Floats") -> bool:
        """Fill ``vector`` on the other device, if there is one and the text is short enough for it."""
        chunk = self._chunk_for(row)
        states = None if chunk is None else chunk.states(row)
        if states is not None:
            vector[:] = pooled(states[None], np.ones((1, len(row)), np.int64), self._head)[0]
        return states is not None

    def _chunk_for(self, row: Sequence[int]) -> Chunk | None:
        """The graph on the other device, if there is one and it is long enough."""
        chunk = self._chunk
        return chunk if chunk is not None and len(row) <= chunk.length else None

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
        """The log-probability (nats) of each of ``continuations``, which are labels, for the text.

        All labels of the classifier share the probability. A short text is read on another device if the
        plan has one. Raises ConfigError for a label it does not know.
        """
        self._check_adapter(adapter)
        labels = self.info.labels
        if not labels:
            self._refuse("It makes embeddings")
        unknown = [label for label in continuations if label not in labels]
        if unknown:
            raise ConfigError(
                f"The classifier does not know {unknown[0]!r}", remedy=f"It knows {', '.join(labels)}"
            )
        if cancelled():
            raise Cancelled("The work was cancelled")
        row = self._ids(prompt)
        chunk = self._chunk_for(row)
        found = None if chunk is None else chunk.logits(row)
        logits = (self.run([row], priority)[0] if found is None else found).astype(np.float64)
        if on_state is not None:
            on_state(logits.astype(np.float32))
        top = logits.max()
        logprobs = logits - top - np.log(np.exp(logits - top).sum())
        return tuple(float(logprobs[labels.index(label)]) for label in continuations)

    def tokenize(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        """Token ids of ``text``, with those that the model wants around it."""
        return tuple(self._text.ids(text, special=special))

    def memory(self) -> Mapping[str, int]:
        """Where the memory goes, in bytes."""
        return {"weights": self._n_bytes}

    def stream(self, request: Request) -> NoReturn:
        """Raises ModelUnsupported."""
        self._refuse("It reads, and writes nothing")

    def count_prompt(self, request: Request) -> int:
        """How many tokens the messages have."""
        return len(self._text.ids("\n".join(message.text for message in request.messages)))

    def warm(self, request: Request, *, most_bytes: int = 0) -> Warmed:
        """Raises ModelUnsupported."""
        self._refuse("It keeps no prefixes")

    def close(self) -> None:
        """End what runs and free the memory; may be called again."""
        self._stop.stop()
        with self._turns.take("interactive"):
            self._session = None

    def run(self, rows: "Sequence[Sequence[int]]", priority: Priority = "interactive") -> "Floats":
        """A vector or the labels' logits for each row of token ids: shape (rows, width)."""
        ids, mask = _padded(rows)
        with self._turns.take(priority):
            found = self._run(ids, mask)
        if self._head.task == "classification":
            return np.asarray(found, np.float32)
        return pooled(found, mask, self._head)

    def _run(self, ids: "NDArray[np.int64]", mask: "NDArray[np.int64]") -> "NDArray[Any]":
        if self._session is None:
            raise EngineClosed("The engine is closed", remedy="Open the model again")
        known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        binding = self._session.new_binding()
        for name, port in self._session.inputs.items():
            binding.input(name, value(known[name].astype(port.dtype or np.int64)))
        binding.new_output(_LOGITS if self._head.task == "classification" else _STATES)
        if not binding.run(self._stop, partly=True):
            raise EngineClosed("The engine was closed", remedy="Open the model again")
        found: NDArray[Any] = binding.outputs()[0].numpy()
        return found

    def _ids(self, text: str) -> list[int]:
        """The tokens, which must be few enough: cutting a text off would change what it says."""
        if not text.strip():
            raise ConfigError("There is nothing to read", why="a text is empty")
        ids = self._text.ids(text)
        if len(ids) > self.info.n_ctx:
            raise ContextOverflow(
                f"The text takes {len(ids)} tokens; {self.info.model} reads {self.info.n_ctx}",
                n_prompt=len(ids),
                n_ctx=self.info.n_ctx,
                remedy="Give it in parts",
            )
        return ids

    def _check_adapter(self, adapter: str | None) -> None:
        if adapter is not None:
            raise ConfigError(f"There is no adapter {adapter!r}", why="An encoder takes none")

    def _refuse(self, why: str) -> NoReturn:
        raise ModelUnsupported(
            f"{self.info.model} is an encoder",
            why=why,
            remedy=f"Use {'choose' if self.info.labels else 'embed'}, or another model",
        )


def pooled(states: "NDArray[Any]", mask: "NDArray[np.int64]", head: Head) -> "Floats":
    """One vector for each row of ``states`` (rows, tokens, width); where ``mask`` is 0 is padding."""
    states = np.asarray(states, np.float32)
    if head.pooling == "cls":
        vectors = states[:, 0]
    else:
        weights = mask[..., None].astype(np.float32)
        vectors = (states * weights).sum(axis=1) / weights.sum(axis=1)
    if head.normalized:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors.astype(np.float32)


def _padded(rows: "Sequence[Sequence[int]]") -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Ids and mask, both (rows, longest)."""
    longest = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), longest), np.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


def _batches(rows: "Sequence[Sequence[int]]", numbers: Sequence[int]) -> Iterator[list[int]]:
    """The ``numbers`` of rows in groups of like length, so that little is padding."""
    batch: list[int] = []
    for number in sorted(numbers, key=lambda i: len(rows[i])):
        if batch and (len(batch) + 1) * len(rows[number]) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
