"""A decoder run layer by layer on real text, in floats: what calibration looks at.

Only one layer is in memory at a time, so that a model of any size can be looked at on a small machine.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import Blocks
from edgeai.converters.decoder import Floats, Matrix, Source
from edgeai.converters.graph import TAPS, write_layer
from edgeai.converters.linear import floats
from edgeai.engines import DevicePlan
from edgeai.engines.onnx.session import Session, Stop, give_back, value
from edgeai.errors import ModelCorrupt

__all__ = ["Layer", "embed", "layer", "logits", "normed"]

_ROWS = 64
Tokens = NDArray[np.int64]
"""Windows of text: shape (windows, tokens)."""


class Layer:
    """One layer of the decoder, loaded."""

    def __init__(self, session: Session, source: Source, number: int) -> None:
        self._session, self._number = session, number
        decoder = source.decoder
        past = np.zeros((1, decoder.n_kv_heads, 0, decoder.head_dim), np.float32)
        self._past = {f"past_key_values.{number}.{kind}": past for kind in ("key", "value")}

    def run(self, states: Floats) -> Floats:
        """What the layer makes of one window's states, shape (tokens, n_embd)."""
        return self._run(states, ["new_states"])["new_states"]

    def through(self, states: Floats) -> tuple[Mapping[str, Floats], Floats]:
        """Both `inputs` and `run`, in one go."""
        taps = {role: tap.format(self._number) for role, tap in TAPS.items()}
        found = self._run(states, [*taps.values(), "new_states"])
        return {role: found[tap] for role, tap in taps.items()}, found["new_states"]

    def inputs(self, states: Floats) -> Mapping[str, Floats]:
        """What each of the layer's matrices is given: by the keys of `TAPS`, shape (tokens, features)."""
        found = self._run(states, [tap.format(self._number) for tap in TAPS.values()])
        return {role: found[tap.format(self._number)] for role, tap in TAPS.items()}

    def free(self) -> None:
        """Let go of its weights, whoever still holds the layer; it cannot be run any more."""
        del self._session

    def _run(self, states: Floats, names: list[str]) -> dict[str, Floats]:
        length = len(states)
        feeds: dict[str, NDArray[np.generic]] = {
            "states": np.ascontiguousarray(states[None]),
            "seqlens_k": np.array([length - 1], np.int32),
            "total_sequence_length": np.array(length, np.int32),
            **self._past,
        }
        binding = self._session.new_binding()
        for name, array in feeds.items():
            binding.input(name, value(array))
        for name in names:
            binding.new_output(name)
        binding.run(Stop(), partly=True)
        outputs = binding.outputs()
        return {name: out.numpy().reshape(length, -1) for name, out in zip(names, outputs, strict=True)}


@contextmanager
def layer(source: Source, number: int, length: int, n_threads: int) -> Iterator[Layer]:
    """Load a layer for windows of up to ``length`` tokens; all of it is given back afterwards."""
    with tempfile.TemporaryDirectory(prefix="edgeai-layer-") as folder:
        path = write_layer(source, Path(folder), number, length)
        loaded = Layer(Session(path, DevicePlan(n_ctx=length, n_threads=n_threads)), source, number)
        try:
            yield loaded
        finally:
            loaded.free()
    give_back()


def embed(source: Source, tokens: Tokens) -> Floats:
    """The states that the first layer gets: shape (windows, tokens, n_embd)."""
    matrix = _need(source, "embed")
    known = np.unique(tokens)
    table = np.concatenate([_rows(matrix, int(token), int(token) + 1) for token in known])
    states = table[np.searchsorted(known, tokens)]
    return np.asarray(states * np.float32(source.decoder.embedding_scale), np.float32)


def logits(source: Source, states: Floats) -> Iterator[Floats]:
    """Logits of the last layer's states (n, n_embd), some rows at a time: with those of many tokens they are
    larger than the model.
    """
    decoder = source.decoder
    head = floats(source.matrix("head") or _need(source, "embed")).T
    for start in range(0, len(states), _ROWS):
        raw = normed(source, states[start : start + _ROWS]) @ head
        cap = np.float32(decoder.logit_softcap)
        yield cap * np.tanh(raw / cap) if cap else raw


def normed(source: Source, states: Floats) -> Floats:
    """What the head gets of the last layer's states, (…, n_embd) both."""
    gamma = source.vector("final_norm")
    if gamma is None:
        raise ModelCorrupt("The model has no final norm")
    scale = np.sqrt(np.square(states).mean(axis=-1, keepdims=True) + source.decoder.norm_eps)
    return np.asarray(states / scale * gamma, np.float32)


def _need(source: Source, role: str) -> Matrix:
    matrix = source.matrix(role)
    if matrix is None:
        raise ModelCorrupt(f"The model has no matrix for {role}")
    return matrix


def _rows(matrix: Matrix, start: int, stop: int) -> Floats:
    rows = matrix.rows(start, stop)
    return rows.floats() if isinstance(rows, Blocks) else rows
