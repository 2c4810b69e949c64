"""An ONNX model in one file, whose large initializers are written as they are made."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["MOST_BYTES", "Large", "write_model"]

MOST_BYTES: Final = (1 << 31) - 1
"""Protocol buffers are no larger, so that a file of a model is not, either."""

_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9  # numbers of fields, in onnx.proto
_BYTES: Final = 2  # the kind of a field that has a length


@dataclass(frozen=True, slots=True, kw_only=True)
class Large:
    """An initializer that is never whole in memory: ``parts`` are its rows, some at a time."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: Iterable[NDArray[Any]]

    @property
    def n_bytes(self) -> int:
        """Of its numbers."""
        return prod(self.shape) * self.dtype.itemsize


def write_model(target: Path, model: onnx.ModelProto, large: Mapping[str, Large]) -> None:
    """Write the model with these initializers, too; the same bytes each time. Raises OSError."""
    heads = {name: _tensor_head(name, tensor) for name, tensor in large.items()}
    sizes = {name: len(heads[name]) + tensor.n_bytes for name, tensor in large.items()}
    graph = model.graph.SerializeToString(deterministic=True)
    length = len(graph) + sum(len(_field(_GRAPH_INITIALIZER, size)) + size for size in sizes.values())
    with target.open("wb") as file:
        file.write(_without_graph(model).SerializeToString(deterministic=True))
        file.write(_field(_MODEL_GRAPH, length))
        file.write(graph)
        for name, tensor in large.items():
            file.write(_field(_GRAPH_INITIALIZER, sizes[name]))
            file.write(heads[name])
            _write_parts(file, name, tensor)


def _tensor_head(name: str, tensor: Large) -> bytes:
    kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
    proto = onnx.TensorProto(name=name, data_type=kind, dims=tensor.shape)
    head: bytes = proto.SerializeToString(deterministic=True)
    return head + _field(_TENSOR_RAW_DATA, tensor.n_bytes)


def _write_parts(file: BinaryIO, name: str, tensor: Large) -> None:
    start = file.tell()
    for part in tensor.parts:
        np.ascontiguousarray(part, tensor.dtype).tofile(file)
    if file.tell() - start != tensor.n_bytes:
        raise ValueError(f"{name} has {file.tell() - start} bytes, not {tensor.n_bytes}")


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    rest = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    rest.producer_version = model.producer_version
    rest.opset_import.extend(model.opset_import)
    rest.functions.extend(model.functions)
    rest.metadata_props.extend(model.metadata_props)
    return rest


def _field(number: int, length: int) -> bytes:
    """The start of a field that has a length (protobuf.dev, "Encoding")."""
    return bytes(_varint(number << 3 | _BYTES)) + bytes(_varint(length))


def _varint(number: int) -> list[int]:
    found = []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return [*found, number]
