"""The weights of ONNX graphs of optimum and onnxruntime-genai, by their names in Hugging Face folders.

Both exporters name nodes after the modules of the model, which is how a matrix is known. All else about a
graph may differ; what multiplies by weights and is not known by its name is refused: nothing is left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeai.converters.packed_words import PackedMatrix, Words
from edgeai.converters.safetensors_file import StoredMatrix
from edgeai.engines.onnx.facts import graph_file
from edgeai.engines.onnx.proto import read_graph
from edgeai.engines.onnx.vetting import check
from edgeai.errors import ModelUnsupported

__all__ = ["OnnxTensors"]

Tensors = dict[str, StoredMatrix | PackedMatrix]

_MATRIX = re.compile(r"/model/layers\.(\d+)/(self_attn|attn|mlp)/(\w+_proj)/MatMul(_Q\d+)?")
_BIAS = re.compile(r"/model/layers\.(\d+)/(self_attn|attn|mlp)/(\w+_proj)/Add")
_HEAD = re.compile(r"/lm_head/MatMul(_Q\d+)?")
_EMBED = re.compile(r"/model/embed_tokens/(Gather|GatherBlockQuantized)")
_NORM = re.compile(
    r"model\.(?:layers\.(\d+)\.)?(?:(?:self_attn|attn)\.)?"
    r"((?:input|post_attention|pre_feedforward|post_feedforward)_layernorm|[qk]_norm|norm|final_norm_layernorm)"
)
_NORMS = ("Mul", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
_KINDS: Mapping[int, tuple[str, type[np.generic]]] = {
    onnx.TensorProto.FLOAT: ("F32", np.float32),
    onnx.TensorProto.FLOAT16: ("F16", np.float16),
    onnx.TensorProto.BFLOAT16: ("BF16", np.uint16),
}
_PRODUCTS = {
    "MatMul",
    "MatMulNBits",
    "Gemm",
    "FusedMatMul",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "Conv",
} | {
    "QLinearMatMul",
    "MatMulIntegerToFloat",
    "MatMulBnb4",
    "MatMulFpQ4",
    "DequantizeLinear",
    "QMoE",
    "MoE",
}
_REMEDY = "Export it anew as float32 or int4, or give what it was exported from"


@dataclass(frozen=True)
class OnnxTensors:
    """An exported graph in a folder, checked, its weights mapped where they lie in a file beside it."""

    folder: Path

    @cached_property
    def file(self) -> Path:
        """The graph. Raises ModelNotFound."""
        return graph_file(self.folder)

    @cached_property
    def graph(self) -> onnx.GraphProto:
        """The graph; raises ModelCorrupt or ModelUnsupported for one that no engine should load."""
        check(read_graph(self.file), self.file)  # believes nothing; what follows may
        return onnx.load(self.file, load_external_data=False).graph

    @cached_property
    def constants(self) -> Mapping[str, onnx.TensorProto]:
        """Initializers by name."""
        return {tensor.name: tensor for tensor in self.graph.initializer}

    @cached_property
    def tensors(self) -> Tensors:
        """All weights by name. Raises ModelUnsupported for those that are not known."""
        found: Tensors = {}
        for node in self.graph.node:
            found.update(self._of(node))
            if node.op_type in _NORMS:
                found.update(self._norm(node))
        return found

    @property
    def tied(self) -> bool:
        """Whether the embedding is the head's matrix."""
        return "model.embed_tokens.weight" not in self.tensors

    def values(self, name: str) -> NDArray[Any]:
        """An initializer's numbers, mapped where it is in a file of its own."""
        tensor = self.constants[name]
        kind = _KINDS.get(tensor.data_type)
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            whole = onnx.numpy_helper.to_array(tensor)
            return whole.view(np.uint16) if kind is not None and kind[0] == "BF16" else whole
        where = {entry.key: entry.value for entry in tensor.external_data}
        dtype = kind[1] if kind else onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        shape, offset = tuple(tensor.dims), int(where.get("offset", 0))
        return np.memmap(self.folder / where["location"], dtype, "r", offset, shape)

    def _of(self, node: onnx.NodeProto) -> Iterator[tuple[str, StoredMatrix | PackedMatrix]]:
        weights = [name for name in node.input if name in self.constants]
        if (known := _MATRIX.fullmatch(node.name)) and weights:
            yield f"{_module(known)}.weight", self._matrix(node)
        elif (known := _BIAS.fullmatch(node.name)) and weights:
            yield f"{_module(known)}.bias", self._plain(weights[0])
        elif _HEAD.fullmatch(node.name):
            yield "lm_head.weight", self._matrix(node)
        elif _EMBED.fullmatch(node.name):
            if node.input[0] in self.constants and node.op_type == "Gather":
                yield "model.embed_tokens.weight", self._plain(node.input[0])
            else:
                self._refuse_unless_head(node)
        elif node.op_type in _PRODUCTS and any(len(self.constants[name].dims) > 1 for name in weights):
            raise _unknown(node, "its name says not which weights it has")

    def _norm(self, node: onnx.NodeProto) -> Iterator[tuple[str, StoredMatrix]]:
        """What a norm multiplies by; equal ones are stored once, so that the operation's name goes first."""
        for name in node.input:
            if name in self.constants and len(self.constants[name].dims) == 1:
                ours = _norm_name(_dotted(node.name)) or _norm_name(name.removesuffix(".weight"))
                if ours is not None:
                    yield ours, self._plain(name)

    def _matrix(self, node: onnx.NodeProto) -> StoredMatrix | PackedMatrix:
        if node.op_type == "MatMulNBits":
            return self._packed(node)
        name = node.input[1]
        transposed = self._transposed.get(name)
        if node.op_type != "MatMul" or (name not in self.constants and transposed is None):
            raise _unknown(node, "its weights are not in the graph as they are")
        stored = self._plain(transposed or name)
        return stored if transposed else StoredMatrix(stored.raw.T, stored.kind)

    @cached_property
    def _transposed(self) -> Mapping[str, str]:
        """What is an initializer turned round, by its name."""
        return {
            node.output[0]: node.input[0]
            for node in self.graph.node
            if node.op_type == "Transpose" and node.input[0] in self.constants
        }

    def _refuse_unless_head(self, node: onnx.NodeProto) -> None:
        """An embedding without weights of its own must read those of the head."""
        turned = {n.output[0]: n.input[0] for n in self.graph.node if n.op_type in ("Transpose", "Reshape")}
        name = turned.get(node.input[0], node.input[0])
        heads = [n for n in self.graph.node if _HEAD.fullmatch(n.name)]
        if not any(name in head.input for head in heads):
            raise _unknown(node, "its weights are not those of the head, nor plain ones")

    def _plain(self, name: str) -> StoredMatrix:
        kind = _KINDS.get(self.constants[name].data_type)
        if kind is None:
            raise ModelUnsupported(
                f"The weights {name} cannot be read", why="They are no plain numbers", remedy=_REMEDY
            )
        return StoredMatrix(self.values(name), kind[0])

    def _packed(self, node: onnx.NodeProto) -> PackedMatrix:
        """MatMulNBits: codes along the inputs, the first in the low bits; zero points along the groups."""
        said = {attribute.name: attribute.i for attribute in node.attribute}
        rows, columns, bits = said["N"], said["K"], said.get("bits", 4)
        extra = [name for name in node.input[4:5] if name]
        if extra or bits not in (2, 4, 8):
            raise _unknown(node, "its columns are in another order" if extra else f"it has {bits} bits")
        scales = self.values(node.input[2]).reshape(rows, -1)
        zeros = node.input[3] if len(node.input) > 3 else ""
        if zeros and self.constants[zeros].data_type != onnx.TensorProto.UINT8:
            raise _unknown(node, "its zero points are no whole numbers")
        kind = _KINDS[self.constants[node.input[2]].data_type][0]
        return PackedMatrix(
            shape=(rows, columns),
            codes=_words(self.values(node.input[1]).reshape(rows, -1), bits),
            scales=StoredMatrix(scales, kind),
            zeros=_words(self.values(zeros).reshape(rows, -1), bits) if zeros else None,
            shift=0,
            groups=np.arange(columns) // said["block_size"],
        ).named()


