"""Graphs of a fixed shape as NPUs want them: whole numbers everywhere, found on text, by Q and DQ nodes.

"a16w8": activations in 16 bits, weights in 8 by output channel. "a8w8": what goes into a multiplication by
weights is in 8 bits, after its loud channels have been made quieter and the weights louder (SmoothQuant, Xiao
et al. 2023); sums, norms and the softmax stay in 16, as with 8 nothing is left of them.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeai.converters.formats import NpuQuant
from edgeai.engines import DevicePlan
from edgeai.engines.onnx.session import Session, Stop, value
from edgeai.errors import MissingExtra

__all__ = ["Feed", "quantize", "run"]

Feed = Mapping[str, NDArray[Any]]

_SHARED = 0.5
"""How much of a loud channel's range goes over to the weights: half, as its authors found best."""


def quantize(source: Path, target: Path, quant: NpuQuant, feeds: Sequence[Feed]) -> None:
    """Write the float graph ``source`` in whole numbers; ``feeds`` are inputs like those that will come.

    Raises MissingExtra without ONNX Runtime's quantizer.
    """
    try:
        from onnxruntime import quantization as native
        from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
    except ImportError as error:
        raise MissingExtra("ONNX Runtime is not installed", extra="onnx", why=str(error)) from error
    with tempfile.TemporaryDirectory(prefix="edgeai-npu-") as folder, _quiet():
        ready = Path(folder) / "ready.onnx"
        model = onnx.load(source)
        if quant == "a8w8":
            _smooth(model.graph, source, feeds)
        onnx.save(onnx.shape_inference.infer_shapes(model), ready)
        settings = get_qnn_qdq_config(
            ready,
            _Reader(feeds),
            activation_type=native.QuantType.QUInt16,
            weight_type=native.QuantType.QUInt8,
            init_overrides=_overrides(model.graph, native.QuantType, quant),
        )
        native.quantize(ready, target, settings)


def run(graph: Path, feeds: Iterable[Feed], names: Sequence[str]) -> Iterator[list[NDArray[Any]]]:
    """What the graph gives on the CPU, by the outputs' names, for each feed."""
    session = Session(graph, DevicePlan(n_ctx=1, n_threads=1, prepack=True))
    stop = Stop()
    for feed in feeds:
        binding = session.new_binding()
        for name in session.inputs:
            binding.input(name, value(np.ascontiguousarray(feed[name])))
        for name in names:
            binding.new_output(name)
        binding.run(stop, partly=True)
        yield [np.array(found.numpy()) for found in binding.outputs()]


def _overrides(graph: onnx.GraphProto, kinds: Any, quant: NpuQuant) -> dict[str, list[dict[str, Any]]]:  # noqa: ANN401
    """What is not as the rest: weights by channel, and with a8w8 what they are multiplied with."""
    constants = {tensor.name for tensor in graph.initializer}
    found: dict[str, list[dict[str, Any]]] = {}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            found[node.input[1]] = [{"quant_type": kinds.QInt8, "axis": 1, "symmetric": True}]
            readers.setdefault(node.input[0], set()).add(node.name)
        else:  # tables, gammas and biases are small beside what their few bits would cost
            floats = (name for name in node.input if name in constants)
            found.update({name: [{"quant_type": kinds.QUInt16}] for name in floats if name not in found})
    whole = {tensor.name for tensor in graph.initializer if tensor.data_type != onnx.TensorProto.FLOAT}
    if quant == "a8w8":
        for name, nodes in readers.items():
            found[name] = [
                {
                    "quant_type": kinds.QUInt16,
                    "convert": {"quant_type": kinds.QUInt8, "recv_nodes": nodes},
                }
            ]
    return {name: rows for name, rows in found.items() if name not in whole}


def _smooth(graph: onnx.GraphProto, path: Path, feeds: Sequence[Feed]) -> None:
    """Divide what goes into weights by its channels' loudness, and multiply the weights' rows by it."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            readers.setdefault(node.input[0], []).append(node)
    loudness = _loudness(graph, path, feeds, list(readers))
    for name, nodes in readers.items():
        weights = {node.input[1]: numpy_helper.to_array(tensors[node.input[1]]) for node in nodes}
        heaviest = np.max([np.abs(weight).max(axis=1) for weight in weights.values()], axis=0)
        scale = np.maximum(loudness[name], 1e-5) ** _SHARED / np.maximum(heaviest, 1e-5) ** (1 - _SHARED)
        for key, weight in weights.items():
            tensors[key].CopyFrom(numpy_helper.from_array((weight * scale[:, None]).astype(np.float32), key))
        graph.initializer.append(numpy_helper.from_array((1 / scale).astype(np.float32), f"{name}.calm"))
        calmed = helper.make_node("Mul", [name, f"{name}.calm"], [f"{name}.calmed"], name=f"{name}.calming")
        first = min(i for i, node in enumerate(graph.node) if node in nodes)
        graph.node.insert(first, calmed)
        for node in nodes:
            node.input[0] = f"{name}.calmed"


def _loudness(
    graph: onnx.GraphProto, path: Path, feeds: Sequence[Feed], names: list[str]
) -> dict[str, NDArray[np.float32]]:
    """The largest number of each channel (the last axis) of the values with these names."""
    probe = onnx.load(path)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    found: dict[str, NDArray[np.float32]] = {}
    with tempfile.TemporaryDirectory(prefix="edgeai-npu-") as folder:
        onnx.save(probe, Path(folder) / "probe.onnx")
        for outputs in run(Path(folder) / "probe.onnx", feeds, names):
            for name, out in zip(names, outputs, strict=True):
                loud = np.abs(out).reshape(-1, out.shape[-1]).max(axis=0)
                found[name] = np.maximum(found.get(name, loud), loud)
    return found


class _Reader:
    """What ONNX Runtime's quantizer asks for feeds: `get_next` until None."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[Feed]:
        return self._feeds

    def __next__(self) -> Feed:
        return next(self._feeds)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer logs advice on the root logger, which that would also set up."""
    root = logging.getLogger()
    silent = logging.NullHandler()
    root.addHandler(silent)
    before = root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(silent)
