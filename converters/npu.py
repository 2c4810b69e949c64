"""Graphs of a fixed shape as NPUs want them: whole numbers everywhere, found on text, by Q and DQ nodes.

"a16w8": activations in 16 bits, weights in 8 by output channel. "a8w8": what goes into a multiplication by
weights is in 8 bits, after its loud channels have been made quieter and the weights louder (SmoothQuant, Xiao
et al. 2023); sums, norms and the softmax stay in 16, as with 8 nothing is left of them. So do inputs of which
8 bits would make too much noise: those that a few large numbers stretch, as behind a GELU.

Some of the feeds are written into the graph, for whoever tries it on a device: `SAMPLES` in its metadata.
"""

import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from edgeai.converters.formats import NpuQuant
from edgeai.converters.one_file import Large, write_model
from edgeai.engines import DevicePlan
from edgeai.engines.onnx.session import Session, Stop, value
from edgeai.errors import MissingExtra
from edgeai.models.package import SAMPLES

__all__ = ["Feed", "quantize", "run", "runs"]

Feed = Mapping[str, NDArray[Any]]

Weights = Mapping[str, NDArray[np.float32]]

_WEIGHT, _TABLE = ("MatMul", 1), ("Gather", 0)
_PART = 1 << 20  # weights at a time
_SMALLEST = 5e-5  # what a column is counted to reach at least, as the quantizer does it

_SAMPLED = 2
_MOST_NOISE = 0.05

_SHARED = 0.5
"""How much of a loud channel's range goes over to the weights: half, as its authors found best."""


def quantize(
    source: Path,
    target: Path,
    quant: NpuQuant,
    feeds: Sequence[Feed],
    step: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Write the float graph ``source`` in whole numbers; ``feeds`` are inputs like those that will come.

    Calls ``step`` after each of `runs`. Works in a folder beside the source, which is gone afterwards.
    Returns how many of the values that are multiplied with weights have 16 bits, and how many there are.

    Raises MissingExtra without ONNX Runtime's quantizer.
    """
    try:
        from onnxruntime import quantization as native
        from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
    except ImportError as error:
        raise MissingExtra("ONNX Runtime is not installed", extra="onnx", why=str(error)) from error
    work = tempfile.TemporaryDirectory(prefix=".npu.", dir=source.parent, ignore_cleanup_errors=True)
    with work as folder, _quiet():  # beside the source, so that it goes with it where files in use stay
        ready, rough = Path(folder) / "ready.onnx", Path(folder) / "rough.onnx"
        model = onnx.load(source, load_external_data=False)
        weights, tables = _set_apart(model.graph, source.parent)
        eight: set[str] = set()
        if quant == "a8w8":
            heard = _hear(model.graph, weights, source, feeds, step)
            louder, eight = _smooth(model.graph, weights, heard, folder)
            weights = {**weights, **louder}
        onnx.save(onnx.shape_inference.infer_shapes(model), ready)
        settings = get_qnn_qdq_config(
            ready,
            _Reader(({**feed, **weights, **tables} for feed in feeds), step),
            activation_type=native.QuantType.QUInt16,
            weight_type=native.QuantType.QUInt8,
            init_overrides=_overrides(model.graph, native.QuantType, weights, tables, eight),
        )
        native.quantize(ready, rough, settings)
        made = onnx.load(rough)
        samples = [{name: values.tolist() for name, values in feed.items()} for feed in feeds[:_SAMPLED]]
        made.metadata_props.add(key=SAMPLES, value=json.dumps(samples))
        _put_back(made, weights, tables, target)
        inputs = len(_readers(model.graph, weights))
    return inputs - len(eight), inputs


def runs(quant: NpuQuant, feeds: Sequence[Feed]) -> int:
    """How often `quantize` runs a graph."""
    return len(feeds) * (2 if quant == "a8w8" else 1)


def run(graph: Path, feeds: Iterable[Feed], names: Sequence[str]) -> Iterator[list[NDArray[Any]]]:
    """What the graph gives on the CPU, by the outputs' names, for each feed."""
    session = Session(graph, DevicePlan(n_ctx=1, n_threads=1, prepack=False))
    stop = Stop()
    for feed in feeds:
        binding = session.new_binding()
        for name in session.inputs:
            binding.input(name, value(np.ascontiguousarray(feed[name])))
        for name in names:
            binding.new_output(name)
        binding.run(stop, partly=True)
        yield [np.array(found.numpy()) for found in binding.outputs()]


def _set_apart(graph: onnx.GraphProto, folder: Path) -> tuple[Weights, Weights]:
    """Large weights and tables, which become inputs: the quantizer would hold each in several forms at once.

    Weights are what MatMul multiplies by (inputs, outputs), tables what Gather takes rows of. Both stay in
    the source's file, where they are in one.
    """
    readers: dict[str, set[tuple[str, int]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, set()).add((node.op_type, place))
    weights: dict[str, NDArray[np.float32]] = {}
    tables: dict[str, NDArray[np.float32]] = {}
    kept = []
    for tensor in graph.initializer:
        uses = readers.get(tensor.name, set())
        floats = tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
        if floats and uses in ({_WEIGHT}, {_TABLE}):
            (weights if uses == {_WEIGHT} else tables)[tensor.name] = _mapped(tensor, folder)
        else:
            kept.append(onnx.TensorProto())
            kept[-1].CopyFrom(tensor)
            if uses_external_data(tensor):
                load_external_data_for_tensor(kept[-1], str(folder))
                kept[-1].data_location = onnx.TensorProto.DEFAULT
                del kept[-1].external_data[:]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name, values in (weights | tables).items():
        graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, values.shape))
    return weights, tables


