"""The decoder graph: one builder for all architectures. Its contract with the ONNX engine:

Inputs
    input_ids              int64   [batch, sequence]   new tokens
    seqlens_k              int32   [batch]             tokens in the cache after this run, minus one
    total_sequence_length  int32   []                  the largest of ``seqlens_k`` plus one
    logits_index           int64   [n_outputs]         wanted positions, flat: ``row * sequence + position``
    past_key_values.{i}.key, past_key_values.{i}.value
                           float32 [batch, kv_heads, max_length, head_dim]
Outputs
    logits                 float32 [n_outputs, vocabulary]
    hidden_state           float32 [n_outputs, n_embd]   after the final norm
    present.{i}.key, present.{i}.value                   like the past

Bind the same buffer as past and present: GroupQueryAttention then writes the new entries in place at
``seqlens_k + 1 - sequence`` and nothing is copied; ``max_length`` is the length of that buffer. (Without a
shared buffer, pass a past of exactly the past's length; the present is longer by ``sequence``.) Positions are
derived from ``seqlens_k``. A prompt goes in as one or more chunks with batch 1; a batch of several sequences
decodes with sequence 1, each with its own ``seqlens_k``. ``logits_index`` may be empty between chunks: the
last layer's MLP and the head then cost nothing. Metadata properties of the model: ``edgeai.graph`` (this
contract's number), ``edgeai.max_positions`` (length of the rotary tables: a longer context is out of range),
``edgeai.architecture``.

For sessions: leave prepacking on (without it MatMulNBits falls back to a path 20 times slower), and do not
run a chunk of several tokens after a past with more than one sequence (the kernel takes batch 1 there).
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeai.converters.decoder import Source
from edgeai.converters.linear import Embedding, Linear, Plan
from edgeai.converters.nodes import Nodes
from edgeai.converters.quantize import Losses
from edgeai.converters.rope import tables
from edgeai.converters.weights_file import WeightsFile
from edgeai.errors import ModelCorrupt, ModelUnsupported

CONTRACT = 1
"""The number of this contract between graph and engine."""

Progress = Callable[[int, int], None]
"""Called with the layers done and the layers in all."""


def write_graph(source: Source, folder: Path, plan: Plan, max_positions: int, progress: Progress) -> Losses:
    """Write ``model.onnx`` and ``model.onnx.data`` into the folder; return what packing did to the weights.

    Raises ModelCorrupt when a tensor is missing or has the wrong shape, ModelUnsupported
    for what the kernels cannot do.
    """
    losses = Losses()
    with WeightsFile(folder / "model.onnx.data") as weights:
        builder = _Builder(source, weights, Linear(Nodes(weights), source, plan, losses), max_positions)
        model = builder.build(progress)
    onnx.save_model(model, folder / "model.onnx")
    return losses


TAPS = {
    "qkv": "layer.{}.attn_norm.out",
    "o": "layer.{}.attention",
    "gate_up": "layer.{}.ffn_norm.out",
    "down": "layer.{}.gated",
}
"""The inputs of a layer's matrices, as `write_layer` names them in its graph."""


def write_layer(source: Source, folder: Path, layer: int, max_positions: int) -> Path:
    """Write one layer by itself, in floats: what calibration runs. Returns the graph's path.

    Inputs ``states`` float32 [1, sequence, n_embd], ``seqlens_k``, ``total_sequence_length`` and an empty
    past as `write_graph` has them; outputs ``new_states`` and the inputs of the matrices (`TAPS`).
    """
    path = folder / f"layer.{layer}.onnx"
    with WeightsFile(path.with_suffix(".data")) as weights:
        linear = Linear(Nodes(weights), source, Plan(quant="f32"), Losses())
        model = _Builder(source, weights, linear, max_positions).build_layer(layer)
    onnx.save_model(model, path)
    return path


