"""Checks of an ONNX model before native code sees it: a hostile or broken file must not reach its kernels."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from edgeai.engines.onnx.proto import Graph, Node, Tensor
from edgeai.errors import ModelCorrupt, ModelUnsupported

__all__ = ["check", "weights_size"]

_BITS: Final[Mapping[int, int]] = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
"""Bits of an element by ONNX's data type; strings (8) have none."""

_DOMAINS: Final = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
_MAX_RANK: Final = 16


def check(graph: Graph, path: Path) -> None:
    """Raise ModelCorrupt or ModelUnsupported for what would harm or fail later."""
    for node in graph.nodes:
        if node.domain not in _DOMAINS | graph.functions:
            raise ModelUnsupported(
                f"{path.name} needs the operator {node.domain}.{node.op}",
                why="it is not one of ONNX Runtime's own",
                remedy="Export the model again without custom operators",
            )
    folder = path.parent.resolve()
    sizes: dict[str, int] = {}
    for tensor in graph.tensors.values():
        _check_tensor(tensor, folder, sizes)
    for node in graph.nodes:
        if node.op == "MatMulNBits":
            _check_packed(node, graph.tensors)


def weights_size(graph: Graph, data_type: int | None = None) -> int:
    """Bytes of all initializers, or of those of one type; what several of them share counts once."""
    places = {
        (tensor.external.get("location", name), tensor.external.get("offset")): _bytes(tensor) or 0
        for name, tensor in graph.tensors.items()
        if data_type in (None, tensor.data_type)
    }
    return sum(places.values())


def _bytes(tensor: Tensor) -> int | None:
    bits = _BITS.get(tensor.data_type)
    return None if bits is None else (tensor.count * bits + 7) // 8


def _check_tensor(tensor: Tensor, folder: Path, sizes: dict[str, int]) -> None:
    expected = _bytes(tensor)
    if len(tensor.dims) > _MAX_RANK:
        raise _corrupt(tensor, f"it has {len(tensor.dims)} dimensions")
    if tensor.external:
        if expected is None:
            raise _corrupt(tensor, "its data type cannot be kept outside")
        _check_external(tensor, expected, folder, sizes)
    elif tensor.size is not None and expected is not None and tensor.size != expected:
        raise _corrupt(tensor, f"its data has {tensor.size} bytes, its shape needs {expected}")


def _check_external(tensor: Tensor, expected: int, folder: Path, sizes: dict[str, int]) -> None:
    location = tensor.external["location"]
    if location not in sizes:
        sizes[location] = _size_inside(tensor, location, folder)
    offset = _number(tensor, "offset", 0)
    length = _number(tensor, "length", expected)
    if length != expected:
        raise _corrupt(tensor, f"its data has {length} bytes, its shape needs {expected}")
    if offset + length > sizes[location]:
        raise _corrupt(tensor, f"its data would end at {offset + length}, {location} at {sizes[location]}")


def _size_inside(tensor: Tensor, location: str, folder: Path) -> int:
    """The size of a file of weights, which must be inside the model's folder, links resolved."""
    inside = PurePosixPath(location)
    strange = not inside.name or inside.is_absolute() or ".." in inside.parts or set(location) & set("\\:\0")
    target = folder if strange else (folder / location).resolve()
    if strange or not target.is_relative_to(folder):
        raise _corrupt(tensor, f"its data is in {location!r}, outside the model's folder")
    if not target.is_file():
        raise _corrupt(tensor, f"its data should be in {location}, which is not there")
    return target.stat().st_size


def _number(tensor: Tensor, key: str, default: int) -> int:
    text = tensor.external.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _corrupt(tensor, f"the {key} of its data is {text!r}")
    return int(text)


def _check_packed(node: Node, tensors: Mapping[str, Tensor]) -> None:
    """ONNX Runtime packs these weights by their attributes, and would read beyond a smaller tensor."""
    n, k = node.numbers.get("N", 0), node.numbers.get("K", 0)
    bits, block = node.numbers.get("bits", 4), node.numbers.get("block_size", 0)
    name = node.outputs[0] if node.outputs else ""
    if min(n, k) <= 0 or bits not in (2, 4, 8) or block < 16 or block & (block - 1):
        raise ModelCorrupt(f"The operation {name!r} has impossible attributes", remedy="Get the model again")
    blocks = -(-k // block)
    needed = (None, n * blocks * (block * bits // 8), n * blocks, n * -(-blocks * bits // 8))
    for source, least in zip(node.inputs, needed, strict=False):
        tensor = tensors.get(source)
        if tensor is not None and least is not None and tensor.count < least:
            raise _corrupt(tensor, f"it has {tensor.count} elements, {name!r} needs {least}")


def _corrupt(tensor: Tensor, why: str) -> ModelCorrupt:
    return ModelCorrupt(f"The tensor {tensor.name!r} is not sound", why=why, remedy="Get the model again")
