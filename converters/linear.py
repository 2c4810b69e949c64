"""Matrices in the graph: which number format each gets, and the nodes that multiply with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgeai.converters.channels import KIND, round_channels
from edgeai.converters.decoder import Floats, Matrix, Source, need
from edgeai.converters.encode import encoded
from edgeai.converters.nodes import Nodes
from edgeai.converters.quantize import BLOCK, Format, Loss, Losses, Packed, join, pack, pack_zeros, pieces

Quant = Literal["auto", "exact", "int8", "int4", "f16", "f32"]
"""How to store weights: see `edgeai.converters.onnx_package.convert`."""

_CHUNK = 1 << 22  # weights at a time
_INT8_ACCUMULATION = 4  # MatMulNBits' accuracy_level: inputs are quantized to 8 bit, too
_EXACT4 = {"Q4_0"}
_OFFSET4 = {"Q4_0", "Q4_1", "Q4_K"}
_TUNED4 = {"U4"}  # blocks with whole zero points, which only calibration makes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How weights are stored; those that calibration chose a format for keep it."""

    quant: Quant = "auto"

    def format(self, kinds: Sequence[str], *, head: bool = False) -> Format | None:
        """The format for matrices that are packed together; None means floats."""
        if self.quant in ("f32", "f16"):
            return None
        if _TUNED4.issuperset(kinds) and not head:
            return "int4+zero"
        if self.quant == "int4" and not head:
            return "int4"
        if self.quant in ("auto", "exact") and _EXACT4.issuperset(kinds):
            return "int4"
        if self.quant == "exact" and not head and _OFFSET4.issuperset(kinds):
            return "int4+offset"
        return "int8"


class Linear:
    """Multiplies by the matrices of the roles, stacked: ``linear(x, ("q", "k", "v"), layer, output)``."""

    def __init__(self, nodes: Nodes, source: Source, plan: Plan, losses: Losses) -> None:
        self.nodes, self.source, self.plan, self.losses = nodes, source, plan, losses
        self._coded: set[str] = set()

    def __call__(self, x: str, roles: Sequence[str], layer: int | None, output: str) -> str:
        matrices = [self.need(role, layer) for role in roles]
        bias = self._bias(roles, layer, [m.shape[0] for m in matrices], output)
        if all(m.kind == KIND for m in matrices):
            return self._integers(x, dict(zip(roles, matrices, strict=True)), bias, output)
        target = self.plan.format([m.kind for m in matrices])
        if target is None:
            return self._floats(x, dict(zip(roles, matrices, strict=True)), bias, output)
        packed = join(
            [pack(m, target, self.loss(r, m, target)) for r, m in zip(roles, matrices, strict=True)]
        )
        return self.multiply(x, packed, matrices[0].shape[1], bias, output)

    def need(self, role: str, layer: int | None = None) -> Matrix:
        """The matrix of the role; raises ModelCorrupt if there is none or its shape is wrong."""
        return need(self.source, role, layer)

    def loss(self, role: str, matrix: Matrix, target: str) -> Loss:
        """Where the errors of this matrix are counted."""
        return self.losses.of(role, matrix.kind, target)

    def multiply(self, x: str, packed: Packed, n_columns: int, bias: str, output: str) -> str:
        """``x`` times the packed weights, plus bias."""
        add, weights = self.nodes.add, self.nodes.weights
        data = weights.add(f"{output}.weight", packed.data)
        scale = weights.add(f"{output}.scale", packed.scale)
        attributes = {
            "K": n_columns,
            "N": len(packed.data),
            "bits": packed.bits,
            "block_size": BLOCK,
            "accuracy_level": _INT8_ACCUMULATION,
        }
        zeros = "" if packed.zero is None else weights.add(f"{output}.zeros", pack_zeros(packed.zero))
        inputs = [x, data, scale, zeros, "", bias]
        while not inputs[-1]:
            inputs.pop()
        if packed.offset is None:
            return add("MatMulNBits", inputs, output, attributes)
        product = add("MatMulNBits", inputs, f"{output}.product", attributes)
        return add("Add", [product, self._offsets(x, packed.offset, n_columns, output)], output)

    def _offsets(self, x: str, offset: Floats, n_columns: int, output: str) -> str:
        """The sum of each block of inputs times its offset."""
        blocks = np.arange(n_columns) // BLOCK
        ones = (blocks[:, None] == np.arange(offset.shape[1])).astype(np.float32)
        summing = self.nodes.weights.add(f"block_sum.{n_columns}", ones)
        sums = self.nodes.add("MatMul", [x, summing], f"{output}.sums")
        return self.nodes.add(
            "MatMul", [sums, self.nodes.weights.add(f"{output}.offset", offset.T)], f"{output}.shift"
        )

    def _bias(self, roles: Sequence[str], layer: int | None, sizes: Sequence[int], output: str) -> str:
        """The stacked biases; zeros where only some of the roles have one."""
        known = self.source
        if layer is None or not {"q", "k", "v", "o"}.intersection(roles):
            return ""
        parts = [known.vector(f"{role}_bias", layer) for role in roles]
        if all(part is None for part in parts):
            return ""
        filled = [np.zeros(n, np.float32) if p is None else p for p, n in zip(parts, sizes, strict=True)]
        return self.nodes.weights.add(f"{output}.bias", np.concatenate(filled))

    def _floats(self, x: str, matrices: Mapping[str, Matrix], bias: str, output: str) -> str:
        parts = [self.read(role, matrix) for role, matrix in matrices.items()]
        values = self.table(f"{output}.weight", np.concatenate(parts).T)
        if not bias:
            return self.nodes.add("MatMul", [x, values], output)
        product = self.nodes.add("MatMul", [x, values], f"{output}.product")
        return self.nodes.add("Add", [product, bias], output)

    def read(self, role: str, matrix: Matrix) -> NDArray[Any]:
        """The whole matrix as the plan's floats; what halves lose is counted."""
        if self.plan.quant != "f16":
            return floats(matrix)
        loss, parts = self.loss(role, matrix, "f16"), []
        for _, rows in pieces(matrix):
            parts.append(encoded(rows, "f16"))
            loss.count(rows, parts[-1].astype(np.float32))
            loss.n_bytes += parts[-1].nbytes
        return np.concatenate(parts)

    def table(self, name: str, values: NDArray[Any]) -> str:
        """Floats that are multiplied with. Halves become floats when the graph is loaded: ONNX Runtime

        computes in halves on no x86 processor, and would convert inputs and outputs for every matrix.
        """
        if values.dtype != np.float16:
            return self.nodes.weights.add(name, values)
        stored = self.nodes.weights.add(f"{name}.half", values)
        return self.nodes.add("Cast", [stored], name, {"to": TensorProto.FLOAT})

    def _integers(self, x: str, matrices: Mapping[str, Matrix], bias: str, output: str) -> str:
        """Inputs rounded as they come, once for all matrices that get them; see `channels`."""
        add, weights = self.nodes.add, self.nodes.weights
        rounded = [round_channels(m, self.loss(role, m, "int8+dynamic")) for role, m in matrices.items()]
        codes, step, zero = (f"{x}.{part}" for part in ("codes", "step", "zero"))
        if codes not in self._coded:
            self._coded.add(add("DynamicQuantizeLinear", [x], codes, more=[step, zero]))
        values = weights.add(f"{output}.weight", np.concatenate([part.codes for part in rounded], axis=1))
        scale = weights.add(f"{output}.scale", np.concatenate([part.scale for part in rounded]))
        inputs = [codes, values, step, scale, zero, "", bias]
        while not inputs[-1]:
            inputs.pop()
        return add("MatMulIntegerToFloat", inputs, output)