def _words(raw: NDArray[Any], bits: int) -> Words:
    """Bytes of rows as words, filled up to whole ones."""
    gap = -raw.shape[1] % 4
    padded = np.pad(raw, ((0, 0), (0, gap))) if gap else raw
    places = tuple(range(32 // bits))
    return Words(raw=padded.view("<i4"), bits=bits, along="inputs", places=places)


def _dotted(node: str) -> str:
    """The module that an operation belongs to."""
    return node.rpartition("/")[0].strip("/").replace("/", ".")


def _norm_name(module: str) -> str | None:
    """The name of a norm's weights in a Hugging Face folder; None for what is no norm."""
    known = _NORM.fullmatch(module.removesuffix(".layernorm"))
    if known is None:
        return None
    layer, kind = known[1], known[2]
    if kind in ("norm", "final_norm_layernorm"):
        return "model.norm.weight"
    inner = "self_attn." if kind in ("q_norm", "k_norm") else ""
    return f"model.layers.{layer}.{inner}{kind}.weight"


def _module(known: re.Match[str]) -> str:
    number, block, projection = known.group(1, 2, 3)
    return f"model.layers.{number}.{'mlp' if block == 'mlp' else 'self_attn'}.{projection}"


def _unknown(node: onnx.NodeProto, why: str) -> ModelUnsupported:
    return ModelUnsupported(
        f"The weights of the operation {node.name or node.op_type!r} cannot be read", why=why, remedy=_REMEDY
    )
