"""A small text encoder, written for NPUs: fixed shapes, and plain nodes that quantize and dequantize."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

N, H, F = 16, 32, 64  # tokens, hidden and feed-forward size


def float_encoder(path: Path, *, extra: Sequence[str] = ()) -> Path:
    """One layer: attention, feed-forward, mean. ``extra``: operators after it, each of one input."""
    random = np.random.default_rng(7)
    weights: dict[str, Any] = {
        name: (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in {"q": (H, H), "k": (H, H), "v": (H, H), "up": (H, F), "down": (F, H)}.items()
    }
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["query"], name="query"),
        helper.make_node("MatMul", ["x", "k"], ["key"], name="key"),
        helper.make_node("MatMul", ["x", "v"], ["value"], name="value"),
        helper.make_node("Transpose", ["key"], ["turned"], name="turned", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["query", "turned"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["shares"], name="shares", axis=-1),
        helper.make_node("MatMul", ["shares", "value"], ["seen"], name="seen"),
        helper.make_node("Add", ["x", "seen"], ["attended"], name="attended"),
        helper.make_node("MatMul", ["attended", "up"], ["wide"], name="wide"),
        helper.make_node("Relu", ["wide"], ["kept"], name="kept"),
        helper.make_node("MatMul", ["kept", "down"], ["narrow"], name="narrow"),
        helper.make_node("Add", ["attended", "narrow"], ["y"], name="last"),
    ]
    last = "y"
    for number, operator in enumerate(extra):
        nodes.append(helper.make_node(operator, [last], [f"extra{number}"], name=f"extra{number}"))
        last = f"extra{number}"
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, N, H])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [1, N, H])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def npu_encoder(folder: Path) -> Path:
    """The encoder with 16-bit activations and 8-bit weights, as QNN wants it."""
    return quantize(float_encoder(folder / "npu.onnx"), _Texts())


def quantize(path: Path, texts: Any) -> Path:  # noqa: ANN401  # a reader as ONNX Runtime wants it
    """Put a graph with 16-bit activations and 8-bit weights in the place of this one."""
    from onnxruntime import quantization
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    source = path.rename(path.with_suffix(".float"))
    settings = get_qnn_qdq_config(
        source,
        texts,
        activation_type=quantization.QuantType.QUInt16,
        weight_type=quantization.QuantType.QUInt8,
    )
    quantization.quantize(source, path, settings)
    source.unlink()
    return path


class _Texts:
    """What the ranges of the activations are found with; ONNX Runtime calls `get_next` until None."""

    def __init__(self) -> None:
        self._feeds = _feeds()

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._feeds

    def __next__(self) -> dict[str, Any]:
        return next(self._feeds)


def _feeds() -> Iterator[dict[str, Any]]:
    for seed in range(8):
        yield {"x": np.random.default_rng(100 + seed).standard_normal((1, N, H)).astype(np.float32)}
