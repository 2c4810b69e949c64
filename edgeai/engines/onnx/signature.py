"""How a decoder graph wants to be called, read from the graph itself and not assumed.

Known are this project's own graphs (`edgeai.converters.graph`), those of onnxruntime-genai's model builder
and those of optimum, with fused attention or without.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgeai.engines.onnx.facts import PAST
from edgeai.engines.onnx.folder import Folder
from edgeai.engines.onnx.proto import Graph
from edgeai.engines.onnx.session import Port, Session
from edgeai.errors import ModelUnsupported

__all__ = ["HIDDEN", "CacheEntry", "Signature", "read_signature"]

_PRESENT: Final = re.compile(r"present\D*(\d+)\D*\b(key|value)\b|present_(key|value)\D*(\d+)$")
HIDDEN: Final = ("hidden_state", "hidden_states", "last_hidden_state")
_INTEGERS: Final = {
    "attention_mask",
    "input_ids",
    "logits_index",
    "position_ids",
    "seqlens_k",
    "total_sequence_length",
}
_FLAG: Final = "use_cache_branch"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """Keys or values of one layer: the names in the graph, and the shape but for batch and length."""

    past: str
    present: str
    heads: int
    width: int
    dtype: type[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What the graph takes and gives.

    ``inputs`` are those besides the cache, with their types. ``shared``: past and present may be one buffer
    of any length, in which new entries are written. ``max_length`` bounds the context (None: nothing does).
    ``logits`` and ``hidden`` have rows (``flat``) or a batch of rows.
    """

    inputs: Mapping[str, type[np.generic]]
    cache: tuple[CacheEntry, ...]
    shared: bool
    max_length: int | None
    logits: Port
    hidden: Port | None

    @property
    def n_vocab(self) -> int:
        """The width of the logits."""
        return _width(self.logits)

    @property
    def n_embd(self) -> int | None:
        """The width of the hidden states, None if there are none."""
        return None if self.hidden is None else _width(self.hidden)

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of keys and values in all layers."""
        return sum(entry.heads * entry.width * np.dtype(entry.dtype).itemsize for entry in self.cache)


def read_signature(session: Session, graph: Graph, folder: Folder) -> Signature:
    """Understand the graph; ``folder`` says what it leaves open.

    Raises ModelUnsupported with what is strange about it.
    """
    pasts = _keyed(session.inputs.values(), PAST)
    presents = _keyed(session.outputs.values(), _PRESENT)
    if not pasts or pasts.keys() != presents.keys():
        raise _strange("its inputs and outputs for past keys and values do not fit together")
    entries = tuple(_entry(pasts[key], presents[key], folder) for key in sorted(pasts))
    shared = _is_shared(graph, {entry.past for entry in entries})
    past_lengths = [port.shape[2] for port in pasts.values() if port.shape[2] is not None]
    if past_lengths and not shared:
        raise _strange("it takes a past of one length only")
    bounds = [*past_lengths, *_rotary_lengths(graph)]
    hidden = next((session.outputs[name] for name in HIDDEN if name in session.outputs), None)
    return Signature(
        inputs=_others(session, {entry.past for entry in entries}),
        cache=entries,
        shared=shared,
        max_length=min(bounds, default=None),
        logits=_rows(session.outputs.get("logits"), "logits"),
        hidden=None if hidden is None else _rows(hidden, hidden.name),
    )


def _keyed(ports: Any, pattern: re.Pattern[str]) -> dict[tuple[int, str], Port]:  # noqa: ANN401  # a view
    found = {}
    for port in ports:
        match = pattern.match(port.name)
        if match:
            layer, kind = match[1] or match[4], match[2] or match[3]
            found[int(layer), kind] = port
    return found


def _entry(past: Port, present: Port, folder: Folder) -> CacheEntry:
    if len(past.shape) != 4 or past.shape[0] not in (None, 1):
        raise _strange(f"the input {past.name} has the shape {past.shape}")
    heads, width = past.shape[1] or folder.n_kv_heads, past.shape[3] or folder.head_dim
    if heads is None or width is None:
        raise _strange(f"the input {past.name} does not say how many heads it has, or how wide they are")
    if past.dtype is None or past.dtype != present.dtype:
        raise _strange(f"the input {past.name} has a number format that is not supported")
    return CacheEntry(past=past.name, present=present.name, heads=heads, width=width, dtype=past.dtype)


def _is_shared(graph: Graph, pasts: set[str]) -> bool:
    """Whether all pasts go straight into attention that can write into them."""
    fused = {name for node in graph.nodes if node.op == "GroupQueryAttention" for name in node.inputs[3:5]}
    others = {name for node in graph.nodes if node.op != "GroupQueryAttention" for name in node.inputs}
    return pasts <= fused and not pasts & others


def _rotary_lengths(graph: Graph) -> list[int]:
    """How many positions the tables of fused rotary embeddings have."""
    tables = {
        name
        for node in graph.nodes
        for name in (
            node.inputs[7:9]
            if node.op == "GroupQueryAttention"
            else node.inputs[2:4]
            if node.op == "RotaryEmbedding"
            else ()
        )
    }
    found = [graph.tensors[name].dims for name in tables if name in graph.tensors]
    return [dims[0] for dims in found if len(dims) == 2]


def _others(session: Session, pasts: set[str]) -> dict[str, type[np.generic]]:
    others = {}
    for name, port in session.inputs.items():
        if name in pasts:
            continue
        fits = port.dtype in (np.int64, np.int32) if name in _INTEGERS else port.dtype is np.bool_
        if port.dtype is None or not fits or not (name in _INTEGERS or name == _FLAG):
            raise _strange(f"it has an input {name}, which is not known")
        others[name] = port.dtype
    if "input_ids" not in others:
        raise _strange("it has no input input_ids")
    return others


def _rows(port: Port | None, name: str) -> Port:
    if port is None:
        raise _strange(f"it has no output {name}")
    if len(port.shape) not in (2, 3) or not port.shape[-1]:
        raise _strange(f"its output {name} has the shape {port.shape}")
    if port.dtype not in (np.float32, np.float16):
        raise _strange(f"its output {name} is not in 16 or 32 bit floats")
    return port


def _width(port: Port) -> int:
    width = port.shape[-1]
    assert width is not None  # `_rows` saw to it
    return width


def _strange(why: str) -> ModelUnsupported:
    return ModelUnsupported(
        "The graph is not a text decoder that this engine knows",
        why=why,
        remedy="Export it with edgeai, onnxruntime-genai's model builder or optimum (with past)",
    )
