"""What a graph that nobody packed is, told from its files without loading it: whoever exported it."""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from edgeai.engines.onnx.folder import TOKENIZER, read_folder
from edgeai.engines.onnx.proto import Graph, Tensor, read_graph
from edgeai.engines.onnx.vetting import check, weights_size
from edgeai.errors import ModelUnsupported
from edgeai.models.disk import remembered_sha256
from edgeai.models.package import Manifest, PackageFile
from edgeai.models.shelf import InstalledModel

__all__ = [
    "DEFAULT_CONTEXT",
    "PAST",
    "Needs",
    "count_parameters",
    "describe",
    "graph_file",
    "measure",
    "quantization_of",
]

_MODEL: Final = "model.onnx"
DEFAULT_CONTEXT: Final = 2048
"""Tokens, for packages that say nothing about it."""

PAST: Final = re.compile(r"past\D*(\d+)\D*\b(key|value)\b|past_(key|value)\D*(\d+)$")
"""The names of inputs for past keys and values, by the exporters that are known."""
_HALF: Final = 10
_VALUE_BYTES: Final = {1: 4, 10: 2, 16: 2, 2: 1, 3: 1}
"""Bytes of one key or value, by ONNX's data type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What of a graph takes memory; ``weights`` and ``kv_value_bytes`` in bytes.

    Of the weights ``halves`` are floats of 16 bits: where a processor has no kernels for those, ONNX Runtime
    makes floats of 32 bits of them when it loads.
    """

    weights: int
    halves: int
    n_vocab: int
    n_embd: int
    kv_values_per_token: int
    kv_value_bytes: int


def measure(path: Path) -> Needs:
    """What the graph at ``path`` will need memory for; it is not loaded.

    Raises ModelNotFound and ModelCorrupt.
    """
    file = graph_file(path)
    graph, folder = read_graph(file), read_folder(file.parent)
    pasts = [graph.shapes[name] for name in graph.inputs if PAST.match(name)]
    heads_and_widths = [
        (dims[1] or folder.n_kv_heads or 0) * (dims[3] or folder.head_dim or 0)
        for _, dims in pasts
        if len(dims) == 4
    ]
    matrices = [tensor.dims for tensor in graph.tensors.values() if len(tensor.dims) > 1]
    hidden = [dims[-1] or 0 for name, (_, dims) in graph.shapes.items() if "hidden" in name and dims]
    logits = graph.shapes.get("logits", (0, ()))[1]
    return Needs(
        weights=weights_size(graph),
        halves=weights_size(graph, _HALF),
        n_vocab=(logits[-1] if logits else None) or max((dims[0] for dims in matrices), default=0),
        n_embd=folder.n_embd or max(hidden, default=0),
        kv_values_per_token=sum(heads_and_widths),
        kv_value_bytes=_VALUE_BYTES.get(pasts[0][0], 4) if pasts else 4,
    )


def describe(path: Path) -> InstalledModel:
    """A graph, or the one in this folder, as the package that it would be; its files are checked and hashed.

    Raises ModelNotFound, ModelCorrupt and ModelUnsupported.
    """
    file = graph_file(path)
    graph = read_graph(file)
    check(graph, file)
    folder, quantization = read_folder(file.parent), quantization_of(graph)
    name = file.parent.resolve().name if file.stem == "model" else file.stem
    outside = {tensor.external["location"] for tensor in graph.tensors.values() if tensor.external}
    template = folder.chat_template
    manifest = Manifest(
        id=f"{name}@onnx-{quantization}",
        engine="onnx",
        quantization=quantization,
        parameters=count_parameters(graph),
        context=folder.context or DEFAULT_CONTEXT,
        template_sha256=None if template is None else sha256(template.encode()).hexdigest(),
        licence=None,
        files=tuple(_file(file.parent, part) for part in (file.name, *sorted(outside), TOKENIZER)),
        provenance={"kind": "file", "file": file.name},
    )
    return InstalledModel(path=file, folder=None, manifest=manifest, trusted=False)


def _file(folder: Path, name: str) -> PackageFile:
    path = folder / name
    return PackageFile(path=name, sha256=remembered_sha256(path), size=path.stat().st_size)


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
