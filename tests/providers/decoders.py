# ruff: noqa: ANN401
"""A decoder's first tokens as NPUs want them: one fixed length, and attention in plain operators."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeai.models.disk import hash_file
from edgeai.models.package import PackageFile, Variant, read_manifest, write_manifest
from tests.providers.encoders import quantize


def add_variants(package: Path, *, tokens: int = 8, device: str = "npu", quantized: bool = False) -> Path:
    """The package with one more graph, for prefill and for embeddings; ``quantized`` as NPUs want it."""
    path = _Plain(package, tokens).write(package / f"{device}.onnx")
    if quantized:
        quantize(path, _Texts(tokens))
    manifest = read_manifest(package)
    listed = PackageFile(path=path.name, sha256=hash_file(path), size=path.stat().st_size)
    works = dict.fromkeys(("prefill", "embed"), Variant(graph=path.name, tokens=tokens))
    files = (*(file for file in manifest.files if file.path != path.name), listed)
    write_manifest(package, replace(manifest, files=files, variants={**manifest.variants, device: works}))
    return package


class _Texts:
    """What the ranges of the activations are found with; ONNX Runtime calls `get_next` until None."""

    def __init__(self, tokens: int) -> None:
        random = np.random.default_rng(5)
        self._ids = [random.integers(0, 100, (1, tokens)) for _ in range(8)]

    def get_next(self) -> dict[str, Any] | None:
        return {"input_ids": self._ids.pop()} if self._ids else None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if (feed := self.get_next()) is None:
            raise StopIteration
        return feed


class _Plain:
    """Rewrites the tiny decoder's graph, operator by operator."""

    def __init__(self, package: Path, tokens: int) -> None:
        self.n = tokens
        self.source = onnx.load(package / "model.onnx")
        self.nodes: list[Any] = []
        self.weights = {t.name: numpy_helper.to_array(t) for t in self.source.graph.initializer}
        self.presents: list[tuple[str, int, int]] = []

    def write(self, path: Path) -> Path:
        for node in self.source.graph.node:
            getattr(self, f"_{node.op_type}", self._as_it_is)(node)
        used = {name for node in self.nodes for name in node.input}
        shape = [1, self.n, len(self.weights["final_norm"])]
        outputs = [helper.make_tensor_value_info("hidden_state", TensorProto.FLOAT, shape)]
        for name, heads, width in self.presents:
            shape = [1, heads, self.n, width]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, self.n])]
        kept = [numpy_helper.from_array(a, name) for name, a in self.weights.items() if name in used]
        graph = helper.make_graph(self.nodes, "prefill", inputs, outputs, kept)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.weights[name] = np.asarray(value, dtype)
        return name

    def _as_it_is(self, node: Any) -> None:
        self.add(node.op_type, list(node.input), node.output[0], **_attributes(node))

    def _same(self, node: Any) -> None:
        """All tokens are wanted, so that none are picked."""
        self.add("Identity", [node.input[0]], node.output[0])

    _Reshape = _same

    def _Gather(self, node: Any) -> None:
        (self._same if "logits_index" in node.input else self._as_it_is)(node)

    def _FusedMatMul(self, node: Any) -> None:
        """No logits are wanted."""

    def _QuickGelu(self, node: Any) -> None:
        gate = self.add("Sigmoid", [node.input[0]], f"{node.output[0]}.gate")
        self.add("Mul", [node.input[0], gate], node.output[0])

    def _SimplifiedLayerNormalization(self, node: Any) -> None:
        self._norm(node.input[0], node.input[1], node.output[0], _attributes(node)["epsilon"])

    def _SkipSimplifiedLayerNormalization(self, node: Any) -> None:
        name = node.output[3] if len(node.output) > 3 else f"{node.output[0]}.sum"
        total = self.add("Add", [node.input[0], node.input[1]], name)
        self._norm(total, node.input[2], node.output[0], _attributes(node)["epsilon"])

    def _norm(self, x: str, weight: str, out: str, epsilon: float) -> None:
        square = self.add("Mul", [x, x], f"{out}.square")
        mean = self.add("ReduceMean", [square], f"{out}.mean", axes=[-1], keepdims=1)
        safe = self.add("Add", [mean, self.constant(f"{out}.epsilon", epsilon)], f"{out}.safe")
        root = self.add("Sqrt", [safe], f"{out}.root")
        self.add("Mul", [self.add("Div", [x, root], f"{out}.unit"), weight], out)

    def _GroupQueryAttention(self, node: Any) -> None:
        out, facts = node.output[0], _attributes(node)
        heads, shared = facts["num_heads"], facts["kv_num_heads"]
        width = len(self.weights[node.input[7]][0]) * 2
        sizes = self.constant(f"{out}.sizes", [heads * width, shared * width, shared * width], np.int64)
        parts = [f"{out}.{part}" for part in ("q", "k", "v")]
        self.nodes.append(helper.make_node("Split", [node.input[0], sizes], parts, axis=-1, name=f"{out}.s"))
        q, k, v = (
            self._heads(part, n, width) for part, n in zip(parts, (heads, shared, shared), strict=True)
        )
        tables = (self.weights[node.input[7]][: self.n], self.weights[node.input[8]][: self.n])
        q, k = self._turn(q, tables, f"{q}.turned"), self._turn(k, tables, node.output[1])
        self.add("Identity", [v], node.output[2])
        self.presents += [(name, shared, width) for name in node.output[1:3]]
        turned = self.add("Transpose", [self._wide(k, heads // shared)], f"{out}.kt", perm=[0, 1, 3, 2])
        scores = self.add("MatMul", [q, turned], f"{out}.scores")
        scaled = self.add("Mul", [scores, self.constant(f"{out}.scale", width**-0.5)], f"{out}.scaled")
        future = self.constant(f"{out}.future", np.triu(np.full((self.n, self.n), -1e4), 1))
        shares = self.add(
            "Softmax", [self.add("Add", [scaled, future], f"{out}.past")], f"{out}.shares", axis=-1
        )
        seen = self.add("MatMul", [shares, self._wide(v, heads // shared)], f"{out}.seen")
        back = self.add("Transpose", [seen], f"{out}.back", perm=[0, 2, 1, 3])
        flat = self.constant(f"{out}.flat", [1, self.n, heads * width], np.int64)
        self.add("Reshape", [back, flat], out)

    def _heads(self, x: str, heads: int, width: int) -> str:
        shape = self.constant(f"{x}.shape", [1, self.n, heads, width], np.int64)
        split = self.add("Reshape", [x, shape], f"{x}.split")
        return self.add("Transpose", [split], f"{x}.heads", perm=[0, 2, 1, 3])

    def _wide(self, x: str, times: int) -> str:
        """Each head of keys or values for as many heads of queries."""
        heads = self.presents[0][1]
        order = self.constant(f"{x}.order", [h for h in range(heads) for _ in range(times)], np.int64)
        return self.add("Gather", [x, order], f"{x}.wide", axis=1)

    def _turn(self, x: str, tables: tuple[Any, Any], out: str) -> str:
        """Rotary positions: both halves of each head turn together."""
        cos, sin = (np.concatenate([table, table], axis=-1) for table in tables)
        half = cos.shape[-1] // 2
        swap = self.constant(f"{out}.swap", [*range(half, 2 * half), *range(half)], np.int64)
        sign = np.concatenate([np.full(half, -1.0), np.ones(half)])
        other = self.add("Gather", [x, swap], f"{out}.other", axis=3)
        one = self.add("Mul", [x, self.constant(f"{out}.cos", cos)], f"{out}.one")
        two = self.add("Mul", [other, self.constant(f"{out}.sin", sin * sign)], f"{out}.two")
        return self.add("Add", [one, two], out)


def _attributes(node: Any) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
