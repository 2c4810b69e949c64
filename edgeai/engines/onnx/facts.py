"""What a graph that nobody packed is, told from its files without loading it: whoever exported it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeai.engines.onnx.folder import read_folder
from edgeai.engines.onnx.proto import Graph, Tensor, read_graph
from edgeai.engines.onnx.vetting import check
from edgeai.errors import ModelUnsupported

__all__ = [
    "DEFAULT_CONTEXT",
    "GraphFacts",
    "count_parameters",
    "describe",
    "graph_file",
    "quantization_of",
]

_MODEL: Final = "model.onnx"
DEFAULT_CONTEXT: Final = 2048
"""Tokens, for packages that say nothing about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """``path`` is the graph's file, ``name`` one for people; ``context`` in tokens."""

    path: Path
    name: str
    parameters: int
    context: int


def describe(path: Path) -> GraphFacts:
    """The facts of a graph, or of the folder it is in; its files are checked.

    Raises ModelNotFound, ModelCorrupt and ModelUnsupported, in milliseconds.
    """
    file = graph_file(path)
    graph = read_graph(file)
    check(graph, file)
    name = file.parent.resolve().name if file.stem == "model" else file.stem
    return GraphFacts(
        path=file,
        name=f"{name}@onnx-{quantization_of(graph)}",
        parameters=count_parameters(graph),
        context=read_folder(file.parent).context or DEFAULT_CONTEXT,
    )


def graph_file(path: Path) -> Path:
    """The graph at ``path``: the file itself, or in a folder ``model.onnx`` or the only one there is."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.onnx"))
    if (path / _MODEL).is_file() or not found:
        return path / _MODEL
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ModelUnsupported(
            f"{path} holds several graphs", why=names, remedy="Give the path of one of them"
        )
    return found[0]


def count_parameters(graph: Graph) -> int:
    """How many weights the graph has, as well as it can be told: packed ones by what they stand for."""
    packed = {
        node.inputs[1]: node.numbers["N"] * node.numbers["K"]
        for node in graph.nodes
        if node.op == "MatMulNBits"
    }
    own: dict[object, int] = {}
    for tensor in graph.tensors.values():
        own[_place(tensor)] = packed.get(tensor.name, tensor.count if len(tensor.dims) > 1 else 0)
    return sum(own.values())


def _place(tensor: Tensor) -> object:
    """What tells tensors apart that share their data."""
    return (tensor.external["location"], tensor.external.get("offset")) if tensor.external else tensor.name


def quantization_of(graph: Graph) -> str:
    """The format of most weights, such as ``int4`` or ``f16``."""
    sizes: dict[str, int] = {}
    packed = {n.inputs[1]: n.numbers.get("bits", 4) for n in graph.nodes if n.op == "MatMulNBits"}
    names = {1: "f32", 10: "f16", 16: "bf16", 3: "int8", 2: "int8"}
    for tensor in graph.tensors.values():
        label = f"int{packed[tensor.name]}" if tensor.name in packed else names.get(tensor.data_type, "mixed")
        sizes[label] = sizes.get(label, 0) + tensor.count
    return max(sizes, key=lambda label: sizes[label], default="unknown")
