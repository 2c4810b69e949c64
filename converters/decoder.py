"""What a decoder is made of: hyper-parameters and named weights, whatever file they come from.

Readers (`edgeai.converters.gguf_source`, `edgeai.converters.safetensors_source`) produce it, the builder
(`edgeai.converters.graph`) consumes it; neither knows the other.

Roles of a layer's matrices: ``q k v o gate up down``; of its vectors: ``attn_norm ffn_norm`` and optionally
``q_bias k_bias v_bias o_bias q_norm k_norm post_attn_norm post_ffn_norm``. Outside the layers: matrices
``embed`` and (if not tied) ``head``, vector ``final_norm``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeai.converters.blocks import Blocks
from edgeai.errors import ModelCorrupt

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """One rotary embedding: ``dim`` rotated dimensions of a head in split-half order.

    ``factors`` divide the frequencies one by one, ``scale`` multiplies positions (linear scaling),
    ``magnitude`` multiplies cosine and sine.
    """

    base: float
    dim: int
    scale: float = 1.0
    magnitude: float = 1.0
    factors: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Hyper-parameters of a decoder-only transformer. ``windows`` and ``ropes`` have one entry a layer.

    ``windows[i]`` counts the positions a token attends to, itself included; None means all.
    ``max_positions`` is the longest context, in tokens, that the weights and this converter support.
    """

    architecture: str
    name: str
    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ff: int
    n_vocab: int
    max_positions: int
    norm_eps: float
    ropes: tuple[Rope, ...]
    windows: tuple[int | None, ...]
    activation: str = "silu"
    embedding_scale: float = 1.0
    attention_scale: float | None = None
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    licence: str | None = None


class Matrix(Protocol):
    """A weight matrix that can be read piece by piece."""

    @property
    def shape(self) -> tuple[int, int]:
        """Output features, input features."""
        ...

    @property
    def kind(self) -> str:
        """The source's own name for the number format, such as ``Q4_1``."""
        ...

    def rows(self, start: int, stop: int) -> "Blocks | Floats":
        """Rows ``start`` to ``stop``, as quantized blocks or as floats."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerData:
    """What the package needs beside the graph.

    ``json`` is the content of a ``tokenizer.json``; ``eos_ids`` end a generation.
    """

    json: str
    chat_template: str | None
    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool
    tokens: Mapping[str, str]  # bos_token and eos_token, which templates ask for


class Source(Protocol):
    """An open model: raises ModelCorrupt for missing or misshapen tensors."""

    @property
    def decoder(self) -> Decoder:
        """The hyper-parameters."""
        ...

    @property
    def provenance(self) -> Mapping[str, str | int | Mapping[str, int]]:
        """Reproducible facts about where the weights come from."""
        ...

    @property
    def n_parameters(self) -> int:
        """Weights in all."""
        ...

    def matrix(self, role: str, layer: int | None = None) -> Matrix | None:
        """The matrix of that role, or None if the model has none."""
        ...

    def vector(self, role: str, layer: int | None = None) -> Floats | None:
        """The vector of that role, or None if the model has none."""
        ...

    def tokenizer(self) -> TokenizerData:
        """The tokenizer and the chat template; raises ModelUnsupported for a kind we cannot write."""
        ...


def need(source: Source, role: str, layer: int | None = None) -> Matrix:
    """The matrix of the role; raises ModelCorrupt if there is none or its shape is wrong."""
    matrix = source.matrix(role, layer)
    where = role if layer is None else f"{role} in layer {layer}"
    if matrix is None:
        raise ModelCorrupt(f"The model has no matrix for {where}")
    expected = _shape(source.decoder, role)
    if matrix.shape != expected:
        raise ModelCorrupt(
            f"The matrix for {where} has the wrong shape", why=f"{matrix.shape}, not {expected}"
        )
    return matrix


def _shape(d: Decoder, role: str) -> tuple[int, int]:
    """Output and input features of a role."""
    n_q, n_kv = d.n_heads * d.head_dim, d.n_kv_heads * d.head_dim
    return {
        "q": (n_q, d.n_embd),
        "k": (n_kv, d.n_embd),
        "v": (n_kv, d.n_embd),
        "o": (d.n_embd, n_q),
        "gate": (d.n_ff, d.n_embd),
        "up": (d.n_ff, d.n_embd),
        "down": (d.n_embd, d.n_ff),
    }.get(role, (d.n_vocab, d.n_embd))