class Embedding:
    """The token embedding, kept as it is stored, and the head, which shares its bytes when tied."""

    def __init__(self, linear: Linear) -> None:
        self._linear, self._nodes = linear, linear.nodes
        self._matrix = linear.need("embed")
        self._target = linear.plan.format([self._matrix.kind], head=True)
        self._head = None if linear.source.matrix("head") is None else linear.need("head")

    def look_up(self, ids: str, output: str) -> str:
        """The rows for the ids."""
        add, weights = self._nodes.add, self._nodes.weights
        if self._target is None:
            values = self._linear.read("embed", self._matrix)
            if values.dtype == np.float16:  # the rows alone: the whole table is the head's, if that is tied
                stored = weights.add("embedding.weight.half", values)
                found = add("Gather", [stored, ids], f"{output}.half", {"axis": 0})
                return add("Cast", [found], output, {"to": TensorProto.FLOAT})
            return add("Gather", [weights.add("embedding.weight", values), ids], output, {"axis": 0})
        packed = pack(self._matrix, self._target, self._linear.loss("embed", self._matrix, self._target))
        weights.add("embedding.weight", packed.data)
        flat = weights.reshaped("embedding.rows", "embedding.weight", (len(packed.data), packed.data[0].size))
        inputs = [flat, ids, weights.add("embedding.scale", packed.scale)]
        attributes = {"bits": packed.bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
        return add("GatherBlockQuantized", inputs, output, attributes)

    def project(self, x: str, output: str) -> str:
        """From the hidden state to logits."""
        if self._head is not None:
            return self._untied(x, self._head, output)
        n_rows, n_columns = self._matrix.shape
        if self._target is None:
            if self._linear.plan.quant == "f16":
                self._nodes.add(
                    "Cast", ["embedding.weight.half"], "embedding.weight", {"to": TensorProto.FLOAT}
                )
            return self._nodes.add("FusedMatMul", [x, "embedding.weight"], output, {"transB": 1})
        attributes = {
            "K": n_columns,
            "N": n_rows,
            "bits": 4 if self._target == "int4" else 8,
            "block_size": BLOCK,
            "accuracy_level": _INT8_ACCUMULATION,
        }
        return self._nodes.add("MatMulNBits", [x, "embedding.weight", "embedding.scale"], output, attributes)

    def _untied(self, x: str, head: Matrix, output: str) -> str:
        target = self._linear.plan.format([head.kind], head=True)
        if target is None:
            values = self._linear.table("head.weight", self._linear.read("head", head).T)
            return self._nodes.add("MatMul", [x, values], output)
        packed = pack(head, target, self._linear.loss("head", head, target))
        return self._linear.multiply(x, packed, head.shape[1], "", output)


def floats(matrix: Matrix) -> Floats:
    """The whole matrix as floats, read in pieces, so that nothing else of its size is in memory."""
    n_rows, n_columns = matrix.shape
    whole = np.empty((n_rows, n_columns), np.float32)
    step = max(1, _CHUNK // n_columns)
    for start in range(0, n_rows, step):
        rows = matrix.rows(start, min(start + step, n_rows))
        whole[start : start + step] = rows if isinstance(rows, np.ndarray) else rows.floats()
    return whole