class _Builder:
    """Writes nodes in the order of computation; names of values are names of what they hold."""

    def __init__(self, source: Source, weights: WeightsFile, linear: Linear, max_positions: int) -> None:
        self._source, self._weights, self._linear = source, weights, linear
        self._decoder = source.decoder
        self._nodes = linear.nodes
        self._max_positions = max_positions

    def build(self, progress: Progress) -> onnx.ModelProto:
        d, add = self._decoder, self._nodes.add
        embedding = Embedding(self._linear)
        residual = embedding.look_up("input_ids", "embedding")
        if d.embedding_scale != 1.0:
            scale = self._weights.add("embedding_scale", np.array(d.embedding_scale, np.float32))
            residual = add("Mul", [residual, scale], "scaled_embedding")
        normed = self._norm(residual, "attn_norm", 0)
        for i in range(d.n_layers):
            attended = self._attention(normed, i)
            if i == d.n_layers - 1:  # what follows needs the wanted positions only
                attended, residual = self._wanted(attended, "attended"), self._wanted(residual, "residual")
            attended = self._linear(attended, ("o",), i, f"layer.{i}.attn_out")
            attended = self._post_norm(attended, "post_attn_norm", i)
            normed, residual = self._skip_norm(attended, residual, "ffn_norm", i)
            hidden = self._post_norm(self._mlp(normed, i), "post_ffn_norm", i)
            last = i == d.n_layers - 1
            role, layer = ("final_norm", None) if last else ("attn_norm", i + 1)
            normed, residual = self._skip_norm(
                hidden, residual, role, layer, "hidden_state" if last else None
            )
            progress(i + 1, d.n_layers)
        self._head(embedding, normed)
        return self._model()

    def build_layer(self, i: int) -> onnx.ModelProto:
        normed = self._norm("states", "attn_norm", i)
        attended = self._linear(self._attention(normed, i), ("o",), i, f"layer.{i}.attn_out")
        attended = self._post_norm(attended, "post_attn_norm", i)
        normed, residual = self._skip_norm(attended, "states", "ffn_norm", i)
        hidden = self._post_norm(self._mlp(normed, i), "post_ffn_norm", i)
        self._nodes.add("Add", [hidden, residual], "new_states")
        value, f32 = helper.make_tensor_value_info, TensorProto.FLOAT
        taps = [tap.format(i) for tap in TAPS.values()]
        return self._onnx(
            [
                value("states", f32, [1, "sequence", self._decoder.n_embd]),
                *self._lengths(),
                *self._caches("past_key_values", "max_length", [i]),
            ],
            [value(name, f32, None) for name in ("new_states", *taps)],
        )

    def _attention(self, x: str, i: int) -> str:
        d, name = self._decoder, f"layer.{i}"
        attributes: dict[str, float] = {
            "num_heads": d.n_heads,
            "kv_num_heads": d.n_kv_heads,
            "do_rotary": 1,
            "local_window_size": d.windows[i] or -1,
        }
        if d.attention_scale is not None:
            attributes["scale"] = float(d.attention_scale)
        if d.attention_softcap:
            attributes["softcap"] = float(d.attention_softcap)
        past = [f"past_key_values.{i}.key", f"past_key_values.{i}.value"]
        present = [f"present.{i}.key", f"present.{i}.value"]
        inputs = [*self._query_key_value(x, i), *past, "seqlens_k", "total_sequence_length", *self._rotary(i)]
        return self._nodes.add("GroupQueryAttention", inputs, f"{name}.attention", attributes, more=present)

    def _query_key_value(self, x: str, i: int) -> tuple[str, str, str]:
        """Packed in one, unless query and key have norms of their own (which CPU kernels do not take in)."""
        name, d = f"layer.{i}", self._decoder
        if self._source.vector("q_norm", i) is None:
            return self._linear(x, ("q", "k", "v"), i, f"{name}.qkv"), "", ""
        query, key, value = (self._linear(x, (role,), i, f"{name}.{role}") for role in ("q", "k", "v"))
        return (
            self._head_norm(query, "q_norm", i, d.n_heads),
            self._head_norm(key, "k_norm", i, d.n_kv_heads),
            value,
        )

    def _head_norm(self, x: str, role: str, i: int, n_heads: int) -> str:
        """The norm of each head."""
        apart = self._weights.add(
            f"{role}.heads", np.array([0, 0, n_heads, self._decoder.head_dim], np.int64)
        )
        joined = self._weights.add("heads.joined", np.array([0, 0, -1], np.int64))
        heads = self._norm(self._nodes.add("Reshape", [x, apart], f"{x}.heads"), role, i)
        return self._nodes.add("Reshape", [heads, joined], f"{x}.normed")

    def _rotary(self, i: int) -> tuple[str, str]:
        rope = self._decoder.ropes[i]
        number = sorted(set(self._decoder.ropes), key=self._decoder.ropes.index).index(rope)
        names = f"rope.{number}.cos", f"rope.{number}.sin"
        if rope.dim % 16:
            raise ModelUnsupported(
                f"Heads with {rope.dim} rotated dimensions cannot be converted",
                why="ONNX Runtime's attention kernel needs a multiple of 16",
            )
        if names[0] not in self._weights.initializers:
            for name, table in zip(names, tables(rope, self._max_positions), strict=True):
                self._weights.add(name, table)
        return names

    def _wanted(self, x: str, name: str) -> str:
        width = self._weights.add(f"{name}.flat", np.array([-1, self._width(name)], np.int64))
        flat = self._nodes.add("Reshape", [x, width], f"{name}.rows")
        return self._nodes.add("Gather", [flat, "logits_index"], f"{name}.wanted", {"axis": 0})

    def _width(self, name: str) -> int:
        d = self._decoder
        return d.n_heads * d.head_dim if name == "attended" else d.n_embd

    def _mlp(self, x: str, i: int) -> str:
        d, add, name = self._decoder, self._nodes.add, f"layer.{i}"
        # apart: measured 7 % faster on one thread than one multiplication and a split
        gate, up = (self._linear(x, (role,), i, f"{name}.{role}") for role in ("gate", "up"))
        if d.activation == "silu":
            active = add("QuickGelu", [gate], f"{name}.active", {"alpha": 1.0})
        else:
            active = add("FastGelu", [gate], f"{name}.active")
        gated = add("Mul", [active, up], f"{name}.gated")
        return self._linear(gated, ("down",), i, f"{name}.mlp_out")

    def _gamma(self, role: str, layer: int | None) -> str:
        values = self._source.vector(role, layer)
        width = self._decoder.head_dim if role in ("q_norm", "k_norm") else self._decoder.n_embd
        if values is None or values.shape != (width,):
            where = role if layer is None else f"{role} in layer {layer}"
            raise ModelCorrupt(f"The model has no {where} of length {width}")
        return self._weights.add(role if layer is None else f"layer.{layer}.{role}", values)

    def _norm(self, x: str, role: str, layer: int) -> str:
        eps = {"epsilon": float(self._decoder.norm_eps), "axis": -1, "stash_type": 1}
        inputs = [x, self._gamma(role, layer)]
        return self._nodes.add("SimplifiedLayerNormalization", inputs, f"layer.{layer}.{role}.out", eps)

    def _post_norm(self, x: str, role: str, layer: int) -> str:
        return x if self._source.vector(role, layer) is None else self._norm(x, role, layer)

    def _skip_norm(
        self, x: str, skip: str, role: str, layer: int | None, out: str | None = None
    ) -> tuple[str, str]:
        """The norm of the sum, and the sum."""
        name = out or f"layer.{layer}.{role}.out"
        total = "" if out else f"layer.{layer}.{role}.sum"
        inputs = [x, skip, self._gamma(role, layer)]
        attributes = {"epsilon": float(self._decoder.norm_eps)}
        more = ["", "", total] if total else []
        self._nodes.add("SkipSimplifiedLayerNormalization", inputs, name, attributes, more=more)
        return name, total

    def _head(self, embedding: Embedding, x: str) -> None:
        cap = self._decoder.logit_softcap
        raw = embedding.project(x, "raw_logits" if cap else "logits")
        if cap:
            scale = self._weights.add("logit_softcap", np.array(cap, np.float32))
            bent = self._nodes.add(
                "Tanh", [self._nodes.add("Div", [raw, scale], "logits.scaled")], "logits.bent"
            )
            self._nodes.add("Mul", [bent, scale], "logits")

    def _model(self) -> onnx.ModelProto:
        d, f32, value = self._decoder, TensorProto.FLOAT, helper.make_tensor_value_info
        layers = range(d.n_layers)
        inputs = [
            value("input_ids", TensorProto.INT64, ["batch", "sequence"]),
            *self._lengths(),
            value("logits_index", TensorProto.INT64, ["n_outputs"]),
            *self._caches("past_key_values", "max_length", layers),
        ]
        outputs = [
            value("logits", f32, ["n_outputs", d.n_vocab]),
            value("hidden_state", f32, ["n_outputs", d.n_embd]),
            *self._caches("present", "present_length", layers),
        ]
        return self._onnx(inputs, outputs)

    def _lengths(self) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["batch"]),
            helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
        ]

    def _caches(self, name: str, length: str, layers: Iterable[int]) -> list[onnx.ValueInfoProto]:
        shape: list[str | int | None] = ["batch", self._decoder.n_kv_heads, length, self._decoder.head_dim]
        return [
            helper.make_tensor_value_info(f"{name}.{i}.{kind}", TensorProto.FLOAT, shape)
            for i in layers
            for kind in ("key", "value")
        ]

    def _onnx(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self._nodes.made, "decoder", inputs, outputs, list(self._weights.initializers.values())
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="edgeai")
        facts = {
            "edgeai.graph": str(CONTRACT),
            "edgeai.max_positions": str(self._max_positions),
            "edgeai.architecture": self._decoder.architecture,
        }
        helper.set_model_props(model, facts)
        return model
