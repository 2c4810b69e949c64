"""An exported encoder of one length made plain for NPUs: constants folded, a mask that whole numbers hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["MASKED", "simplify"]

MASKED = -100.0
"""Added to the score of what is not to be seen: e^-100 is nothing, and it leaves bits to the others."""

_OPSET = 21
_FOLDED = {"Gather", "Cast", "Unsqueeze", "Reshape", "Concat", "Sub", "Add", "Mul"}

Constants = dict[str, NDArray[Any]]


def simplify(path: Path, target: Path) -> None:
    """Write the graph with inputs ``input_ids`` and ``attention_mask`` in 32 bits, for one text.

    Token types are those of a first text; GELU is one operator, which NPUs have.
    """
    model = onnx.load(path)
    graph = model.graph
    constants: Constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for port in list(graph.input):
        shape = [dim.dim_value for dim in port.type.tensor_type.shape.dim]
        if port.name == "token_type_ids":
            graph.input.remove(port)
            constants[port.name] = np.zeros(shape, np.int32)
        port.type.tensor_type.elem_type = TensorProto.INT32
    nodes = list(_joined(list(_unfolded(graph, constants))))
    used = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items() if name in used
    )
    model.ir_version = 10
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", _OPSET))
    onnx.save(model, target)


def _unfolded(graph: onnx.GraphProto, constants: Constants) -> Iterator[onnx.NodeProto]:
    """The nodes that depend on the inputs; what the others give goes to the constants."""
    from onnx.reference import ReferenceEvaluator

    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _bounded(numpy_helper.to_array(node.attribute[0].t))
        elif node.op_type in _FOLDED and all(name in constants for name in node.input):
            evaluator = ReferenceEvaluator(node)
            found: Any = evaluator.run(None, {name: constants[name] for name in node.input})
            constants[node.output[0]] = np.asarray(found[0])
        else:
            yield node


def _bounded(array: NDArray[Any]) -> NDArray[Any]:
    """The lowest float there is stands for "not seen"."""
    if array.dtype == np.float32 and array.size and (array < -1e30).any():
        return np.where(array < -1e30, np.float32(MASKED), array)
    return array


def _joined(nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """With x / √2, erf, + 1, × x and × ½ as one GELU."""
    makers = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    gone: set[str] = set()
    made: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        if node.op_type != "Erf":
            continue
        chain = [node]
        while len(chain) < 4 and len(readers.get(chain[-1].output[0], ())) == 1:
            chain.append(readers[chain[-1].output[0]][0])
        before = makers.get(node.input[0])
        kinds = [part.op_type for part in chain[1:]]
        if before is not None and before.op_type in ("Div", "Mul") and kinds == ["Add", "Mul", "Mul"]:
            gone |= {part.name for part in (before, *chain)}
            last = chain[-1]
            made[last.name] = helper.make_node("Gelu", before.input[:1], last.output, name=last.name)
    for node in nodes:
        if node.name in made:
            yield made[node.name]
        elif node.name not in gone:
            yield node
