"""A decoder for a prompt's first tokens: a graph of a fixed length in plain operators, for NPUs.

Inputs
    input_ids              int32   [1, tokens]   right-padded; positions are 0 … tokens - 1
Outputs
    hidden_state           float32 [1, tokens, n_embd]   after the final norm
    present.{i}.key, present.{i}.value
                           float32 [1, kv_heads, tokens, head_dim]   rotated, as in `edgeai.converters.graph`

No mask is needed: a token sees only those before it, and padding is after all of them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeai.converters.decoder import Floats, Source, need
from edgeai.converters.fixed_graph import MASKED
from edgeai.converters.formats import whole_bytes
from edgeai.converters.linear import floats
from edgeai.converters.one_file import MOST_BYTES
from edgeai.converters.quantize import pieces
from edgeai.converters.rope import tables
from edgeai.converters.weights_file import WeightsFile
from edgeai.errors import ModelCorrupt, ModelUnsupported

__all__ = ["check_chunk", "outputs", "write_chunk"]

_OPSET = 23  # the first with RMSNormalization


def outputs(n_layers: int) -> list[str]:
    """The names of all outputs."""
    kinds = [f"present.{i}.{kind}" for i in range(n_layers) for kind in ("key", "value")]
    return ["hidden_state", *kinds]


def write_chunk(source: Source, target: Path, tokens: int, step: Callable[[], None] = lambda: None) -> None:
    """Write the float graph, its weights to ``target`` + ".data", a matrix at a time; ``step`` for a layer.

    Raises ModelUnsupported for what it lacks, ModelCorrupt for missing weights.
    """
    check_chunk(source, tokens)
    with WeightsFile(target.with_name(f"{target.name}.data")) as weights:
        onnx.save(_Chunk(source, tokens, weights).build(step), target)


class _Chunk:
    """Writes nodes in the order of computation; names of values are names of what they hold."""

    def __init__(self, source: Source, tokens: int, weights: WeightsFile) -> None:
        self._source, self._n, self._decoder = source, tokens, source.decoder
        self._nodes: list[onnx.NodeProto] = []
        self._weights = weights

    def build(self, step: Callable[[], None]) -> onnx.ModelProto:
        d = self._decoder
        embedding, scale = need(self._source, "embed"), np.float32(d.embedding_scale)
        rows = (values * scale for _, values in pieces(embedding))
        table = self._weights.stream("embedding", embedding.shape, rows)
        states = self._add("Gather", [table, "input_ids"], "embedded", axis=0)
        for i in range(d.n_layers):
            attended = self._attention(self._norm(states, "attn_norm", i), i)
            attended = self._post_norm(attended, "post_attn_norm", i)
            states = self._add("Add", [states, attended], f"{i}.between")
            fed = self._post_norm(self._mlp(self._norm(states, "ffn_norm", i), i), "post_ffn_norm", i)
            states = self._add("Add", [states, fed], f"{i}.states")
            step()
        self._norm(states, "final_norm", None, "hidden_state")
        return self._model()

    def _attention(self, x: str, i: int) -> str:
        d, groups = self._decoder, self._decoder.n_heads // self._decoder.n_kv_heads
        query = self._rotated(self._heads(x, "q", i, d.n_heads), i, f"{i}.query")
        key = self._rotated(self._heads(x, "k", i, d.n_kv_heads), i, f"present.{i}.key")
        value = self._heads(x, "v", i, d.n_kv_heads, f"present.{i}.value")
        # The queries of a group go one after the other to the keys that they share: nothing is repeated.
        joined = self._reshape(query, (1, d.n_kv_heads, groups * self._n, d.head_dim), f"{i}.joined")
        turned = self._add("Transpose", [key], f"{i}.turned", perm=[0, 1, 3, 2])
        scores = self._add("MatMul", [joined, turned], f"{i}.scores")
        masked = self._add("Add", [scores, self._mask(i, groups)], f"{i}.masked")
        shares = self._add("Softmax", [masked], f"{i}.shares", axis=-1)
        seen = self._add("MatMul", [shares, value], f"{i}.seen")
        apart = self._reshape(seen, (1, d.n_heads, self._n, d.head_dim), f"{i}.apart")
        side = self._add("Transpose", [apart], f"{i}.side", perm=[0, 2, 1, 3])
        flat = self._reshape(side, (1, self._n, d.n_heads * d.head_dim), f"{i}.flat")
        return self._linear(flat, "o", i, f"{i}.attended")

    def _heads(self, x: str, role: str, i: int, n_heads: int, output: str | None = None) -> str:
        d = self._decoder
        made = self._linear(x, role, i, f"{i}.{role}")
        heads = self._reshape(made, (1, self._n, n_heads, d.head_dim), f"{i}.{role}.heads")
        if role != "v" and self._source.vector(f"{role}_norm", i) is not None:
            heads = self._norm(heads, f"{role}_norm", i)
        return self._add("Transpose", [heads], output or f"{i}.{role}.side", perm=[0, 2, 1, 3])

    def _rotated(self, x: str, i: int, output: str) -> str:
        """x × cos + half-turned x × sin; the scale of attention is in the query's tables."""
        d, rope = self._decoder, self._decoder.ropes[i]
        cos, sin = tables(rope, self._n)
        scale = 1.0
        if output.endswith("query"):
            scale = d.head_dim**-0.5 if d.attention_scale is None else d.attention_scale
        name = f"rope.{d.ropes.index(rope)}.{scale:.6f}"
        wide = self._constant(f"{name}.cos", np.concatenate([cos, cos], axis=1) * np.float32(scale))
        turn = self._constant(f"{name}.sin", np.concatenate([-sin, sin], axis=1) * np.float32(scale))
        self._nodes.append(
            helper.make_node(
                "Split", [x], [f"{x}.low", f"{x}.high"], name=f"{x}.split", axis=-1, num_outputs=2
            )
        )
        half = self._add("Concat", [f"{x}.high", f"{x}.low"], f"{x}.half", axis=-1)
        kept = self._add("Mul", [x, wide], f"{x}.kept")
        return self._add("Add", [kept, self._add("Mul", [half, turn], f"{x}.turned")], output)

    def _mask(self, i: int, groups: int) -> str:
        window = self._decoder.windows[i]
        at = np.arange(self._n)
        distance = at[:, None] - at[None, :]
        hidden = (distance < 0) | (distance >= (window or self._n))
        mask = np.where(hidden, np.float32(MASKED), np.float32(0))
        return self._constant(f"mask.{window}", np.tile(mask, (groups, 1)))

    def _mlp(self, x: str, i: int) -> str:
        gate, up = (self._linear(x, role, i, f"{i}.{role}") for role in ("gate", "up"))
        if self._decoder.activation == "silu":
            active = self._add("Mul", [gate, self._add("Sigmoid", [gate], f"{i}.open")], f"{i}.active")
        else:
            active = self._add("Gelu", [gate], f"{i}.active", approximate="tanh")
        return self._linear(self._add("Mul", [active, up], f"{i}.gated"), "down", i, f"{i}.fed")

    def _linear(self, x: str, role: str, i: int, output: str) -> str:
        weight = self._weights.add(f"{i}.{role}.weight", floats(need(self._source, role, i)).T)
        bias = self._source.vector(f"{role}_bias", i) if role in ("q", "k", "v", "o") else None
        if bias is None:
            return self._add("MatMul", [x, weight], output)
        made = self._add("MatMul", [x, weight], f"{output}.product")
        return self._add("Add", [made, self._constant(f"{i}.{role}.bias", bias)], output)

    def _norm(self, x: str, role: str, i: int | None, output: str | None = None) -> str:
        gamma = self._source.vector(role, i)
        if gamma is None:
            raise ModelCorrupt(f"The model has no {role}")
        name = role if i is None else f"{i}.{role}"
        inputs = [x, self._constant(f"{name}.gamma", gamma)]
        eps = float(self._decoder.norm_eps)
        return self._add("RMSNormalization", inputs, output or f"{name}.out", axis=-1, epsilon=eps)

    def _post_norm(self, x: str, role: str, i: int) -> str:
        return x if self._source.vector(role, i) is None else self._norm(x, role, i)

    def _reshape(self, x: str, shape: tuple[int, ...], output: str) -> str:
        name = "x".join(map(str, shape))
        return self._add("Reshape", [x, self._weights.add(name, np.array(shape, np.int64))], output)

    def _constant(self, name: str, values: Floats) -> str:
        return self._weights.add(name, values.astype(np.float32, copy=False))

    def _add(self, op: str, inputs: list[str], output: str, **attributes: float | str | list[int]) -> str:
        node = helper.make_node(op, inputs, [output], name=f"/{output}")
        node.attribute.extend(helper.make_attribute(key, found) for key, found in attributes.items())
        self._nodes.append(node)
        return output

    def _model(self) -> onnx.ModelProto:
        d, value = self._decoder, helper.make_tensor_value_info
        cache = [1, d.n_kv_heads, self._n, d.head_dim]
        shapes = {"hidden_state": [1, self._n, d.n_embd]}
        graph = helper.make_graph(
            self._nodes,
            "chunk",
            [value("input_ids", TensorProto.INT32, [1, self._n])],
            [value(name, TensorProto.FLOAT, shapes.get(name, cache)) for name in outputs(d.n_layers)],
            list(self._weights.initializers.values()),
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=11, producer_name="edgeai"
        )


def check_chunk(source: Source, tokens: int) -> None:
    """Raise ModelUnsupported for what such a graph cannot be made of."""
    d = source.decoder
    size = whole_bytes(source.n_parameters, d.n_vocab * d.n_embd)
    missing = {
        "soft caps of attention": d.attention_softcap,
        "partly rotated heads": any(rope.dim != d.head_dim for rope in d.ropes),
        f"files for {size / 1e6:,.0f} MB, above 2 GB": size > MOST_BYTES,
        f"{tokens} positions": tokens > d.max_positions,
    }
    for feature, present in missing.items():
        if present:
            raise ModelUnsupported(f"{d.name} gets no graph for NPUs", why=f"The converter lacks {feature}")