def _mapped(tensor: onnx.TensorProto, folder: Path) -> NDArray[np.float32]:
    if not uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    at = ExternalDataInfo(tensor)
    return np.memmap(folder / at.location, np.float32, "r", at.offset or 0, tuple(tensor.dims))


def _overrides(
    graph: onnx.GraphProto,
    kinds: Any,  # noqa: ANN401  # of an untyped library
    weights: Weights,
    tables: Weights,
    eight: Collection[str],
) -> dict[str, list[dict[str, Any]]]:
    """What is not as the rest: constants, rows of tables, and what weights are multiplied with in 8 bits."""
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    # Gammas and biases are small beside what their few bits would cost.
    found: dict[str, list[dict[str, Any]]] = {name: [{"quant_type": kinds.QUInt16}] for name in floats}
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in tables:  # any row may come, not the feeds' only
            scale, zero = _range(tables[node.input[0]])
            found[node.output[0]] = [{"quant_type": kinds.QUInt16, "scale": scale, "zero_point": zero}]
    for name, nodes in _readers(graph, weights).items():
        if name in eight:
            there = {"quant_type": kinds.QUInt8, "recv_nodes": {node.name for node in nodes}}
            found.setdefault(name, [{"quant_type": kinds.QUInt16}])[0]["convert"] = there
    return found


def _range(table: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """The scale and the zero point with which 16 bits hold each number of a table."""
    low = min(0.0, *(float(table[rows].min()) for rows in _parts(table)))
    high = max(0.0, *(float(table[rows].max()) for rows in _parts(table)))
    scale = max(high - low, 1e-4) / 65535
    return np.array(scale, np.float32), np.array(round(-low / scale), np.uint16)


def _readers(graph: onnx.GraphProto, weights: Weights) -> dict[str, list[onnx.NodeProto]]:
    """By what is multiplied with weights: the nodes that do it."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            found.setdefault(node.input[0], []).append(node)
    return found


@dataclass(slots=True)
class _Channels:
    """What was seen of each channel, the last axis, of a value: its ends, and its mean square."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: int

    @classmethod
    def of(cls, values: NDArray[Any]) -> Self:
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        return cls(rows.min(axis=0), rows.max(axis=0), (rows**2).sum(axis=0), len(rows))

    def join(self, other: "_Channels") -> None:
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.squares, self.count = self.squares + other.squares, self.count + other.count

    @property
    def loudest(self) -> NDArray[np.float64]:
        """The largest absolute value of each channel."""
        return np.maximum(-self.low, self.high)

    def noise(self, scale: NDArray[np.float32]) -> float:
        """What 8 bits add to the channels divided by ``scale``, as a share of their root mean square."""
        width = max(0.0, float((self.high / scale).max())) - min(0.0, float((self.low / scale).min()))
        size = math.sqrt(float((self.squares / scale**2).mean()) / self.count)
        return width / 255 / math.sqrt(12) / size if size else 0.0


def _smooth(
    graph: onnx.GraphProto, weights: Weights, heard: Mapping[str, _Channels], folder: str
) -> tuple[dict[str, NDArray[np.float32]], set[str]]:
    """Divide what goes into weights by its channels' loudness; the weights with their rows times it.

    And which of these values 8 bits hold well enough. Weights that several values are multiplied with stay.
    """
    louder: dict[str, NDArray[np.float32]] = {}
    eight = set()
    readers = _readers(graph, weights)
    uses = Counter(key for nodes in readers.values() for key in {node.input[1] for node in nodes})
    for name, nodes in readers.items():
        if any(uses[node.input[1]] > 1 for node in nodes):
            continue  # as in ALBERT: no one scale fits all that its weights are multiplied with
        heaviest = np.max([_loudest(weights[node.input[1]], axis=1) for node in nodes], axis=0)
        loudness = np.maximum(heard[name].loudest, 1e-5)
        scale = (loudness**_SHARED / np.maximum(heaviest, 1e-5) ** (1 - _SHARED)).astype(np.float32)
        if heard[name].noise(scale) <= _MOST_NOISE:
            eight.add(f"{name}.calmed")
        for key in {node.input[1]: None for node in nodes}:
            file = Path(folder) / f"{len(louder)}.f32"
            louder[key] = np.memmap(file, np.float32, "w+", shape=weights[key].shape)
            for rows in _parts(weights[key]):
                louder[key][rows] = weights[key][rows] * scale[rows, None]
        graph.initializer.append(numpy_helper.from_array(1 / scale, f"{name}.calm"))
        calmed = helper.make_node("Mul", [name, f"{name}.calm"], [f"{name}.calmed"], name=f"{name}.calming")
        first = min(i for i, node in enumerate(graph.node) if node in nodes)
        graph.node.insert(first, calmed)
        for node in nodes:
            node.input[0] = f"{name}.calmed"
    return louder, eight


def _hear(
    graph: onnx.GraphProto, weights: Weights, path: Path, feeds: Sequence[Feed], step: Callable[[], None]
) -> dict[str, _Channels]:
    """What the values are like that weights are multiplied with."""
    names = list(_readers(graph, weights))
    probe = onnx.load(path, load_external_data=False)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    found: dict[str, _Channels] = {}
    file = path.with_name(f"{path.stem}.probe.onnx")  # beside the file of its weights
    onnx.save(probe, file)
    try:
        for outputs in run(file, feeds, names):
            for name, out in zip(names, outputs, strict=True):
                channels = _Channels.of(out)
                found.setdefault(name, channels)
                if found[name] is not channels:
                    found[name].join(channels)
            step()
    finally:
        file.unlink()
    return found


def _put_back(model: onnx.ModelProto, weights: Weights, tables: Weights, target: Path) -> None:
    """Write the quantized graph with the weights in it: by column in 8 bits, and the tables in 16."""
    graph = model.graph
    large: dict[str, Large] = {}
    nodes: list[onnx.NodeProto] = []
    rounded = {node.output[0]: node.input[0] for node in graph.node if node.input[0] in weights}
    makers = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for node in graph.node:
        if node.input[0] in weights:
            continue
        if node.input[0] in rounded:
            name = rounded[node.input[0]]
            scale = (np.maximum(_loudest(weights[name], axis=0), _SMALLEST) / 127).astype(np.float32)
            large[f"{name}.whole"] = _rounded(weights[name], scale, np.zeros(scale.shape, np.int8))
            node.input[:] = [f"{name}.whole", f"{name}.scale", f"{name}.zero"]
            node.attribute.append(helper.make_attribute("axis", 1))
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}.zero"))
        elif node.input[0] in tables:
            name, maker = node.input[0], makers[node.output[0]]
            large[f"{name}.whole"] = _rounded(tables[name], *_range(tables[name]))
            whole = [f"{name}.whole", *maker.input[1:]]
            label, domain = f"{name}.floats", maker.domain
            nodes.append(
                helper.make_node("DequantizeLinear", whole, [label], name=f"/{label}", domain=domain)
            )
            node.input[0] = label
        nodes.append(node)
    kept = [port for port in graph.input if port.name not in {*weights, *tables}]
    for field, rows in ((graph.node, nodes), (graph.input, kept)):
        copies = [type(row).FromString(row.SerializeToString()) for row in rows]
        del field[:]
        field.extend(copies)
    write_model(target, model, large)


def _rounded(values: NDArray[np.float32], scale: NDArray[np.float32], zero: NDArray[Any]) -> Large:
    ends = np.iinfo(zero.dtype)

    def parts() -> Iterator[NDArray[Any]]:
        for rows in _parts(values):
            whole = np.rint(values[rows] / scale) + zero
            yield np.clip(whole, ends.min, ends.max).astype(zero.dtype)

    return Large(shape=values.shape, dtype=zero.dtype, parts=parts())


def _loudest(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The largest absolute values along an axis of a matrix."""
    found = [np.abs(values[rows]).max(axis=axis) for rows in _parts(values)]
    return np.concatenate(found) if axis else np.max(found, axis=0)


def _parts(values: NDArray[np.float32]) -> Iterator[slice]:
    """All rows, so many at a time as fit well into memory."""
    step = max(1, _PART // values.shape[1])
    for start in range(0, len(values), step):
        yield slice(start, start + step)


class _Reader:
    """What ONNX Runtime's quantizer asks for feeds: `get_next` until None."""

    def __init__(self, feeds: Iterable[Feed], step: Callable[[], None]) -> None:
        self._feeds, self._step, self._begun = iter(feeds), step, False

    def get_next(self) -> Feed | None:
        if self._begun:  # who asks for another one has run the last
            self._step()
        found = next(self._feeds, None)
        self._begun = found is not None
        return found

    def __iter__(self) -> Iterator[Feed]:
        return iter(self.get_next, None)

    def __next__(self) -> Feed:
        if (found := self.get_next()) is None:
            raise StopIteration
        return found


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
